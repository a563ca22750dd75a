# Copyright 2026 monai_dpmm_ad contributors. Licensed under the Apache License, Version 2.0.
"""MONAI's image readers with what they take for granted checked first: the header, the geometry, the pixel format."""

from __future__ import annotations

import gzip
import logging
import os
import warnings
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from io import BytesIO
from typing import Any

import nibabel as nib
import numpy as np
from monai.data import NibabelReader, PILReader, PydicomReader
from PIL import Image, UnidentifiedImageError

from monai_dpmm_ad.data.limits import check_nifti_header, open_in_memory
from monai_dpmm_ad.data.paths import import_pydicom
from monai_dpmm_ad.errors import ScanError
from monai_dpmm_ad.utils.memory import describe_shortage

__all__ = ["DicomSeriesReader", "label_reader", "nifti_reader", "picture_reader", "quiet", "reading_reason"]

_BYTES_PER_VOXEL = 4  # everything is processed as float32
_NOISY_LOGGERS = ("nibabel.global", "pydicom", "PIL", "monai.data.nvimgcodec_pydicom_plugin")


@contextmanager
def quiet() -> Iterator[None]:
    """Silence the warnings and loggers of the libraries that read images; their exceptions still come through."""
    loggers = [logging.getLogger(name) for name in _NOISY_LOGGERS]
    disabled = [logger.disabled for logger in loggers]
    for logger in loggers:
        logger.disabled = True
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, was_disabled in zip(loggers, disabled, strict=True):
            logger.disabled = was_disabled


def reading_reason(error: Exception) -> str:
    """Say in one line why a file could not be read.

    Args:
        error: what a reader raised.

    Returns:
        The reason, without a full stop.
    """
    text = next((line.strip() for line in str(error).splitlines() if line.strip()), "")
    if isinstance(error, EOFError) or ("Expected" in text and "bytes, got" in text) or "truncated" in text.lower():
        return "is truncated or damaged: it ends before its last voxel"
    if isinstance(error, (gzip.BadGzipFile, zlib.error)):
        return "is damaged: its gzip compression cannot be undone"
    if isinstance(error, PermissionError):
        return "cannot be read: permission denied"
    if isinstance(error, (nib.filebasedimages.ImageFileError, UnidentifiedImageError)):
        return "is not an image, or a damaged one"
    if isinstance(error, MemoryError):
        return "does not fit into memory"
    return f"cannot be read ({type(error).__name__}: {text.rstrip('.')})" if text else "cannot be read"


class _NiftiReader(NibabelReader):
    """MONAI's reader without its "correction": it may exchange the file's affine for another that fits its voxel sizes.

    What is written beside a scan must have the affine that the scan's file has.
    """

    def __init__(self) -> None:
        super().__init__(squeeze_non_spatial_dims=True)

    def read(self, data: Any, **kwargs: Any) -> Any:
        """Open one file."""
        self.filenames = (data,) if isinstance(data, (str, os.PathLike)) else tuple(data)
        return nib.load(self.filenames[0], **kwargs)


def nifti_reader(path: str, max_bytes: int) -> NibabelReader:
    """Check a NIfTI header and return a reader for the file.

    Args:
        path: the file.
        max_bytes: the most memory that its voxels may take as float32.

    Returns:
        A fresh reader (MONAI's readers keep the file's name, so sharing one between threads is unsafe).

    Raises:
        ScanError: when the header rules the file out.
    """
    check_nifti_header(path)
    image: Any = nib.load(path)
    dtype = image.get_data_dtype()
    if dtype.fields is not None or dtype.kind not in "biuf":
        raise ScanError(path, f"has voxels of type {dtype}; a scan needs one real number per voxel")
    shape = tuple(int(size) for size in image.shape)
    if len(shape) < 2 or min(shape) < 1:
        raise ScanError(path, f"has shape {shape}; a scan has two or three dimensions")
    if any(size != 1 for size in shape[3:]):
        raise ScanError(path, f"is {len(shape)}D with shape {shape}; split it into 3D volumes first")
    _check_size(path, shape, max_bytes)
    return _NiftiReader()


def picture_reader(path: str, max_bytes: int) -> PILReader:
    """Check a picture's size and return a reader that makes it grey.

    Args:
        path: a PNG, JPEG or BMP file.
        max_bytes: the most memory that its pixels may take as float32.

    Returns:
        A fresh reader.

    Raises:
        ScanError: when the picture is too large.
    """
    return _PictureReader(_to_grey, max_bytes)


def label_reader(path: str, max_bytes: int) -> PILReader:
    """As ``picture_reader`` for a mask: a pixel is as bright as its brightest channel, so that no colour is lost."""
    return _PictureReader(_to_brightest, max_bytes)


class _PictureReader(PILReader):
    """MONAI's reader, from memory: whatever a picture claims, no more than the file is read."""

    def __init__(self, converter: Callable[[Image.Image], Image.Image], max_bytes: int) -> None:
        super().__init__()
        self.make_grey = converter
        self.max_bytes = max_bytes

    def read(self, data: Any, **kwargs: Any) -> Image.Image:
        """Read one picture.

        Raises:
            ScanError: when it is too large.
        """
        path = str(data if isinstance(data, (str, os.PathLike)) else data[0])
        with Image.open(open_in_memory(path, self.max_bytes)) as picture:
            _check_size(path, picture.size, self.max_bytes)
            picture.load()
            return self.make_grey(picture)


def _check_size(path: str, shape: Sequence[int], max_bytes: int) -> None:
    claimed = int(np.prod([int(size) for size in shape], dtype=object)) * _BYTES_PER_VOXEL
    if claimed > max_bytes:
        raise ScanError(
            path, f"claims shape {tuple(shape)}, {claimed / 2**30:.1f} GiB; the limit is {max_bytes / 2**30:.1f} GiB"
        )
    if shortage := describe_shortage(claimed):
        raise ScanError(path, shortage)


def _is_plain(picture: Image.Image) -> bool:
    return picture.mode in ("L", "I", "F") or picture.mode.startswith("I;16")


def _to_grey(picture: Image.Image) -> Image.Image:
    """One channel, 16-bit and float kept; what is transparent is shown on black."""
    if _is_plain(picture):
        return picture
    return _on_black(picture).convert("L")


def _to_brightest(picture: Image.Image) -> Image.Image:
    if _is_plain(picture):
        return picture
    return Image.fromarray(np.asarray(_on_black(picture)).max(axis=-1))


def _on_black(picture: Image.Image) -> Image.Image:
    rgba = picture.convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", rgba.size, (0, 0, 0, 255)), rgba).convert("RGB")


class DicomSeriesReader(PydicomReader):
    """Read one DICOM series, its slices in the order of their positions in the patient.

    MONAI's reader orders by instance number, mixes series, and takes regular spacing for granted.

    Args:
        max_bytes: the most memory that the voxels may take as float32.
    """

    def __init__(self, max_bytes: int) -> None:
        import_pydicom()
        super().__init__()
        self.max_bytes = max_bytes
        #: files of the series that was read last, in the order of the volume's slices
        self.slice_files: list[str] = []

    def read(self, data: Sequence[os.PathLike | str] | os.PathLike | str, **kwargs: Any) -> Any:
        """Read a folder that holds one series, or the files of one series.

        Args:
            data: the folder, a file or the files.
            kwargs: passed to ``pydicom.dcmread``.

        Returns:
            One pydicom data set, or a list of them in spatial order.

        Raises:
            ScanError: when the files are not one regular series of single-frame grey images.
        """
        files = [str(data)] if isinstance(data, (str, os.PathLike)) else [str(file) for file in data]
        source = files[0]
        if len(files) == 1 and os.path.isdir(source):
            files = sorted(entry.path for entry in os.scandir(source) if entry.is_file())
        slices = self._read_slices(source, files, kwargs)
        shape = (int(slices[0][1].Rows), int(slices[0][1].Columns), len(slices))
        _check_size(source, shape, self.max_bytes)
        self.has_series = len(slices) > 1
        if not self.has_series:
            self.filenames = [slices[0][0]]
            self.slice_files = [slices[0][0]]
            return slices[0][1]
        slices = _sort_by_position(source, slices)
        self.slice_files = [file for file, _ in slices]
        self.filenames: list[Any] = [self.slice_files]
        for number, (_, dataset) in enumerate(slices, start=1):
            dataset.InstanceNumber = number  # the base class sorts by it
        return [dataset for _, dataset in slices]

    def _read_slices(self, source: str, files: list[str], kwargs: dict[str, Any]) -> list[tuple[str, Any]]:
        pydicom = import_pydicom()
        slices = []
        for file in files:
            try:
                content = open_in_memory(file, self.max_bytes)
                _refuse_deflated(source, content)
                dataset = pydicom.dcmread(content, **{**self.kwargs, **kwargs})
            except pydicom.errors.InvalidDicomError:
                continue  # a folder of DICOM files holds notes and indices too
            if "PixelData" in dataset:
                slices.append((file, dataset))
        if not slices:
            raise ScanError(source, "holds no DICOM image")
        series = {str(dataset.get("SeriesInstanceUID", "")) for _, dataset in slices}
        if len(series) > 1:
            raise ScanError(source, f"holds {len(series)} DICOM series; give each a folder of its own")
        for file, dataset in slices:
            if int(dataset.get("NumberOfFrames", 1) or 1) > 1:
                raise ScanError(source, "is a multi-frame DICOM; convert it to NIfTI first (dcm2niix does)")
            if int(dataset.get("SamplesPerPixel", 1)) > 1:
                raise ScanError(source, f"has a colour image ({os.path.basename(file)}); a scan needs one grey channel")
        return slices


def _refuse_deflated(source: str, content: BytesIO) -> None:
    """Refuse a data set that is compressed as a whole: pydicom unpacks it before anyone can ask how large it is."""
    from pydicom.filereader import read_partial
    from pydicom.uid import DeflatedExplicitVRLittleEndian

    header = read_partial(content, stop_when=lambda *_: True, force=False)
    content.seek(0)
    if header.file_meta.get("TransferSyntaxUID") == DeflatedExplicitVRLittleEndian:
        raise ScanError(source, "is a deflated DICOM; decompress it first (dcmconv +te of DCMTK does)")


def _sort_by_position(source: str, slices: list[tuple[str, Any]]) -> list[tuple[str, Any]]:
    """Order slices along their normal and make sure that they fill a regular grid."""
    for tag in ("ImageOrientationPatient", "ImagePositionPatient", "PixelSpacing"):
        if any(not dataset.get(tag) for _, dataset in slices):
            raise ScanError(source, f"has slices without {tag}, so the volume's geometry is unknown")
    first = slices[0][1]
    for tag in ("Rows", "Columns", "PixelSpacing", "ImageOrientationPatient"):
        reference = np.asarray(first.get(tag), dtype=float)
        if any(not np.allclose(np.asarray(d.get(tag), dtype=float), reference, atol=1e-3) for _, d in slices):
            raise ScanError(source, f"has slices that differ in {tag}; one series must share it")
    orientation = np.asarray(first.ImageOrientationPatient, dtype=float)
    normal = np.cross(orientation[:3], orientation[3:])
    positions = np.array([np.dot(normal, np.asarray(d.ImagePositionPatient, dtype=float)) for _, d in slices])
    order = np.argsort(positions, kind="stable")
    steps = np.diff(positions[order])
    if steps.min() <= 1e-3:
        raise ScanError(source, "has several slices at one position (4D); split it into single volumes first")
    if steps.max() - steps.min() > 0.1 * np.median(steps):
        raise ScanError(source, f"has slices {steps.min():.2f} to {steps.max():.2f} mm apart; a slice may be missing")
    return [slices[index] for index in order]
