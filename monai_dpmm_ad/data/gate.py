# Copyright 2026 monai_dpmm_ad contributors. Licensed under the Apache License, Version 2.0.
"""The one place that decides whether a thing that was found is a patient image.

Everything that is left out has a kind, for the summary, and a reason, for ``left_out.csv``. What a file's content says
(a storage class, an intent code, a handful of values, our own mark) holds for files that a user names as well: there it
is an error. What only its name says holds for files that were found in a folder.
"""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from monai_dpmm_ad.data.paths import (
    MAKER,
    NIBABEL_SUFFIXES,
    PICTURE_SUFFIXES,
    has_suffix,
    scan_stem,
    special_kind,
)
from monai_dpmm_ad.utils.extras import import_extra
from monai_dpmm_ad.utils.files import remove_file, write_csv

__all__ = ["LeftOut", "count_kinds", "judge_dicom", "judge_file", "judge_name", "summarise", "write_left_out"]


@dataclass(frozen=True)
class LeftOut:
    """One thing that is no scan.

    Args:
        path: the file or folder.
        kind: a plural for the summary: "segmentations".
        reason: why, without a full stop.
        by_name: whether only its name says so, so that a user who names it may have it taken.
    """

    path: str
    kind: str
    reason: str
    by_name: bool = False


OWN = "maps of our own"
SEGMENTATIONS = "segmentations"

_OWN_NAMES = ("_anomaly", "_percentile", "_healthy", "_change", "_changed")
_LABEL_NAME = re.compile(
    r"(?:^|[_.\-])(?:d?seg|probseg|labels?|mask|aseg|aparc[+\w]*|parc|segmentation|roi)$", re.IGNORECASE
)
#: NIfTI intent codes: label, and the parcellations' names; statistics are maps as well.
_INTENT_LABELS = (1002,)
_INTENT_STATISTICS = range(2, 25)
#: A volume of whole numbers with at most so many values is a label map, no image.
_FEW_VALUES = 16
#: With more values it is one where so many neighbours are equal; in images with noise hardly any are.
_EQUAL_NEIGHBOURS = 0.6
#: So many values has the finest parcellation; more are an image, whatever an intent code says.
_MANY_VALUES = 512
_SOFTWARE = 305  # TIFF's tag
_CHUNK = 2**20  # voxels that are looked at in one step

# Storage classes by the last parts of their identifiers; what is not listed is asked for its pixels alone.
_CLASS_ROOT = "1.2.840.10008.5.1.4.1.1."
_CLASSES = {
    "7": ("secondary captures", "is a secondary capture (a screenshot or scanned page)"),
    "66": ("DICOM raw data", "is raw data, no image"),
    "66.4": (SEGMENTATIONS, "is a DICOM segmentation"),
    "66.5": (SEGMENTATIONS, "is a DICOM surface segmentation"),
    "66.7": (SEGMENTATIONS, "is a DICOM label map"),
    "30": ("parametric maps", "is a DICOM parametric map"),
    "481": ("radiotherapy objects", "is a radiotherapy object"),
    "88": ("reports", "is a structured report"),
    "104": ("documents", "is a document"),
    "11": ("presentation states", "is a presentation state"),
    "9": ("waveforms", "is a waveform"),
    "4.2": ("spectroscopy", "is MR spectroscopy, no image"),
}
_MODALITIES = {
    "SEG": _CLASSES["66.4"],
    "RTSTRUCT": _CLASSES["481"],
    "RTDOSE": _CLASSES["481"],
    "RTPLAN": _CLASSES["481"],
    "SR": _CLASSES["88"],
    "DOC": _CLASSES["104"],
    "PR": _CLASSES["11"],
    "KO": _CLASSES["88"],
}


def judge_name(path: Path) -> LeftOut | None:
    """Judge a file that was found in a folder by its name alone."""
    stem = scan_stem(path)
    if stem.endswith(_OWN_NAMES):
        return LeftOut(str(path), OWN, "is named like a map of ours (*_anomaly, *_percentile, …)", True)
    if _LABEL_NAME.search(stem):
        return LeftOut(str(path), SEGMENTATIONS, "is named like a segmentation (_seg, _dseg, _label, _mask, …)", True)
    return None


def judge_file(path: Path) -> LeftOut | None:
    """Judge a NIfTI file or a picture by what it holds; a file that cannot be read is left to whoever loads it."""
    from monai_dpmm_ad.data.readers import quiet_readers

    if special_kind(path):
        return None

    try:
        with quiet_readers():
            if has_suffix(path, NIBABEL_SUFFIXES):
                return _judge_volume(path)
            if has_suffix(path, PICTURE_SUFFIXES):
                return _judge_picture(path)
    except Exception:
        return None
    return None


def _judge_volume(path: Path) -> LeftOut | None:
    from monai_dpmm_ad.data.nifti import open_volume

    image = open_volume(str(path))
    header = image.header
    if "descrip" in header and bytes(header["descrip"].tobytes()).startswith(MAKER.encode()):
        return LeftOut(str(path), OWN, "was written by this program")
    code = int(header["intent_code"]) if "intent_code" in header else 0
    if code in _INTENT_STATISTICS:
        return LeftOut(str(path), "statistical maps", f"is a statistical map (intent code {code})")
    number, equal = _look_at_values(image)
    is_patchy = 1 < number <= _MANY_VALUES and equal > _EQUAL_NEIGHBOURS
    if code in _INTENT_LABELS and (is_patchy or number <= _FEW_VALUES):
        return LeftOut(str(path), SEGMENTATIONS, f"is a label map (intent code {code})")
    if 1 < number <= _FEW_VALUES or is_patchy:
        what = f"{number} values" if number <= _FEW_VALUES else f"{number} values in patches"
        return LeftOut(str(path), SEGMENTATIONS, f"is a label map: its voxels are whole numbers with {what}")
    return None


def _look_at_values(image: Any) -> tuple[int, float]:
    """Count a volume's different values, and how often neighbours above 0 have the same; any fraction ends the count.

    Returns:
        The number of values, larger than that of any label map where the count was ended; and the share.
    """
    values: np.ndarray = np.zeros(0)
    pairs = same = 0
    shape = image.shape
    if len(shape) < 3 or min(shape) < 1:
        return _MANY_VALUES + 1, 0.0
    step = max(1, _CHUNK // max(1, int(np.prod(shape[:2]))))
    for start in range(0, shape[2], step):
        part = np.asanyarray(image.dataobj[:, :, start : start + step])
        if part.dtype.kind not in "biuf" or not (np.isfinite(part) & (part == np.rint(part))).all():
            return _MANY_VALUES + 1, 0.0
        values = np.union1d(values, np.unique(part))
        if len(values) > _MANY_VALUES:
            break
        both = (part[1:] != 0) & (part[:-1] != 0)
        pairs += int(both.sum())
        same += int((both & (part[1:] == part[:-1])).sum())
    return len(values), same / max(1, pairs)


def _judge_picture(path: Path) -> LeftOut | None:
    from PIL import Image

    with Image.open(path) as picture:
        marks = (picture.info.get("Software"), picture.getexif().get(_SOFTWARE))
        if any(str(mark).startswith(MAKER) for mark in marks):
            return LeftOut(str(path), OWN, "was written by this program")
    return None


def judge_dicom(path: str, header: Any) -> LeftOut | None:
    """Judge a DICOM file by its header.

    Args:
        path: of the file.
        header: a pydicom data set with the tags that :data:`monai_dpmm_ad.data.dicom_series.TAGS` lists.
    """
    if str(header.get("Manufacturer", "")) == MAKER:
        return LeftOut(path, OWN, "was written by this program")
    sop_class = str(header.get("SOPClassUID", ""))
    known = _known_class(sop_class) or (None if sop_class else _MODALITIES.get(str(header.get("Modality", ""))))
    if known:  # a converted series may be stored as captures: with positions it is one, for whoever names it
        return LeftOut(path, *known, by_name=bool(header.get("ImagePositionPatient")) and known == _CLASSES["7"])
    if not header.get("Rows"):
        name = import_extra("pydicom", "dicom").uid.UID(sop_class).name if sop_class else "no storage class"
        return LeftOut(path, "DICOM files without pixels", f"holds no DICOM image ({name})")
    words = [str(word).upper() for word in _words(header.get("ImageType"))]
    if any(word.startswith("LOCALIZER") or word == "SCOUT" for word in words):
        return LeftOut(path, "localisers", "is a localiser (ImageType)")
    if "SCREEN SAVE" in words or "SCREENSAVE" in words:
        return LeftOut(path, "secondary captures", "is a screenshot (ImageType)")
    if len(words) > 1 and words[1] == "SECONDARY":
        return LeftOut(path, "secondary images", "is a secondary image (ImageType)", True)
    return None


def _words(value: Any) -> list[str]:
    if value is None:
        return []
    return [value] if isinstance(value, str) else list(value)


def _known_class(sop_class: str) -> tuple[str, str] | None:
    if not sop_class.startswith(_CLASS_ROOT):
        return None
    parts = sop_class[len(_CLASS_ROOT) :].split(".")
    for length in range(len(parts), 0, -1):
        known = _CLASSES.get(".".join(parts[:length]))
        if known:
            return known
    return None


def summarise(number: int, left_out: Sequence[LeftOut], note: str = "") -> str | None:
    """Say in one line what was taken and what was not; None where nothing was left out and there is no note."""
    if not left_out and not note:
        return None
    scans = f"took {number} scan{'' if number == 1 else 's'}{note}"
    return f"{scans}, left out {len(left_out)}: {count_kinds(left_out)}" if left_out else scans


def count_kinds(left_out: Sequence[LeftOut]) -> str:
    """List what was left out by kind, the most frequent first: "3 localisers, 2 segmentations"."""
    counts = Counter(thing.kind for thing in left_out)
    return ", ".join(f"{count} {kind}" for kind, count in sorted(counts.items(), key=lambda pair: (-pair[1], pair[0])))


def write_left_out(folder: str | os.PathLike[str], left_out: Sequence[LeftOut]) -> None:
    """Write ``left_out.csv``, or remove that of an earlier run when nothing was left out."""
    path = Path(folder) / "left_out.csv"
    if left_out:
        write_csv(path, ("path", "kind", "reason"), [(thing.path, thing.kind, thing.reason) for thing in left_out])
    else:
        remove_file(path)
