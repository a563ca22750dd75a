# Copyright 2026 monai_dpmm_ad contributors. Licensed under the Apache License, Version 2.0.
"""The one-class SVM that judges new latents."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from monai_dpmm_ad.detectors.base import resize_buffers
from monai_dpmm_ad.detectors.ogae.kernels import Gamma, compute_kernel, resolve_gamma, standardize
from monai_dpmm_ad.detectors.ogae.ocsvm import solve_ocsvm
from monai_dpmm_ad.ops.distances import CHUNK_SIZE, split_rows, squared_distances

__all__ = ["LatentSVM"]

_BUFFERS = ("support", "alpha", "shift", "scale", "rho", "gamma", "peak")


class LatentSVM(nn.Module):
    """A one-class SVM on standardised latents, whose score is a non-negative, increasing function of −f.

    With g(z) = Σ_i α_i k(z_i, z), so that f = g − ρ, the score is ``log(peak / g)``, cut off at 0. For the rbf kernel
    g ≤ 1 = peak, nothing is cut off, and far latents keep apart where −f itself would round to ρ. For the linear
    kernel the peak is the largest g of the latents that were fitted.

    Args:
        latent_dim: d.
        kernel: ``rbf`` or ``linear``.
        gamma: ``scale``, ``auto`` or a number.
        nu: ν in (0, 1].
    """

    support: Tensor
    alpha: Tensor
    shift: Tensor
    scale: Tensor
    rho: Tensor
    gamma: Tensor
    peak: Tensor

    def __init__(self, latent_dim: int, kernel: str = "rbf", gamma: Gamma = "scale", nu: float = 0.03) -> None:
        super().__init__()
        self.kernel, self.gamma_rule, self.nu = kernel, gamma, nu
        shapes: dict[str, tuple[int, ...]] = dict.fromkeys(_BUFFERS, ())
        shapes |= {"support": (0, latent_dim), "alpha": (0,), "shift": (latent_dim,), "scale": (latent_dim,)}
        for name in _BUFFERS:
            self.register_buffer(name, torch.zeros(shapes[name]))

    @property
    def fitted(self) -> bool:
        """Whether there are support vectors."""
        return len(self.alpha) > 0

    @torch.no_grad()
    def fit(self, latents: Tensor) -> None:
        """Fit to latents (n, d); memory is 8 n² bytes, a few times.

        Raises:
            ValueError: as :func:`~.ocsvm.solve_ocsvm`, all latents identical for one.
        """
        scaled, shift, scale = standardize(latents.double(), self.kernel)
        gamma = resolve_gamma(self.gamma_rule, scaled)
        matrix = compute_kernel(scaled, scaled, self.kernel, gamma)
        solution = solve_ocsvm(((matrix + matrix.T) / 2).cpu().numpy(), self.nu)
        alpha = torch.from_numpy(solution.alpha).to(scaled)
        kept = alpha > 0
        peak = float((matrix @ alpha).max()) if self.kernel == "linear" else 1.0
        found = (scaled[kept], alpha[kept], shift, scale, solution.rho, gamma, peak)
        for name, value in zip(_BUFFERS, found, strict=True):
            setattr(self, name, torch.as_tensor(value).to(self.rho))

    def similarity(self, latents: Tensor) -> Tensor:
        """log g(z) of latents (n, d): (n,)."""
        parts = []
        for rows in split_rows(latents, CHUNK_SIZE):
            scaled = (rows - self.shift) / self.scale
            if self.kernel == "linear":
                parts.append((compute_kernel(scaled, self.support, "linear", 0.0) @ self.alpha).log())
            else:
                exponents = -self.gamma * squared_distances(scaled, self.support) + self.alpha.log()
                parts.append(exponents.logsumexp(1))
        return torch.cat(parts)

    def decide(self, latents: Tensor) -> Tensor:
        """The decision function f(z) of latents (n, d): (n,), negative outside."""
        return self.similarity(latents).exp() - self.rho

    def score(self, latents: Tensor) -> Tensor:
        """Score latents (n, d): (n,), non-negative, higher = more anomalous."""
        return (self.peak.log() - self.similarity(latents)).clamp_min(0)

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any, **kwargs: Any) -> None:
        # how many support vectors there are is known only from the file
        resize_buffers(self, ("support", "alpha"), state_dict, prefix)
        super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)
