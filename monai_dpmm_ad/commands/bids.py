# Copyright 2026 monai_dpmm_ad contributors. Licensed under the Apache License, Version 2.0.
"""The maps of a run as BIDS derivatives."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from monai_dpmm_ad.data.bids import Derivative, write_derivatives
from monai_dpmm_ad.data.sequences import image_files
from monai_dpmm_ad.data.types import Item
from monai_dpmm_ad.handlers import ScanRow
from monai_dpmm_ad.handlers.changes import KINDS
from monai_dpmm_ad.transforms import output_path
from monai_dpmm_ad.utils.outputs import OutputFolder

__all__ = ["write_bids", "write_bids_changes"]

_KINDS = ", ".join(f"{number} {kind}" for number, kind in enumerate(KINDS, 1))


def write_bids(
    out: Path, rows: Sequence[ScanRow], settings: Mapping[str, Any], items: Sequence[Item] = ()
) -> list[Path]:
    """Write ``out / "bids"``: map, flagged regions and, where it was asked for, the healthy twin of each scan.

    What an earlier run wrote there of other scans, or of maps that are gone, is removed.

    Args:
        out: folder of the results.
        rows: the scans, of earlier runs too; those whose names are not BIDS's have no derivative.
        settings: of the run: what its files are called.
        items: of the datalist: say which files a scan of several sequences is made of.
    """
    files = {str(item["name"]): image_files(item) for item in items if item.get("sequences")}
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
        others = tuple(Path(file) for file in files.get(row.name, ()) if str(file) != row.image)
        for postfix, description, suffix, more in (
            (
                settings["output_postfix"],
                "anomaly",
                None,
                {**kept, "SkullStripped": False, "Description": "higher is more unusual"},
            ),
            ("healthy", "healthy", None, {"SkullStripped": False, "Description": "an average of healthy scans"}),
            ("mask", "regions", "mask", {**kept, "Type": "ROI", "Description": "flagged as unusual; no diagnosis"}),
        ):
            file = output_path(out, row.name, postfix, row.image, **place)
            if file.is_file():
                derivatives.append(Derivative(Path(row.image), file, description, suffix, more, others))
    written = write_derivatives(out / "bids", derivatives)
    output = OutputFolder(out).hold()  # the command holds it already
    for description in ("anomaly", "healthy", "regions"):
        output.discard_matching(f"bids/*_desc-{description}_*")
    return written


def write_bids_changes(out: Path, pairs: Sequence[Mapping[str, Any]]) -> list[Path]:
    """Write ``out / "bids"``: of each pair of visits the change and the changed regions, beside the first visit's name.

    Args:
        out: folder of the results.
        pairs: rows of ``pairs.csv``; those whose names are not BIDS's have no derivative.
    """
    derivatives = []
    for pair in pairs:
        first = Path(pair["before"])
        seconds: dict[str, Any] = {"ComparedWith": Path(pair["after"]).name}
        if pair["in_range"] is not None:
            seconds["InRange"] = pair["in_range"]
        for postfix, suffix, more in (
            ("change", None, {"SkullStripped": False, "Description": "positive is more unusual than before"}),
            ("changed", "dseg", {"Description": f"what changed: {_KINDS}; no diagnosis"}),
        ):
            file = output_path(out, str(pair["name"]), postfix, str(first))
            derivatives.append(Derivative(first, file, postfix, suffix, {**seconds, **more}, (Path(pair["after"]),)))
    return write_derivatives(out / "bids", derivatives)
