# Copyright 2026 monai_dpmm_ad contributors. Licensed under the Apache License, Version 2.0.
"""What the table of scans says of one."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["ScanRow"]


@dataclass(frozen=True)
class ScanRow:
    """One line of ``scores.csv``; what is not known is None.

    Args:
        name: of the scan.
        image: its path.
        score: higher is more anomalous.
        p_value: share of healthy scans that score as high.
        smallest_p_value: the least that the calibration's number of scans allows.
        q_value: of the p-value among those of all scans of the table, see
            :func:`~monai_dpmm_ad.calibration.discovery.q_values`; None before the table is whole.
        threshold: what the map exceeds where it is flagged.
        flagged: volume in mL; area in pixels for a picture.
        flagged_unit: ``"mL"`` or ``"pixels"``.
        num_regions: how many flagged regions it has.
        region_p_value: the smallest of theirs; None also where it has no region.
        abnormal: the truth, 0 or 1.
        frame: how the scan's places were brought to the cohort's.
        frame_quality: how well the registered scan agrees with the cohort's mean: a correlation.
        covariates: what of the person was taken into account, where the bundle follows age or sex.
        group: in which the scan is judged, where groups are calibrated apart.
        warning: why the scan should not be relied on, or what its file leaves open.
        in_range: False where the scan lies outside of what was fitted, so that its p-values and its number of false
            regions are not promised, and it has no q-value; None where that is not known.
    """

    name: str
    image: str
    score: float
    p_value: float | None = None
    smallest_p_value: float | None = None
    q_value: float | None = None
    threshold: float | None = None
    flagged: float | None = None
    flagged_unit: str = "mL"
    num_regions: int | None = None
    region_p_value: float | None = None
    abnormal: int | None = None
    frame: str | None = None
    frame_quality: float | None = None
    covariates: str | None = None
    group: str | None = None
    warning: str | None = None
    in_range: bool | None = None
