# Copyright 2026 monai_dpmm_ad contributors. Licensed under the Apache License, Version 2.0.
"""Which scans a bundle has seen, and what it was fitted with: ``provenance.json`` in the bundle's folder.

Nothing in it depends on the time or the machine, so that the same fit writes the same bytes. Paths may tell who a
patient is: ``pack`` leaves the file out; only ``fit --update`` needs it, and of that not ``--site``.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from monai_dpmm_ad import __version__
from monai_dpmm_ad.data.content import hash_with_labels
from monai_dpmm_ad.data.paths import scan_files
from monai_dpmm_ad.errors import CheckpointError
from monai_dpmm_ad.utils.distributed import get_rank
from monai_dpmm_ad.utils.files import file_sha256, read_json, write_json

__all__ = [
    "FILE",
    "ROLES",
    "count_fitted",
    "count_seen",
    "describe_fit",
    "describe_scans",
    "list_seen",
    "load_provenance",
    "refuse_headers",
    "write_provenance",
]

FILE = "provenance.json"
METADATA = Path("configs") / "metadata.json"
ROLES = ("fitted", "held_out")
_KEYS: dict[str, Any] = {
    "name": str,
    "image": (str, list),
    "sha256": (str, type(None)),
    "role": str,
    "fit": int,
    "calibrates": bool,
}


def describe_scans(
    items: Sequence[Mapping[str, Any]], role: str, fit: int, calibrates: bool = False
) -> list[dict[str, Any]]:
    """Describe scans for the provenance.

    Args:
        items: of a datalist.
        role: one of ``ROLES``.
        fit: 0 for the first fit, n for the n-th update.
        calibrates: whether the calibration has seen them.
    """
    scans = []
    for item, (image, label) in zip(items, hash_with_labels(items), strict=True):
        scan = {"name": item["name"], "image": item["image"], "sha256": image}
        if item.get("subject") is not None:
            scan["subject"] = item["subject"]
        if item.get("label"):
            scan |= {"label": item["label"], "label_sha256": label}
        scans.append({**scan, "role": role, "fit": fit, "calibrates": calibrates})
    return scans


def write_provenance(
    bundle_root: str | os.PathLike[str],
    scans: Sequence[Mapping[str, Any]],
    recipe: Mapping[str, Any],
    unnamed: Mapping[str, int] | None = None,
) -> None:
    """Write the provenance of a bundle; the first process does.

    Args:
        bundle_root: folder of the bundle.
        scans: as :func:`describe_scans` gives them.
        recipe: ids of ``configs/train.json`` that an update has to repeat, and their values.
        unnamed: how many more scans the bundle has seen, where it comes from one that was handed on: ``num_fitted``,
            ``num_held_out``, ``num_updates``, ``num_calibrating``.
    """
    if get_rank() == 0:
        content: dict[str, Any] = {"version": __version__, "recipe": dict(recipe), "scans": list(scans)}
        if unnamed:
            content["unnamed"] = dict(unnamed)
        write_json(Path(bundle_root) / FILE, content)


def load_provenance(bundle_root: str | os.PathLike[str]) -> dict[str, Any]:
    """Read and check the provenance of a bundle.

    Raises:
        CheckpointError: when there is none, or it is damaged.
    """
    path = Path(bundle_root) / FILE
    if not path.exists():
        raise CheckpointError(
            f"{path}: is missing, as in a bundle that was packed, so nothing is known of the fitted scans. Go back to "
            "the bundle that was packed, fit again, or bring it to your scanner with `site`."
        )
    try:
        content: dict[str, Any] = read_json(path)
        if not isinstance(content["recipe"], dict):
            raise ValueError("its recipe is no dictionary")
        if not all(type(number) is int for number in content.get("unnamed", {}).values()):
            raise ValueError("what it counts is no number")
        for scan in content["scans"]:
            wrong = [key for key, kind in _KEYS.items() if not isinstance(scan[key], kind)]
            if wrong or scan["role"] not in ROLES:
                raise ValueError(f"a scan has a wrong {', '.join(wrong) or 'role'}")
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(f"{path}: is no readable provenance ({error}). Copy the bundle again.") from error
    return content


def list_seen(bundle_root: str | os.PathLike[str]) -> tuple[list[dict[str, Any]], dict[str, int]]:
    """The scans that a bundle has seen, and how many more it knows by their number alone, as one that was handed on.

    Args:
        bundle_root: folder of a fitted bundle.

    Raises:
        CheckpointError: its provenance is damaged.
    """
    if (Path(bundle_root) / FILE).exists():
        content = load_provenance(bundle_root)
        return content["scans"], content.get("unnamed", {})
    told = read_json(Path(bundle_root) / METADATA).get("fitted", {})
    return [], {name: int(told.get(name) or 0) for name in (*(f"num_{role}" for role in ROLES), "num_updates")}


def describe_fit(bundle_root: str | os.PathLike[str]) -> dict[str, Any]:
    """Say what a bundle's fit did.

    Args:
        bundle_root: folder of a fitted bundle.

    Returns:
        ``num_fitted`` and ``num_held_out``, scans of the first fit and of all updates, ``num_calibrating``, those whose
        scores the calibration has, and what ``metadata.json`` has under ``fitted``.
    """
    scans, unnamed = list_seen(bundle_root)
    counts = {f"num_{role}": sum(scan["role"] == role for scan in scans) for role in ROLES}
    counts["num_calibrating"] = unnamed.get("num_calibrating", 0) + sum(scan["calibrates"] for scan in scans)
    return counts | read_json(Path(bundle_root) / METADATA)["fitted"]


def count_fitted(bundle_root: str | os.PathLike[str]) -> int:
    """Count the scans that a bundle was fitted on; 0 where nothing is known of them.

    Args:
        bundle_root: folder of a fitted bundle; one that was handed on knows their number alone.
    """
    try:
        scans, unnamed = list_seen(bundle_root)
    except (CheckpointError, ValueError, AttributeError, TypeError):  # damaged, or no bundle
        return 0
    return unnamed.get("num_fitted", 0) + sum(scan["role"] == "fitted" for scan in scans)


def count_seen(bundle_root: str | os.PathLike[str], items: Sequence[Mapping[str, Any]]) -> int:
    """Count the scans that a bundle was fitted or calibrated on, by their paths; 0 where nothing is known of those.

    Args:
        bundle_root: folder of a fitted bundle.
        items: a datalist.
    """
    try:
        seen = {str(scan["image"]) for scan in list_seen(bundle_root)[0]}
    except (CheckpointError, ValueError, AttributeError, TypeError):  # damaged, or no bundle
        return 0
    return sum(str(item["image"]) in seen for item in items)


def refuse_headers(scans: Sequence[Mapping[str, Any]], bundle: str | os.PathLike[str]) -> None:
    """Refuse a bundle that an earlier version fitted on pairs of header and voxels: it cannot tell them from others.

    Args:
        scans: that it has seen.
        bundle: its folder.

    Raises:
        CheckpointError: it knows a pair by its header alone.
    """
    for scan in scans:
        image = scan["image"]
        is_pair = isinstance(image, str) and os.path.isfile(image) and len(scan_files(Path(image))) > 1
        if is_pair and file_sha256(Path(image)) == scan["sha256"]:
            raise CheckpointError(f"{bundle}: knows {image} by its header alone, and not its voxels. Fit anew.")
