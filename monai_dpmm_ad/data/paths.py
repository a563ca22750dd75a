# Copyright 2026 monai_dpmm_ad contributors. Licensed under the Apache License, Version 2.0.
"""What a path says about a scan before it is opened: its format, its name, whether it is DICOM."""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Iterable, Sequence
from pathlib import Path

__all__ = [
    "DICOM_SUFFIXES",
    "IMAGE_SUFFIXES",
    "MAKER",
    "META_SUFFIXES",
    "NIBABEL_SUFFIXES",
    "NIFTI_SUFFIXES",
    "NRRD_SUFFIXES",
    "PAIR_HEADERS",
    "PICTURE_SUFFIXES",
    "VOLUME_SUFFIXES",
    "find_voxels",
    "has_suffix",
    "is_dicom_file",
    "lost_voxels",
    "safe_name",
    "scan_files",
    "scan_stem",
    "special_kind",
    "unique_names",
]

#: What we write into the files that we make, so that they are known wherever they lie.
MAKER = "monai_dpmm_ad"

NIFTI_SUFFIXES = (".nii", ".nii.gz")
#: Pairs of Analyze or NIfTI (the header names the pair) and FreeSurfer's volumes.
NIBABEL_SUFFIXES = (*NIFTI_SUFFIXES, ".hdr", ".mgz", ".mgh")
NRRD_SUFFIXES = (".nrrd", ".nhdr")
META_SUFFIXES = (".mha", ".mhd")
#: Headers whose voxels are in another file.
PAIR_HEADERS = (".hdr", ".nhdr", ".mhd")
VOLUME_SUFFIXES = NIBABEL_SUFFIXES + NRRD_SUFFIXES + META_SUFFIXES
PICTURE_SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff")
IMAGE_SUFFIXES = VOLUME_SUFFIXES + PICTURE_SUFFIXES
#: How a MetaImage's and an NRRD's header name the file that holds the voxels.
_META_VOXELS = re.compile(rb"^\s*ElementDataFile\s*=\s*(.*?)\s*$", re.MULTILINE)
_NRRD_VOXELS = re.compile(rb"^\s*data ?file:\s*(.*?)\s*$", re.MULTILINE | re.IGNORECASE)
_HEADER_BYTES = 2**16
DICOM_SUFFIXES = (".dcm", ".ima", ".dicom", ".dcm.gz")


def has_suffix(path: str | os.PathLike, suffixes: Iterable[str]) -> bool:
    """Tell whether a file's name ends with one of ``suffixes``, in upper or lower case."""
    return os.fspath(path).lower().endswith(tuple(suffixes))


def scan_files(path: Path) -> list[Path]:
    """A file and, where it is the header of a pair, the file beside it that holds the voxels.

    Raises:
        OSError: the header cannot be read.
    """
    if not has_suffix(path, PAIR_HEADERS):
        return [path]
    if has_suffix(path, (".hdr",)):
        names = [path.name[:-4] + suffix for suffix in (".img", ".IMG", ".img.gz")]
    else:
        names = [os.path.basename(find_voxels(path))]
    beside = [path.with_name(name) for name in names if name and "\0" not in name]
    return [path, *(file for file in beside if file.is_file() and file != path)]


def find_voxels(path: str | os.PathLike) -> str:
    """What the header of a MetaImage or an NRRD calls the file that holds the voxels; empty where it names none.

    Raises:
        OSError: it cannot be read.
    """
    pattern = _META_VOXELS if has_suffix(path, META_SUFFIXES) else _NRRD_VOXELS
    with open(path, "rb") as file:
        found = pattern.search(file.read(_HEADER_BYTES))
    return "" if found is None else os.fsdecode(found[1])


def lost_voxels(path: Path) -> str | None:
    """The name of the file with a header's voxels, where it is not beside it; None where it is, or none is named.

    Raises:
        OSError: the header cannot be read.
    """
    if not has_suffix(path, PAIR_HEADERS) or len(scan_files(path)) > 1:
        return None
    if has_suffix(path, (".hdr",)):
        return f"{path.name[:-4]}.img"
    name = os.path.basename(find_voxels(path))
    return None if not name or "%" in name or name.upper() in ("LOCAL", "LIST") else name  # itself, or several


def scan_stem(path: str | os.PathLike) -> str:
    """Return a file's or folder's name without its image suffix, made safe for use in a file name.

    Example:
        >>> scan_stem("/data/patient 19/FLAIR.nii.gz")
        'FLAIR'
    """
    name = Path(path).name or Path(path).resolve().name
    for suffix in (".nii.gz", ".dcm.gz", *IMAGE_SUFFIXES, *DICOM_SUFFIXES):
        if name.lower().endswith(suffix) and len(name) > len(suffix):
            name = name[: -len(suffix)]
            break
    return safe_name(name)


def special_kind(path: str | os.PathLike[str]) -> str | None:
    """Say what a path is that is neither a file nor a folder: opening it may wait for ever, or never end.

    Returns:
        For example "a named pipe"; None for files, folders and what is not there.
    """
    try:
        mode = os.stat(path).st_mode
    except (OSError, ValueError):
        return None
    if stat.S_ISFIFO(mode):
        return "a named pipe"
    if stat.S_ISSOCK(mode):
        return "a socket"
    return "a device" if stat.S_ISCHR(mode) or stat.S_ISBLK(mode) else None


def is_dicom_file(path: Path) -> bool:
    """Tell whether a file is DICOM: by its suffix, its preamble's mark, or a first element as data sets have it."""
    if special_kind(path):
        return False
    if has_suffix(path, DICOM_SUFFIXES):
        return True
    try:
        with path.open("rb") as file:
            start = file.read(132)
    except OSError:
        return False
    return start[128:] == b"DICM" or _begins_with_element(start)


def _begins_with_element(start: bytes) -> bool:
    """Tell whether bytes begin as a data set without preamble does: with an element of group 0002 or 0008."""
    if len(start) < 12 or start[:2] not in (b"\x02\x00", b"\x08\x00") or start[3] != 0 or start[2] > 0x18:
        return False
    explicit = start[4:6].isalpha() and start[4:6].isupper()
    return explicit or int.from_bytes(start[4:8], "little") <= 64  # implicit: a short value follows


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
        >>> unique_names([("data", "patient07", "FLAIR"), ("data", "patient07", "FLAIR")])
        ['FLAIR', 'FLAIR_2']
    """
    depths = [1] * len(parts)
    while True:
        names = ["_".join(part[-depth:]) for part, depth in zip(parts, depths, strict=True)]
        clashing = [index for index in _clashes(names, parts) if depths[index] < len(parts[index])]
        if not clashing:
            break
        for index in clashing:
            depths[index] += 1
    taken: set[str] = set()
    for index, name in enumerate(names):
        names[index] = unique = _number(safe_name(name), taken)
        taken.add(unique.lower())
    return names


def _clashes(names: list[str], parts: Sequence[Sequence[str]]) -> list[int]:
    """Indices of names that are the same though folders tell them apart."""
    groups: dict[str, set[str]] = {}  # file systems may take upper and lower case for the same
    for name, part in zip(names, parts, strict=True):
        groups.setdefault(name.lower(), set()).add("/".join(part).lower())
    return [index for index, name in enumerate(names) if len(groups[name.lower()]) > 1]


def _number(name: str, taken: set[str]) -> str:
    unique, count = name, 1
    while unique.lower() in taken:
        count += 1
        unique = f"{name}_{count}"
    return unique
