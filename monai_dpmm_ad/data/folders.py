# Copyright 2026 monai_dpmm_ad contributors. Licensed under the Apache License, Version 2.0.
"""Search a folder for volumes, pictures and DICOM series."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from monai_dpmm_ad.data.bids import is_raw
from monai_dpmm_ad.data.choice import check_one_kind, choose_items, is_wanted
from monai_dpmm_ad.data.dicom_series import find_series
from monai_dpmm_ad.data.gate import LeftOut, count_kinds, judge_file, judge_name
from monai_dpmm_ad.data.paths import (
    IMAGE_SUFFIXES,
    PICTURE_SUFFIXES,
    VOLUME_SUFFIXES,
    has_suffix,
    is_dicom_file,
    special_kind,
)
from monai_dpmm_ad.data.types import Item
from monai_dpmm_ad.errors import ScanError
from monai_dpmm_ad.utils.extras import import_extra

__all__ = ["search_folder"]

#: What accompanies scans and is none: notes, tables, sidecars, the second file of a pair.
_COMPANIONS = (
    *(".txt", ".md", ".rst", ".pdf", ".html", ".htm", ".xml", ".json", ".yaml", ".yml", ".toml", ".cfg", ".ini"),
    *(".csv", ".tsv", ".xls", ".xlsx", ".bval", ".bvec", ".log", ".py", ".sh", ".m", ".css", ".js", ".svg"),
    *(".raw", ".zraw", ".raw.gz", ".pt", ".safetensors", ".onnx"),
)
_COMPANION_NAMES = ("dicomdir", "readme", "license", "changes", "thumbs.db", "desktop.ini", "lockfile", "version")


def search_folder(
    folder: Path, kind: str, suffix: str | None = None, pattern: str | None = None
) -> tuple[list[Item], list[LeftOut]]:
    """List the scans below a folder, and what was left out.

    Args:
        folder: searched recursively.
        kind: "auto", "nifti", "dicom" or "picture".
        suffix: see :func:`~monai_dpmm_ad.data.choice.choose_items`.
        pattern: as well.

    Raises:
        ScanError: when there is no scan, or several kinds of image of each subject and no choice among them.
    """
    unreadable: list[str] = []
    there = _walk(folder, unreadable)
    matching = [file for file in there if is_wanted(folder, file, pattern)]
    files = [file for file in matching if is_raw(folder, file)]
    if str(folder) in unreadable:
        raise ScanError(folder, "cannot be read: permission denied")
    wanted = {"nifti": VOLUME_SUFFIXES, "picture": PICTURE_SUFFIXES, "dicom": (), "auto": IMAGE_SUFFIXES}[kind]
    images = [file for file in files if wanted and has_suffix(file, wanted)]
    judged = [judge_file(file) or judge_name(file) for file in images]
    left_out = [thing for thing in judged if thing is not None]
    items: list[Item] = [{"image": str(file)} for file, thing in zip(images, judged, strict=True) if thing is None]
    if kind == "auto":
        items, others = _without_pictures(items)
        left_out += others
    items, others = choose_items(items, suffix)
    left_out += others
    check_one_kind(folder, items, suffix, pattern)
    if kind in ("auto", "dicom"):
        series, others = _search_dicom(folder, files)
        chosen, other_kinds = choose_items(series, suffix)
        items, left_out = items + chosen, left_out + others + other_kinds
    items += [{"image": path} for path in unreadable]  # which fail on their own, with their names
    if not items and there and not matching:
        raise ScanError(folder, f"holds {len(there)} files, none of which matches the pattern '{pattern}'")
    if not items:
        raise ScanError(folder, f"holds no images{_detail(left_out)}" if there else "is an empty folder")
    return items, left_out


def _detail(left_out: Sequence[LeftOut]) -> str:
    if not left_out:
        return ""
    first = left_out[0]
    return f" (left out {len(left_out)}: {count_kinds(left_out)}; {Path(first.path).name} {first.reason})"


def _without_pictures(items: list[Item]) -> tuple[list[Item], list[LeftOut]]:
    """Where there are volumes, pictures beside them are drawings of them."""
    volumes = [item for item in items if has_suffix(item["image"], VOLUME_SUFFIXES)]
    if not volumes:
        return items, []
    pictures = [item["image"] for item in items if not has_suffix(item["image"], VOLUME_SUFFIXES)]
    reason = "is a picture among volumes; name it by itself to have it taken"
    return volumes, [LeftOut(path, "pictures among volumes", reason, True) for path in pictures]


def _walk(folder: Path, unreadable: list[str]) -> list[Path]:
    """Every file below a folder, sorted; hidden ones and macOS's shadow files are no scans.

    Args:
        folder: where to look.
        unreadable: gets the folders that cannot be looked into.
    """

    def fail(error: OSError) -> None:
        unreadable.append(os.fsdecode(error.filename))

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


def _search_dicom(folder: Path, files: Sequence[Path]) -> tuple[list[Item], list[LeftOut]]:
    candidates, left_out = [], []
    for file in files:
        if has_suffix(file, IMAGE_SUFFIXES) or file.stem.lower() in _COMPANION_NAMES:
            continue
        if has_suffix(file, _COMPANIONS) or _has_header(file):
            continue
        if kind := special_kind(file):
            left_out.append(LeftOut(str(file), "files of other kinds", f"is {kind}, no file"))
        elif is_dicom_file(file):
            candidates.append(file)
        elif has_suffix(file, (".img",)):
            left_out.append(LeftOut(str(file), "files of other kinds", "lacks the header of its pair, a .hdr file"))
        else:
            left_out.append(LeftOut(str(file), "files of other kinds", "is not an image that can be read"))
    if not candidates:
        return [], left_out
    try:
        import_extra("pydicom", "dicom")
    except ImportError as error:
        raise ScanError(folder, str(error)) from error
    items, others = find_series(candidates)
    return items, left_out + others


def _has_header(file: Path) -> bool:
    """Tell whether a file holds the voxels of a pair, whose header stands for it."""
    return has_suffix(file, (".img", ".img.gz")) and any(
        file.with_name(file.name[: file.name.lower().rindex(".img")] + suffix).exists() for suffix in (".hdr", ".HDR")
    )
