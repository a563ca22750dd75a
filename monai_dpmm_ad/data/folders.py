# Copyright 2026 monai_dpmm_ad contributors. Licensed under the Apache License, Version 2.0.
"""Search a folder for NIfTI files, pictures and DICOM series."""

from __future__ import annotations

import os
from pathlib import Path

from monai_dpmm_ad.data.paths import (
    IMAGE_SUFFIXES,
    NIFTI_SUFFIXES,
    NRRD_SUFFIXES,
    PICTURE_SUFFIXES,
    has_suffix,
    is_dicom_file,
    scan_stem,
)
from monai_dpmm_ad.data.types import Item
from monai_dpmm_ad.errors import ScanError
from monai_dpmm_ad.utils.extras import import_extra

__all__ = ["search_folder"]

_OWN_OUTPUTS = ("_anomaly", "_mask", "_percentile")


def search_folder(folder: Path, kind: str) -> list[Item]:
    """List the scans below a folder; our own outputs are left out.

    Args:
        folder: searched recursively.
        kind: "auto", "nifti", "dicom" or "picture".

    Raises:
        ScanError: when there is none.
    """
    try:
        files = _walk(folder)
    except OSError as error:
        raise ScanError(folder, f"cannot be read: {error.strerror}") from error
    volumes = NIFTI_SUFFIXES + NRRD_SUFFIXES
    wanted = {"nifti": volumes, "picture": PICTURE_SUFFIXES, "dicom": (), "auto": IMAGE_SUFFIXES}[kind]
    images = [file for file in files if has_suffix(file, wanted)] if wanted else []
    kept = [file for file in images if not scan_stem(file).endswith(_OWN_OUTPUTS)]
    items: list[Item] = [{"image": str(file)} for file in kept]
    if kind in ("auto", "dicom"):
        items += _dicom_series(folder, [file for file in files if not has_suffix(file, IMAGE_SUFFIXES)])
    if not items:
        skipped = len(images) - len(kept)
        detail = f" ({skipped} files named *_anomaly, *_mask or *_percentile were left out)" if skipped else ""
        raise ScanError(folder, "is an empty folder" if not files else f"holds no images{detail}")
    return items


def _walk(folder: Path) -> list[Path]:
    """Every file below a folder, sorted; hidden ones and macOS's shadow files are no scans."""

    def fail(error: OSError) -> None:
        raise error

    files = []
    seen = {os.path.realpath(folder)}
    for root, folders, names in os.walk(folder, onerror=fail, followlinks=True):
        wanted = sorted(name for name in folders if not name.startswith(".") and name != "__MACOSX")
        folders.clear()
        for name in wanted:  # each folder once: links may run in circles
            real = os.path.realpath(os.path.join(root, name))
            if real not in seen:
                seen.add(real)
                folders.append(name)
        files += [Path(root, name) for name in sorted(names) if not name.startswith(".")]
    return sorted(files)


def _dicom_series(folder: Path, files: list[Path]) -> list[Item]:
    """One item for each series: its folder, or its files where several series share a folder."""
    candidates = [file for file in files if file.name.upper() != "DICOMDIR" and is_dicom_file(file)]
    if not candidates:
        return []
    try:
        pydicom = import_extra("pydicom", "dicom")
    except ImportError as error:
        raise ScanError(folder, str(error)) from error
    series: dict[Path, dict[str, list[str]]] = {}
    for file in candidates:
        try:
            header = pydicom.dcmread(file, stop_before_pixels=True, specific_tags=["SeriesInstanceUID", "Rows"])
        except (pydicom.errors.InvalidDicomError, OSError, ValueError):
            header = {"SeriesInstanceUID": f"unreadable {file.name}", "Rows": 1}
        if header.get("Rows"):  # reports and presentation states have no pixels
            uid = str(header.get("SeriesInstanceUID", ""))
            series.setdefault(file.parent, {}).setdefault(uid, []).append(str(file))
    items: list[Item] = []
    for parent, by_uid in sorted(series.items()):
        for uid, members in by_uid.items():
            if len(by_uid) == 1:
                items.append({"image": str(parent)})
            elif len(members) == 1:
                items.append({"image": members[0]})
            else:
                items.append({"image": members, "name": f"{scan_stem(parent)}_{uid.rsplit('.', 1)[-1]}"})
    return items
