# Copyright 2026 monai_dpmm_ad contributors. Licensed under the Apache License, Version 2.0.
"""From DICOM files, wherever they lie, to series: one item each, with the patient it shows and a name of its own."""

from __future__ import annotations

import filecmp
import gzip
import hashlib
import re
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from io import BytesIO
from pathlib import Path
from typing import Any

from monai_dpmm_ad.data.choice import SERIES_KIND
from monai_dpmm_ad.data.dicom_reader import DicomSeriesReader
from monai_dpmm_ad.data.gate import LeftOut, judge_dicom
from monai_dpmm_ad.data.limits import DEFAULT_MAX_BYTES, open_in_memory
from monai_dpmm_ad.data.paths import has_suffix, is_dicom_file, safe_name, scan_stem
from monai_dpmm_ad.data.types import Item
from monai_dpmm_ad.utils.extras import import_extra

__all__ = ["find_series", "is_single_slice", "name_patient", "read_header"]

#: Folders that tell what a series without a description shows; others are named by visits, or numbers of series.
_SEQUENCE = re.compile(r"(?:.*[_\W])?(?:t[12]|flair|pd|dwi|adc|swi|stir)(?!\d)", re.IGNORECASE)
_IDENTITY = ("PatientID", "StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID", "SOPClassUID")
_KIND = ("Modality", "ImageType", "Manufacturer", "SeriesDescription", "ProtocolName", "SeriesNumber")
_GRID = ("Rows", "Columns", "NumberOfFrames", "ImageOrientationPatient", "ImagePositionPatient")
#: What is read of each header.
TAGS = [*_IDENTITY, *_KIND, *_GRID]
_HEADER_BYTES = 64 * 2**20  # of a packed file that is unpacked for its header
#: What anonymisers write for every patient alike.
_NOBODY = re.compile(r"(anon\w*|none|unknown|patient|removed|deid\w*|n/?a|no.?id|[x0*\-_. ]*)", re.IGNORECASE)


@dataclass
class _Slice:
    """One file of a series."""

    path: Path
    header: Any

    @cached_property
    def pixels(self) -> str:
        """Digest of the pixels as they are stored; the path where they cannot be read: like no other."""
        try:
            frame = DicomSeriesReader(DEFAULT_MAX_BYTES).read(self.path)[0]
            return hashlib.sha256(frame.dataset.PixelData).hexdigest()
        except Exception:  # a damaged file makes readers raise anything
            return str(self.path)

    def text(self, tag: str) -> str:
        return str(self.header.get(tag, "") or "").strip()


def read_header(path: Path) -> Any:
    """Read the part of a DICOM header that says what the file is; preamble and file meta information may be absent.

    Returns:
        A pydicom data set, or None where the file cannot be read.
    """
    pydicom = import_extra("pydicom", "dicom")
    source: Any = path
    try:
        if has_suffix(path, (".gz",)):
            with gzip.GzipFile(fileobj=open_in_memory(path, _HEADER_BYTES)) as file:
                source = BytesIO(file.read(_HEADER_BYTES))
        header = pydicom.dcmread(source, stop_before_pixels=True, force=True, specific_tags=TAGS)
        list(header)  # a value is converted when it is looked at, and a damaged one raises anything
        return header
    except Exception:
        return None


def find_series(files: Sequence[Path]) -> tuple[list[Item], list[LeftOut]]:
    """Group DICOM files by series.

    The same series of a patient is one wherever its files lie; the same image counts once, by a whole copy if there is
    one. Files without a series' identifier are one series where everything that could tell them apart agrees, and they
    lie in one folder.

    Args:
        files: all DICOM files below one path.

    Returns:
        Items (``image``: the folder where it holds nothing else, else the file or files; ``subject``; ``name``; until
        scans are chosen ``series`` and ``series_kind``) by their first files, and what is no patient image.
    """
    slices: list[_Slice] = []
    left_out: list[LeftOut] = []
    taken: dict[tuple[str, str], list[int]] = {}  # SOPInstanceUID, position → places in `slices`
    pixels = Counter[Path]()  # files of a folder that reading the folder would read
    items: list[tuple[str, Item]] = []
    for path in files:
        header = read_header(path)
        if header is None or not len(header):  # it fails on its own, with a reason
            items.append((str(path), {"image": str(path)}))
            continue
        reason = judge_dicom(str(path), header)
        if reason is None:
            slice_ = _Slice(path, header)
            if uid := slice_.text("SOPInstanceUID"):
                places = taken.setdefault((uid, slice_.text("ImagePositionPatient")), [])
                first = next((place for place in places if _is_copy(slices[place], slice_)), None)
                if first is None:
                    places.append(len(slices))
                else:
                    reason = _judge_copy(slices, first, slice_)
        if header.get("Rows") and (reason is None or reason.kind != "copies"):
            pixels[path.parent] += 1
        if reason is not None:
            left_out.append(reason)
        else:
            slices.append(slice_)
    for group in _group(slices):
        folders = {slice_.path.parent for slice_ in group}
        alone = len(folders) == 1 and len(group) == pixels[group[0].path.parent] > 1
        items.append((str(group[0].path), _item(group, alone)))
    return [item for _, item in sorted(items, key=lambda pair: pair[0])], left_out


def name_patient(image: str | Sequence[str]) -> str | None:
    """The patient or study of a series by its first header, as `find_series` names it; None where there is none.

    Args:
        image: a folder or files.
    """
    with suppress(ImportError, OSError):  # loading says what is wrong
        files = [Path(image)] if isinstance(image, str) else [Path(file) for file in image]
        for path in sorted(files[0].iterdir()) if files[0].is_dir() else files:
            header = read_header(path) if path.is_file() and is_dicom_file(path) else None
            if header is not None and header.get("Rows"):
                return _subject(_Slice(path, header))
    return None


def is_single_slice(image: str | Sequence[str]) -> bool:
    """Whether an item's image is one DICOM slice, by its header; False where it cannot be read."""
    if not isinstance(image, str) or not is_dicom_file(Path(image)):
        return False
    header = read_header(Path(image))
    return header is not None and bool(header.get("Rows")) and str(header.get("NumberOfFrames") or 1) == "1"


def _is_copy(first: _Slice, other: _Slice) -> bool:
    """Whether two files of one identifier and position are one image: some anonymisers give all images the same."""
    owners = ("PatientID", "SeriesInstanceUID")
    return all(first.text(tag) == other.text(tag) for tag in owners) or first.pixels == other.pixels


def _judge_copy(slices: list[_Slice], place: int, copy: _Slice) -> LeftOut:
    """Of two files of one image keep in ``slices`` the first, unless it is damaged and the other one is whole."""
    first = slices[place]
    if not filecmp.cmp(first.path, copy.path, shallow=False) and not _is_whole(first.path) and _is_whole(copy.path):
        slices[place] = copy
        return LeftOut(str(first.path), "copies", "is a damaged copy; a whole one was taken (SOPInstanceUID)")
    return LeftOut(str(copy.path), "copies", "is a copy of an image that was taken already (SOPInstanceUID)")


def _is_whole(path: Path) -> bool:
    """Whether a DICOM file's pixels can be decoded: all of them are there."""
    try:
        for frame in DicomSeriesReader(DEFAULT_MAX_BYTES).read(path):
            frame.read()
    except Exception:  # a damaged file makes readers raise anything
        return False
    return True


def _group(slices: Sequence[_Slice]) -> list[list[_Slice]]:
    groups: dict[tuple[Any, ...], list[_Slice]] = {}
    for slice_ in slices:
        try:
            key = _key(slice_)
        except (ValueError, TypeError):  # no numbers where some must be: it fails on its own, with a reason
            key = ("file", str(slice_.path))
        groups.setdefault(key, []).append(slice_)
    return list(groups.values())


def _key(slice_: _Slice) -> tuple[Any, ...]:
    if int(slice_.header.get("NumberOfFrames", 1) or 1) > 1:  # a volume by itself
        return ("frames", str(slice_.path))
    if uid := slice_.text("SeriesInstanceUID"):
        return ("series", uid, slice_.text("PatientID"))  # never two patients in one scan, whoever wrote the uid
    if not slice_.header.get("ImagePositionPatient"):  # nothing says that it belongs to another
        return ("file", str(slice_.path))
    turn = tuple(round(float(x), 2) for x in slice_.header.get("ImageOrientationPatient") or ())
    tags = ("PatientID", "StudyInstanceUID", "Modality", "SeriesNumber", "SeriesDescription", "Rows", "Columns")
    return ("folder", str(slice_.path.parent), turn, *(slice_.text(tag) for tag in tags))


def _item(group: Sequence[_Slice], alone: bool) -> Item:
    """One series; ``alone``: its files are all the images of one folder."""
    first = group[0]
    members = [str(slice_.path) for slice_ in group]
    item: Item = {"image": str(first.path.parent) if alone else members[0] if len(members) == 1 else members}
    if subject := _subject(first):
        item["subject"] = subject
    item["series"] = hashlib.sha256((first.text("SeriesInstanceUID") or members[0]).encode()).hexdigest()[:8]
    folder = first.path.absolute().parent.name
    item[SERIES_KIND] = " ".join(first.text("SeriesDescription").split()) or folder * bool(_SEQUENCE.match(folder))
    item["name"] = _name(first, alone=len(group) == 1)
    return item


def _subject(slice_: _Slice) -> str | None:
    patient = slice_.text("PatientID")
    if patient and not _NOBODY.fullmatch(patient):
        return f"patient {patient}"
    study = slice_.text("StudyInstanceUID")
    return f"study {study}" if study else None


def _name(slice_: _Slice, alone: bool) -> str:
    """Description and number, as a viewer lists a series; a single image that has neither is named by its file."""
    description = slice_.text("SeriesDescription") or slice_.text("ProtocolName")
    number = slice_.text("SeriesNumber")
    if alone and not description and not number:
        return scan_stem(slice_.path)
    return safe_name("_".join(filter(None, [description or slice_.text("Modality") or "series", number])))
