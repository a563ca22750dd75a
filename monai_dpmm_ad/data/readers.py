# Copyright 2026 monai_dpmm_ad contributors. Licensed under the Apache License, Version 2.0.
"""MONAI's image readers with what they take for granted checked first: the header, the geometry, the pixel format."""

from __future__ import annotations

import gzip
import math
import os
import re
import zlib
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import nibabel as nib
import numpy as np
from monai.data import ImageReader, NibabelReader, PILReader
from monai.data.utils import orientation_ras_lps
from nibabel.spatialimages import HeaderDataError
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from monai_dpmm_ad.data.limits import check_size, open_in_memory
from monai_dpmm_ad.data.nifti import check_whole, describe_geometry, open_volume, world_affine
from monai_dpmm_ad.data.paths import META_SUFFIXES, find_voxels, has_suffix
from monai_dpmm_ad.errors import ScanError
from monai_dpmm_ad.utils.quiet import quiet

__all__ = [
    "PICTURE_AFFINE",
    "label_reader",
    "meta_image_reader",
    "picture_reader",
    "quiet_readers",
    "reading_reason",
    "volume_reader",
]

#: Columns of a picture run to the patient's left, its rows to the back, as on a radiologist's screen.
PICTURE_AFFINE = np.diag([-1.0, -1.0, 1.0, 1.0])

#: What these say means nothing to a user.
_PROGRAMMERS = (TypeError, AttributeError, LookupError, AssertionError, NotImplementedError)
#: How libraries say that a file ends too early: nibabel, PIL, and pydicom before 3 and since.
_CUT_OFF = ("Expected.*bytes, got", "(?i)truncated", "pixel data is less than expected", "match the expected length")
_NOISY_LOGGERS = ("nibabel.global", "pydicom", "PIL", "monai.data.nvimgcodec_pydicom_plugin")


def quiet_readers() -> AbstractContextManager[None]:
    """Silence the libraries that read images; their exceptions still come through."""
    return quiet(*_NOISY_LOGGERS)


def reading_reason(error: Exception) -> str:
    """Say in one line why a file could not be read.

    Args:
        error: what a reader raised.

    Returns:
        The reason, without a full stop.
    """
    text = next((line.strip() for line in str(error).splitlines() if line.strip()), "")
    if isinstance(error, EOFError) or any(re.search(words, text) for words in _CUT_OFF):
        return "is truncated or damaged: it ends before its last voxel"
    if isinstance(error, (gzip.BadGzipFile, zlib.error)):
        return "is damaged: its gzip compression cannot be undone, or its checksum is another"
    if isinstance(error, PermissionError):
        return "cannot be read: permission denied"
    if isinstance(error, (nib.filebasedimages.ImageFileError, HeaderDataError, UnidentifiedImageError)):
        return "is not an image, or a damaged one"
    if isinstance(error, MemoryError):
        return "does not fit into memory"
    if "missing dependencies" in text or "Unable to decompress" in text:
        return _decoder_reason(str(error))
    said = "" if isinstance(error, _PROGRAMMERS) or not text or "SimpleITK" in text else f" ({text.rstrip('.:')})"
    return f"cannot be read; it may be damaged, try whether another program can convert it to NIfTI{said}"


def _decoder_reason(text: str) -> str:
    """Say which compression no installed decoder undoes, and what to install."""
    kind = re.search(r"'([^']+)'", text)
    name = f" ({kind.group(1)})" if kind else ""
    return (
        f"has compressed pixels that no installed decoder can read{name}; "
        'install decoders with: pip install "monai-dpmm-ad[dicom]"'
    )


class _VolumeReader(NibabelReader):
    """MONAI's reader without its "correction": it may exchange the file's affine for another that fits its voxel sizes.

    What is written beside a scan must have the affine that the scan's file has.
    """

    def __init__(self, path: str, image: Any) -> None:
        super().__init__(squeeze_non_spatial_dims=True)
        self.image = image
        self.notes = describe_geometry(path, image)

    def read(self, data: Any, **kwargs: Any) -> Any:
        """Hand on the image that was checked."""
        self.filenames = (data,) if isinstance(data, (str, os.PathLike)) else tuple(data)
        return self.image

    def _get_affine(self, img: Any) -> NDArray[np.float64]:
        return world_affine(img)

    def _get_array_data(self, img: Any, filename: Any) -> NDArray[Any]:
        check_whole(str(self.filenames[0]))
        return _fit_into_float32(np.asanyarray(img.dataobj))


def _fit_into_float32(values: NDArray[Any]) -> NDArray[Any]:
    """Scale by a power of two what float32 cannot hold: which unit intensities have does not matter."""
    if values.dtype.kind != "f" or values.dtype.itemsize <= 4:
        return values
    largest = float(np.max(np.abs(values), initial=0.0, where=np.isfinite(values)))
    if largest and not 1e-30 < largest < float(np.finfo(np.float32).max):
        return np.ldexp(values, -math.frexp(largest)[1])
    return values


def volume_reader(path: str, max_bytes: int, channel: int | None = None) -> NibabelReader:
    """Check the header of a NIfTI file, a pair or a FreeSurfer volume and return a reader for it.

    Args:
        path: the file.
        max_bytes: the most memory that its voxels may take as float32.
        channel: of a 4D file the volume to read, counted from 0; None reads files of one volume only.

    Returns:
        A fresh reader (MONAI's readers keep the file's name, so sharing one between threads is unsafe).

    Raises:
        ScanError: when the header rules the file out.
    """
    image = open_volume(path, max_bytes)
    dtype = image.get_data_dtype()
    if dtype.fields is not None or dtype.kind not in "biuf":
        raise ScanError(path, f"has voxels of type {dtype}; a scan needs one real number per voxel")
    shape = tuple(int(size) for size in image.shape)
    if len(shape) < 2 or min(shape) < 1:
        raise ScanError(path, f"has shape {shape}; a scan has two or three dimensions")
    if channel is not None:
        if len(shape) != 4 or channel >= shape[3]:
            raise ScanError(path, f"has shape {shape}, but its volume {channel + 1} is asked for")
        check_size(path, shape[:3], max_bytes)
        return _VolumeReader(path, image.slicer[..., channel])
    if any(size != 1 for size in shape[3:]):
        raise ScanError(
            path, f"is {len(shape)}D with shape {shape}; split it into 3D volumes first, or name them in `channels`"
        )
    check_size(path, shape, max_bytes)
    return _VolumeReader(path, image)


class _MetaImageReader(ImageReader):
    """MetaImage through SimpleITK, in the form of MONAI's readers."""

    def __init__(self, path: str, max_bytes: int) -> None:
        import SimpleITK

        self.itk = SimpleITK
        self.path, self.max_bytes = path, max_bytes
        self.notes: list[str] = []

    def verify_suffix(self, filename: Any) -> bool:
        return has_suffix(self.path, META_SUFFIXES)

    def read(self, data: Any, **kwargs: Any) -> Any:
        """Check the header, then read the file.

        Raises:
            ScanError: when it is too large, keeps its voxels elsewhere, or is no image with one number per voxel in two
                or three dimensions.
        """
        _check_voxel_file(self.path)
        reader = self.itk.ImageFileReader()
        reader.SetFileName(self.path)
        reader.ReadImageInformation()
        size = tuple(reader.GetSize())
        check_size(self.path, size, self.max_bytes)
        if reader.GetNumberOfComponents() > 1:
            raise ScanError(self.path, f"has {reader.GetNumberOfComponents()} numbers per voxel; a scan needs one")
        if len(size) > 3 and any(extent != 1 for extent in size[3:]):
            raise ScanError(self.path, f"is {len(size)}D with shape {size}; split it into 3D volumes first")
        return reader.Execute()

    def get_data(self, img: Any) -> tuple[NDArray[Any], dict[str, Any]]:
        """Voxels in ITK's order of the axes, and MONAI's metadata with a RAS affine."""
        values = _fit_into_float32(self.itk.GetArrayFromImage(img).T)
        values = values.reshape(values.shape[:3])
        rank = values.ndim
        directions = np.asarray(img.GetDirection()).reshape(img.GetDimension(), -1)[:rank, :rank]
        affine = np.eye(4)
        affine[:rank, :rank] = directions * np.asarray(img.GetSpacing())[:rank]
        affine[:rank, 3] = np.asarray(img.GetOrigin())[:rank]
        affine = orientation_ras_lps(affine)
        meta = {"affine": affine.copy(), "original_affine": affine, "spatial_shape": np.asarray(values.shape)}
        return np.ascontiguousarray(values), {**meta, "space": "RAS", "original_channel_dim": float("nan")}


def _check_voxel_file(path: str) -> None:
    """Refuse a header whose voxels are not in one file beside it: it could name any file of the machine."""
    name = find_voxels(path)
    if name.upper() == "LIST" or "%" in name or os.path.basename(name.replace("\\", "/")) != name:
        raise ScanError(path, "keeps its voxels in files elsewhere; write header and voxels into one .mha")


def meta_image_reader(path: str, max_bytes: int) -> ImageReader:
    """Return a reader for MetaImage files, which checks their header first."""
    return _MetaImageReader(path, max_bytes)


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
        #: of the picture that was read last, see `_measure_colour`
        self.colour = 0.0

    def read(self, data: Any, **kwargs: Any) -> Image.Image:
        """Read one picture.

        Raises:
            ScanError: when it is too large.
        """
        path = str(data if isinstance(data, (str, os.PathLike)) else data[0])
        with Image.open(open_in_memory(path, self.max_bytes)) as picture:
            check_size(path, picture.size, self.max_bytes)
            number = getattr(picture, "n_frames", 1)
            if number > 1:
                raise ScanError(path, f"holds {number} pictures; split it into single ones first")
            picture.load()
            self.colour = _measure_colour(picture)
            return self.make_grey(ImageOps.exif_transpose(picture))


def _measure_colour(picture: Image.Image) -> float:
    """Mean difference between a pixel's largest and smallest channel, in [0, 1]: 0 in what is grey, however stored."""
    if _is_plain(picture):
        return 0.0
    channels = np.asarray(_on_black(picture))
    return float((channels.max(axis=-1) - channels.min(axis=-1)).mean() / 255)


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
