# Copyright 2026 monai_dpmm_ad contributors. Licensed under the Apache License, Version 2.0.
"""The OCSVM-guided autoencoder as a detector."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from monai_dpmm_ad.detectors.base import Detector
from monai_dpmm_ad.detectors.ogae.autoencoders import make_autoencoder
from monai_dpmm_ad.detectors.ogae.kernels import KERNELS, Gamma, check_gamma
from monai_dpmm_ad.detectors.ogae.latent_svm import LatentSVM
from monai_dpmm_ad.detectors.ogae.loss import MODES, compute_guided_loss
from monai_dpmm_ad.detectors.ogae.ocsvm import check_nu
from monai_dpmm_ad.errors import NotFittedError, unknown_option
from monai_dpmm_ad.ops.distances import split_rows
from monai_dpmm_ad.utils.distributed import gather_batch

__all__ = ["OCSVMGuidedDetector"]

_LEAST_GUIDED = 16  # rows: below, half of them is no sample to fit a one-class SVM to
_CHUNK = 8192  # rows encoded at a time


class OCSVMGuidedDetector(Detector):
    """Score patches by a one-class SVM in the latent of an autoencoder that the SVM has shaped.

    Each step minimises ``L_rec + guidance · L_svm``: L_rec is the mean squared error of rows scaled to mean 0 and
    variance 1, L_svm is :func:`~.loss.compute_guided_loss`. After each epoch one SVM is fitted to training latents;
    the score is an increasing function of −f, see :class:`~.latent_svm.LatentSVM`.

    ``mlp`` adapts embeddings of any backbone. ``conv`` reads each row as a raw image patch, as the embedder ``pixels``
    gives them; with ``num_shifts`` up to the patch size the map is voxel-wise.

    Args:
        embed_dim: D, size of one stage's patch embedding.
        num_stages: S, number of stages; 1 for ``conv``.
        architecture: ``mlp`` or ``conv``.
        latent_dim: d.
        width: see :func:`~.autoencoders.make_autoencoder`.
        mode: ``compactor``, ``expander`` or ``both``.
        kernel: ``rbf`` or ``linear``.
        gamma: ``scale``, ``auto`` or a number; the default is about 3/d, three times ``scale``: see docs/ogae.md.
        nu: ν in (0, 1].
        guidance: λ; 0 leaves a plain autoencoder.
        learning_rate: of Adam.
        step_rows: rows in one step, half of them for the SVM.
        num_latents: largest number of latents that the final SVM is fitted to.
        location_weight: see :class:`~monai_dpmm_ad.detectors.Detector`; 0 for ``conv``.
        seed: of the weights and of the choice of those latents.

    Raises:
        ValueError: an unknown option or a number out of range.

    Reference:
        Pinon and Lartizien 2025, arXiv 2507.21164. The scaling of the rows and the gradients are ours.
    """

    center: Tensor
    spread: Tensor

    def __init__(
        self,
        embed_dim: int,
        num_stages: int = 1,
        architecture: str = "mlp",
        latent_dim: int = 32,
        width: int | None = None,
        mode: str = "both",
        kernel: str = "rbf",
        gamma: Gamma = 0.1,
        nu: float = 0.03,
        guidance: float = 1.0,
        learning_rate: float = 1e-3,
        step_rows: int = 512,
        num_latents: int = 2000,
        location_weight: float = 0.0,
        seed: int = 0,
    ) -> None:
        super().__init__(embed_dim, num_stages, location_weight)
        if mode not in MODES:
            raise unknown_option("mode", mode, MODES)
        if kernel not in KERNELS:
            raise unknown_option("kernel", kernel, KERNELS)
        check_nu(nu)
        check_gamma(gamma)
        if not guidance >= 0 or not learning_rate > 0:
            raise ValueError(
                f"`guidance` must be at least 0 and `learning_rate` positive, got {guidance} and {learning_rate}."
            )
        if step_rows < 2 * _LEAST_GUIDED or num_latents < 2:
            raise ValueError(
                f"`step_rows` must be at least {2 * _LEAST_GUIDED} and `num_latents` at least 2, "
                f"got {step_rows} and {num_latents}."
            )
        if architecture == "conv" and (num_stages != 1 or location_weight):
            raise ValueError(
                f"`architecture` 'conv' must have one stage and no location, got {num_stages} stages and "
                f"location_weight {location_weight}. Use the embedder 'pixels'."
            )
        self.raw = architecture == "conv"
        self.mode, self.kernel, self.gamma, self.nu, self.guidance = mode, kernel, gamma, nu, guidance
        self.learning_rate, self.step_rows, self.num_latents, self.seed = learning_rate, step_rows, num_latents, seed
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.autoencoder = make_autoencoder(
                architecture, self.feature_dim, latent_dim, width, positive=kernel == "linear"
            )
        self.svm = LatentSVM(latent_dim, kernel, gamma, nu)
        self.register_buffer("center", torch.zeros(self.feature_dim))
        self.register_buffer("spread", torch.zeros(()))
        self._optimizer: torch.optim.Optimizer | None = None

    @property
    def fitted(self) -> bool:
        """Whether the scale of the rows is known: the weights alone do not tell."""
        return bool(self.spread > 0)

    def features(self, rows: Mapping[str, Tensor]) -> Tensor:
        """Turn rows into vectors ``(..., F)``: raw patches for ``conv``, else as every detector."""
        return rows["patches"].float().flatten(-2) if self.raw else super().features(rows)

    def initialize(self, sample: Mapping[str, Tensor], num_data: int) -> None:
        """Find the scale of the rows.

        Raises:
            ValueError: rows that are all identical.
        """
        features = self.features(sample)
        center = features.mean(0)
        spread = (features - center).square().mean().sqrt()
        if len(features) < 2 or not spread > 0:
            raise ValueError(
                f"`sample` must hold rows that differ, got {len(features)} that are all identical. "
                "Check the intensities of the scans."
            )
        self.center, self.spread = center, spread

    def fit_batch(self, rows: Mapping[str, Tensor], num_data: int) -> Tensor:
        """Take a step on each ``step_rows`` rows or so.

        Returns:
            0-dim: the negative loss, the mean over the steps.
        """
        # The loss is no sum over rows, so that processes cannot share them: each takes the same steps on all.
        features = self._scale(gather_batch(self.features(rows)))
        if not len(features):
            return features.sum()
        losses = [self._step(part) for part in features.tensor_split(max(1, len(features) // self.step_rows))]
        return -torch.stack(losses).mean()

    def _step(self, features: Tensor) -> Tensor:
        if self._optimizer is None:
            self._optimizer = torch.optim.Adam(self.autoencoder.parameters(), self.learning_rate)
        with torch.enable_grad():
            loss = self.compute_loss(features)
            self._optimizer.zero_grad()
            loss.backward()
        self._optimizer.step()
        return loss.detach()

    def compute_loss(self, features: Tensor) -> Tensor:
        """L_rec + guidance · L_svm of scaled features ``(n, F)`` in random order, n ≥ 1: 0-dim."""
        latents, decoded = self.autoencoder(features)
        loss = (decoded - features).square().mean()
        if self.guidance and len(features) >= _LEAST_GUIDED:
            guided = compute_guided_loss(latents, self.mode, self.kernel, self.gamma, self.nu)
            loss = loss + self.guidance * guided.to(loss)
        return loss

    @torch.no_grad()
    def finish_epoch(self, draw_sample: Callable[[], Mapping[str, Tensor]]) -> None:
        """Fit the SVM that judges to the latents of at most ``num_latents`` rows of the sample.

        Raises:
            ValueError: latents that are all identical.
        """
        features = self.features(draw_sample())
        order = torch.randperm(len(features), generator=torch.Generator().manual_seed(self.seed))
        chosen = features[order[: self.num_latents].to(features.device)].to(self.center)
        self.svm.fit(self._encode(self._scale(chosen)))

    @torch.no_grad()
    def criterion(self, rows: Mapping[str, Tensor]) -> Tensor:
        """The negative loss of held-out rows under the SVM that judges, ``(n,)``."""
        features = self._scale(self.features(rows))
        parts = []
        for part in features.split(_CHUNK):
            latents, decoded = self.autoencoder(part)
            outside = torch.relu(-self.svm.decide(latents))
            parts.append((decoded - part).square().mean(1) + self.guidance * outside)
        return -torch.cat(parts)

    def score(self, features: Tensor) -> Tensor:
        """Score features ``(n, F)``: ``(n,)``, non-negative, higher = more anomalous.

        Raises:
            NotFittedError: before the first :meth:`finish_epoch`.
        """
        if not self.svm.fitted:
            raise NotFittedError("The detector must be fitted before it scores. Call fit_batch and finish_epoch.")
        return self.svm.score(self._encode(self._scale(features)))

    def _scale(self, features: Tensor) -> Tensor:
        return (features - self.center) / self.spread

    def _encode(self, scaled: Tensor) -> Tensor:
        return torch.cat([self.autoencoder.encode(part) for part in split_rows(scaled, _CHUNK)])
