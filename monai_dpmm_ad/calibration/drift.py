# Copyright 2026 monai_dpmm_ad contributors. Licensed under the Apache License, Version 2.0.
"""Whether a cohort comes from the population that a model was calibrated on: another scanner or protocol shows here.

Two things are compared, scan by scan: the quartiles of the patches' log density, and how often each component is used.
Lesions touch few patches and leave both nearly as they are; another scanner moves the bulk of them. If new scans and
calibration scans come from one distribution, every way of dividing them into two groups of these sizes is equally
likely, which makes a permutation test exact.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import stats
from torch import Tensor, nn

from monai_dpmm_ad.calibration.permutation import permutation_test, smallest_p_value
from monai_dpmm_ad.errors import NotFittedError
from monai_dpmm_ad.ops.robust import spread_of

__all__ = [
    "ALPHA",
    "PROFILE",
    "DriftReference",
    "PatchSummary",
    "choose_patches_to_summarise",
    "choose_scans",
    "compute_profile",
    "describe_drift",
    "summarise_scan",
]

#: Quantiles of a scan's log densities. Neither tail: that is where lesions are.
PROFILE = (0.25, 0.5, 0.75)
#: A cohort is called drifted at this p-value: so many of a hundred cohorts of the same population are, by chance.
ALPHA = 0.01
MAX_SCANS = 256
_MAX_COHORT = 1024
#: Of a hundred healthy scans so many lie beyond the limit for a single one, in each of two respects.
_LEVEL = 0.01
#: What is assumed of the spread between scans where they are few: a share of the spread between the quartiles of one
#: scan, as much worth as so many scans.
_WITHIN_TO_BETWEEN, _PRIOR_SCANS = 0.25, 4.0
_FEWEST_FOR_USAGE, _LEAST_LOG_SPREAD = 4, 0.1
_SHOWN = 5
_ROWS = 64  # about so many patches of each slice: their summary costs a fraction of a per cent of the forward pass

Array = NDArray[np.float64]


class PatchSummary(NamedTuple):
    """How usual some patches of a scan are.

    Args:
        log_density: ``(n,)``, nats, or any other measure that is high where a patch is like the fitted ones.
        usage: ``(K,)``, each component's responsibility for the patches, summed over them; K = 0 without components.
    """

    log_density: Tensor
    usage: Tensor


def choose_patches_to_summarise(valid: Tensor) -> Tensor:
    """Choose patches of each slice by itself, so that it does not matter which slices share a batch.

    Args:
        valid: ``(B, h, w)``, Boolean.

    Returns:
        The same, with at least 64 and less than twice as many patches of each slice, or all that it has.
    """
    flat = valid.flatten(1)
    count = flat.sum(1, keepdim=True)
    number = flat.cumsum(1) - 1  # of each patch among the valid ones of its slice
    step = (count // _ROWS).clamp(min=1)
    return (flat & (number % step == 0)).view_as(valid)


class DriftReference(nn.Module):
    """What the calibration's scans look like, as buffers of fixed shape.

    Args:
        num_components: K of the mixture; 0 for a detector without components.

    Example:
        >>> reference = DriftReference(num_components=2)
        >>> generator = torch.Generator().manual_seed(0)
        >>> profiles, usage = torch.randn(40, 3, generator=generator), torch.rand(40, 2, generator=generator)
        >>> reference.fit(profiles, usage)
        >>> result = reference.compare(profiles[:10] - 5, usage[:10])
        >>> result["drifted"], result["p_value"] < 0.01
        (True, True)
    """

    profiles: Tensor
    usage: Tensor
    num_scans: Tensor

    def __init__(self, num_components: int) -> None:
        super().__init__()
        self.register_buffer("profiles", torch.zeros(MAX_SCANS, len(PROFILE)))
        self.register_buffer("usage", torch.zeros(MAX_SCANS, num_components))
        self.register_buffer("num_scans", torch.zeros((), dtype=torch.int64))

    def fit(self, profiles: Tensor, usage: Tensor) -> None:
        """Take the scans of the calibration.

        Args:
            profiles: ``(n, 3)``, see :func:`compute_profile`.
            usage: ``(n, K)``, mean responsibilities; K is what the mixture has grown to.
        """
        self.usage = self.usage.new_zeros(MAX_SCANS, usage.shape[1])
        chosen = choose_scans(len(profiles), MAX_SCANS)
        self.num_scans.fill_(len(chosen))
        for buffer, values in ((self.profiles, profiles), (self.usage, usage)):
            buffer.zero_()
            buffer[: len(chosen)] = values[chosen].to(buffer)

    def compare(self, profiles: Tensor, usage: Tensor, seed: int = 0) -> dict[str, Any]:
        """Test whether a cohort and the calibration's scans come from one distribution.

        Args:
            profiles: ``(m, 3)``, one row for each new scan.
            usage: ``(m, K)``.
            seed: of the permutations.

        Returns:
            Plain JSON. ``p_value`` is twice the smaller of ``p_log_density`` and ``p_component_usage`` (at most 1), so
            that it holds for both together; ``drifted`` where it is at most ``alpha``; ``smallest_p_value`` is what so
            few scans can reach at best; ``shift`` says by how many robust standard deviations of the calibration's
            scans the cohort's median quartiles lie higher (negative: less like what was fitted); ``components`` names
            those whose use changed most.

        Raises:
            NotFittedError: before :meth:`fit`.
            ValueError: no scan to compare.
        """
        count = int(self.num_scans)
        if not count:
            raise NotFittedError("`compare` needs the calibration's scans. Call `fit` first.")
        if not len(profiles):
            raise ValueError("`profiles` must hold at least one scan, got none.")
        chosen = choose_scans(len(profiles), _MAX_COHORT)
        old, new = _array(self.profiles[:count]), _array(profiles[chosen])
        scale = np.maximum(spread_of(np.concatenate([old, new]), 0), 1e-12)
        p_values = {"p_log_density": permutation_test(old / scale, new / scale, seed)}
        old_usage, new_usage = _array(self.usage[:count]), _array(usage[chosen])
        if old_usage.shape[1]:
            # Square roots of shares: their distance is Hellinger's, in which rare components count as well.
            p_values["p_component_usage"] = permutation_test(np.sqrt(old_usage), np.sqrt(new_usage), seed)
        p_value = min(1.0, len(p_values) * min(p_values.values()))
        shift = (np.median(new, axis=0) - np.median(old, axis=0)) / np.maximum(spread_of(old, 0), 1e-12)
        return {
            "p_value": p_value,
            "drifted": p_value <= ALPHA,
            "alpha": ALPHA,
            **p_values,
            "smallest_p_value": min(1.0, len(p_values) * smallest_p_value(count, len(chosen))),
            "num_scans": len(chosen),
            "num_reference_scans": count,
            "shift": {f"q{round(100 * q)}": float(value) for q, value in zip(PROFILE, shift, strict=True)},
            "components": _name_components(old_usage.mean(0), new_usage.mean(0)),
        }

    def judge(self, profile: Tensor, usage: Tensor) -> str | None:
        """Say by how much one scan lies off the calibration's, where that is more than a healthy scan would.

        One scan cannot be tested by permutations against few. The limit is that of a prediction interval: Student's t
        for each quartile of the log density, whose spread between scans is estimated from the calibration's scans and,
        where these are few, from the spread within a scan; and for the distance of the components' use from its mean.

        Args:
            profile: ``(3,)`` of the scan.
            usage: ``(K,)`` of the scan.

        Returns:
            A clause without a full stop; None where the scan is like the others, or nothing is known.
        """
        count = int(self.num_scans)
        if not count:
            return None
        old = _array(self.profiles[:count])
        offsets, limit = _measure_profile(old, _array(profile))
        worst = int(np.abs(offsets).argmax())
        if abs(offsets[worst]) > limit:
            direction = "less" if offsets[worst] < 0 else "more"
            return (
                f"its typical patch is {abs(offsets[worst]):.1f} standard deviations {direction} like what was fitted"
            )
        old_usage = _array(self.usage[:count])
        if old_usage.shape[1] and count >= _FEWEST_FOR_USAGE:
            offset, limit = _measure_usage(old_usage, _array(usage))
            if offset > limit:
                return f"it uses the components differently, by {offset:.1f} standard deviations"
        return None

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any, **kwargs: Any) -> None:
        for name, buffer in self.named_buffers():  # a model that was fitted before there was a reference has none
            state_dict.setdefault(prefix + name, torch.zeros_like(buffer))
        # The mixture may have grown: as many components as were stored.
        self.usage = self.usage.new_zeros(MAX_SCANS, state_dict[prefix + "usage"].shape[-1])
        super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)


def _measure_profile(old: Array, new: Array) -> tuple[Array, float]:
    """Offsets ``(3,)`` of a scan's quartiles in standard deviations between scans, and the limit for their largest."""
    count = len(old)
    within = np.median(old[:, -1] - old[:, 0])
    freedom = count - 1 + _PRIOR_SCANS
    squares = ((old - old.mean(0)) ** 2).sum(0) + _PRIOR_SCANS * (_WITHIN_TO_BETWEEN * within) ** 2
    spread = np.sqrt(squares / freedom)
    limit = stats.t.isf(_LEVEL / (2 * old.shape[1]), freedom) * math.sqrt(1 + 1 / count)
    return (new - old.mean(0)) / np.maximum(spread, 1e-12), float(limit)


def _measure_usage(old: Array, new: Array) -> tuple[float, float]:
    """Hellinger distance of a scan's use of components from the mean, standardised, and its limit.

    Each of the calibration's scans is compared with the mean of the others, as the new one is.
    """
    roots = np.sqrt(old)
    count = len(roots)
    others = (roots.sum(0) - roots) / (count - 1)
    logs = np.log(np.maximum(np.linalg.norm(roots - others, axis=1), 1e-12))
    own = math.log(max(float(np.linalg.norm(np.sqrt(new) - roots.mean(0))), 1e-12))
    spread = max(float(logs.std(ddof=1)), _LEAST_LOG_SPREAD)
    limit = stats.t.isf(_LEVEL, count - 1) * math.sqrt(1 + 1 / count)
    return (own - float(logs.mean())) / spread, float(limit)


def compute_profile(log_density: Tensor) -> Tensor:
    """Describe a scan by the quartiles of its patches' log densities.

    Args:
        log_density: ``(n,)``, n ≥ 1, nats.

    Returns:
        ``(3,)`` float32.
    """
    return torch.quantile(log_density.float(), log_density.new_tensor(PROFILE, dtype=torch.float32))


def summarise_scan(parts: Sequence[PatchSummary]) -> dict[str, list[float]] | None:
    """Join the summaries of a scan's slices into what the drift test needs of the scan.

    Args:
        parts: any number, each with the same K.

    Returns:
        Plain JSON: ``profile`` (3), see :func:`compute_profile`, and ``usage`` (K), mean responsibilities. None for a
        scan without patches.

    Example:
        >>> half = PatchSummary(torch.tensor([1.0, 2.0]), torch.tensor([2.0, 0.0]))
        >>> summarise_scan([half, PatchSummary(torch.tensor([3.0, 4.0, 5.0]), torch.tensor([1.0, 2.0]))])["profile"]
        [2.0, 3.0, 4.0]
    """
    num_patches = sum(len(part.log_density) for part in parts)
    if not num_patches:
        return None
    profile = compute_profile(torch.cat([part.log_density for part in parts]))
    usage = torch.stack([part.usage for part in parts]).sum(0) / num_patches
    return {"profile": profile.tolist(), "usage": usage.tolist()}


def describe_drift(result: Mapping[str, Any] | None) -> str | None:
    """Say in a sentence what a user should know, None where there is nothing to say.

    Args:
        result: what :meth:`DriftReference.compare` gave.
    """
    if result is None or not result["drifted"]:
        return None
    lower = result["shift"]["q50"]
    direction = f"{abs(lower):.1f} robust standard deviations {'less' if lower < 0 else 'more'} like the fitted ones"
    return (
        f"these scans differ from those of the calibration (p = {result['p_value']:.2g}; the typical patch is "
        f"{direction}). Another scanner, protocol or population? Rates and p-values may not hold: "
        "compare drift.json, and fit or update the bundle with healthy scans of this kind"
    )


def choose_scans(count: int, largest: int) -> Tensor:
    """All numbers below ``count``, or ``largest`` of them at random; the choice is blind, so the test stays exact."""
    if count <= largest:
        return torch.arange(count)
    return torch.from_numpy(np.sort(np.random.default_rng(0).choice(count, largest, replace=False)))


def _array(values: Tensor) -> Array:
    return values.detach().cpu().double().numpy()


def _name_components(old: Array, new: Array) -> list[dict[str, Any]]:
    order: Sequence[int] = np.argsort(-np.abs(np.sqrt(new) - np.sqrt(old)), kind="stable")[:_SHOWN].tolist()
    return [{"component": k, "reference_share": float(old[k]), "share": float(new[k])} for k in order]
