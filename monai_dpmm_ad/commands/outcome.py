# Copyright 2026 monai_dpmm_ad contributors. Licensed under the Apache License, Version 2.0.
"""What a command did."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from monai_dpmm_ad.data.dataset import ScanFailure

__all__ = ["Outcome"]


@dataclass
class Outcome:
    """What a command did.

    Args:
        scans: one row per processed scan, see :class:`~monai_dpmm_ad.handlers.ScanRow`.
        failures: the scans that were not processed.
        metrics: figures of an evaluation; of a fit, how many scans were fitted and held out, and what the detector says
            of itself.
        report: path of the HTML report, None where none was written.
        note: what the user should know: why the calibration promises less, why there is no report; None if nothing.
        found: what was taken and left out, in one line; None where everything was taken.
        regions: scan → its flagged regions, see :class:`~monai_dpmm_ad.handlers.regions.Region`.
        drift: whether the scans come from the population that was fitted, as ``drift.json`` says it; None where the
            bundle cannot tell.

    Example:
        >>> Outcome().failures, Outcome(note="four scans calibrate").note
        ([], 'four scans calibrate')
    """

    scans: list[Any] = field(default_factory=list)
    failures: list[ScanFailure] = field(default_factory=list)
    metrics: dict[str, Any] = field(default_factory=dict)
    report: Path | None = None
    note: str | None = None
    found: str | None = None
    drift: dict[str, Any] | None = None
    regions: dict[str, list[Any]] = field(default_factory=dict)
