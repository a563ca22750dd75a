# Copyright 2026 monai_dpmm_ad contributors. Licensed under the Apache License, Version 2.0.
"""The maps of a run as BIDS derivatives."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from monai_dpmm_ad.data.bids import Derivative, write_derivatives
from monai_dpmm_ad.handlers import ScanRow
from monai_dpmm_ad.transforms import output_path

__all__ = ["write_bids"]


def write_bids(out: Path, rows: Sequence[ScanRow], settings: Mapping[str, Any]) -> list[Path]:
    """Write ``out / "bids"``: map, flagged regions and, where it was asked for, the healthy twin of each scan.

    Args:
        out: folder of the results.
        rows: the scans; those whose names are not BIDS's have no derivative.
        settings: of the run: what its files are called.
    """
    place = {"ext": settings["output_ext"], "separate": settings["separate_folder"]}
    derivatives = []
    for row in rows:
        facts = {
            "Score": row.score,
            "PValue": row.p_value,
            "QValue": row.q_value,
            "Threshold": row.threshold,
            "InRange": row.in_range,
        }
        kept = {name: value for name, value in facts.items() if value is not None}
        for postfix, description, suffix, more in (
            (
                settings["output_postfix"],
                "anomaly",
                None,
                {**kept, "SkullStripped": False, "Description": "higher is more unusual"},
            ),
            ("healthy", "healthy", None, {"SkullStripped": False, "Description": "an average of healthy scans"}),
            ("mask", "regions", "mask", {"Type": "ROI", "Description": "flagged as unusual; no diagnosis"}),
        ):
            file = output_path(out, row.name, postfix, row.image, **place)
            if file.is_file():
                derivatives.append(Derivative(Path(row.image), file, description, suffix, more))
    return write_derivatives(out / "bids", derivatives)
