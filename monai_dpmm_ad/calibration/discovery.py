# Copyright 2026 monai_dpmm_ad contributors. Licensed under the Apache License, Version 2.0.
"""Many p-values at once: q-values after Benjamini and Hochberg."""

from __future__ import annotations

from collections.abc import Sequence

from scipy.stats import false_discovery_control

__all__ = ["q_values"]


def q_values(p_values: Sequence[float | None], groups: Sequence[object] | None = None) -> list[float | None]:
    """Turn the p-values of a batch into q-values.

    Whoever calls unusual what has q ≤ a is wrong in at most a share a of what is called so, in expectation, where the
    p-values do not depend on each other in a harmful way. Those of scans share their healthy scans, which does no harm
    (Bates et al. 2023, theorem 2); of regions of one scan it is not proven.

    Args:
        p_values: of one kind, of the whole batch; None where there is none.
        groups: which of several batches each is of; None for one.

    Returns:
        One each, None where the p-value is.

    Reference:
        Benjamini and Hochberg 1995, "Controlling the false discovery rate"; Bates, Candès, Lei, Romano and Sesia 2023,
        "Testing for outliers with conformal p-values".

    Example:
        >>> q_values([0.5, None, 0.01, 0.02])
        [0.5, None, 0.03, 0.03]
    """
    groups = [0] * len(p_values) if groups is None else groups
    adjusted: list[float | None] = [None] * len(p_values)
    for group in set(groups):
        index = [i for i, value in enumerate(p_values) if value is not None and groups[i] == group]
        known = false_discovery_control([p_values[i] for i in index]).tolist() if index else []
        for i, value in zip(index, known, strict=True):
            adjusted[i] = value
    return adjusted
