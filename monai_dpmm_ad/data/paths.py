# Copyright 2026 monai_dpmm_ad contributors. Licensed under the Apache License, Version 2.0.
"""What a path says about a scan before it is opened: its format, its name, whether it is DICOM."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Sequence
from pathlib import Path

__all__ = [
    "IMAGE_SUFFIXES",
    "NIFTI_SUFFIXES",
    "NRRD_SUFFIXES",
    "PICTURE_SUFFIXES",
    "has_suffix",
    "is_dicom_file",
    "safe_name",
    "scan_stem",
    "unique_names",
]

NIFTI_SUFFIXES = (".nii", ".nii.gz")
NRRD_SUFFIXES = (".nrrd",)
PICTURE_SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp")
IMAGE_SUFFIXES = NIFTI_SUFFIXES + NRRD_SUFFIXES + PICTURE_SUFFIXES


def has_suffix(path: str | os.PathLike, suffixes: Iterable[str]) -> bool:
    """Tell whether a file's name ends with one of ``suffixes``, in upper or lower case."""
    return os.fspath(path).lower().endswith(tuple(suffixes))


def scan_stem(path: str | os.PathLike) -> str:
    """Return a file's or folder's name without its image suffix, made safe for use in a file name.

    Example:
        >>> scan_stem("/data/patient 19/FLAIR.nii.gz")
        'FLAIR'
    """
    name = Path(path).name or Path(path).resolve().name
    for suffix in (".nii.gz", ".nii", *NRRD_SUFFIXES, *PICTURE_SUFFIXES, ".dcm", ".ima"):
        if name.lower().endswith(suffix) and len(name) > len(suffix):
            name = name[: -len(suffix)]
            break
    return safe_name(name)


def is_dicom_file(path: Path) -> bool:
    """Tell whether a file is DICOM: by its suffix, or by the mark that its 128-byte preamble ends with."""
    if has_suffix(path, (".dcm", ".ima")):
        return True
    try:
        with path.open("rb") as file:
            return file.read(132)[128:] == b"DICM"
    except OSError:
        return False


def safe_name(name: str) -> str:
    """Make text safe in a file name: word characters, dot and dash only, no leading dot, at most 180 bytes.

    Example:
        >>> safe_name("../case 3")
        '_case_3'
    """
    cleaned = re.sub(r"[^\w.\-]+", "_", name).lstrip(".-").rstrip(".")
    while len(cleaned.encode()) > 180:
        cleaned = cleaned[:-1]
    return cleaned or "scan"


def unique_names(parts: Sequence[Sequence[str]]) -> list[str]:
    """Name scans by their files; where names collide, put as many parent folders before them as it takes.

    Args:
        parts: for each scan its safe parent folders, outermost first, and its own safe name.

    Returns:
        One name each, all different even where upper and lower case count as the same. Scans that no folder tells
        apart get a number.

    Example:
        >>> unique_names([("data", "patient07", "FLAIR"), ("data", "patient19", "FLAIR"), ("data", "T1")])
        ['patient07_FLAIR', 'patient19_FLAIR', 'T1']
    """
    depths = [1] * len(parts)
    while True:
        names = ["_".join(part[-depth:]) for part, depth in zip(parts, depths, strict=True)]
        clashing = [index for index in _clashes(names) if depths[index] < len(parts[index])]
        if not clashing:
            break
        for index in clashing:
            depths[index] += 1
    taken: set[str] = set()
    for index, name in enumerate(names):
        names[index] = unique = _number(safe_name(name), taken)
        taken.add(unique.lower())
    return names


def _clashes(names: list[str]) -> list[int]:
    # File systems may take upper and lower case for the same.
    groups: dict[str, list[int]] = {}
    for index, name in enumerate(names):
        groups.setdefault(name.lower(), []).append(index)
    return [index for group in groups.values() if len(group) > 1 for index in group]


def _number(name: str, taken: set[str]) -> str:
    unique, count = name, 1
    while unique.lower() in taken:
        count += 1
        unique = f"{name}_{count}"
    return unique
