# Copyright 2026 monai_dpmm_ad contributors. Licensed under the Apache License, Version 2.0.
"""Load scans and their masks, and turn every way in which a file can be wrong into one clear line."""

from __future__ import annotations

import json
import os
from collections.abc import Hashable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from monai.config import KeysCollection
from monai.data import MetaTensor
from monai.transforms import LoadImage, MapTransform, Transform

from monai_dpmm_ad.data.covariates import read_person
from monai_dpmm_ad.data.dicom_reader import DicomSeriesReader
from monai_dpmm_ad.data.limits import DEFAULT_MAX_BYTES
from monai_dpmm_ad.data.nrrd import NrrdVolumeReader
from monai_dpmm_ad.data.paths import (
    META_SUFFIXES,
    NIBABEL_SUFFIXES,
    NRRD_SUFFIXES,
    PICTURE_SUFFIXES,
    VOLUME_SUFFIXES,
    has_suffix,
    is_dicom_file,
    lost_voxels,
    scan_stem,
    special_kind,
)
from monai_dpmm_ad.data.readers import (
    PICTURE_AFFINE,
    label_reader,
    meta_image_reader,
    picture_reader,
    quiet_readers,
    reading_reason,
    volume_reader,
)
from monai_dpmm_ad.errors import ScanError
from monai_dpmm_ad.transforms.background import fill_background, is_finite
from monai_dpmm_ad.transforms.grids import check_affine, largest_shift
from monai_dpmm_ad.transforms.sequences import load_onto, load_sequences

__all__ = ["DEFAULT_MAX_BYTES", "LoadScan", "LoadScand"]

PathOrSeries = str | os.PathLike | Sequence[str | os.PathLike]


class LoadScan(Transform):
    """Load one scan as a channel-first float32 ``MetaTensor``, or raise a ``ScanError`` that says why not.

    Reads NIfTI, Analyze, FreeSurfer's, NRRD and MetaImage volumes, a DICOM series (its folder, its files, or a single
    file) and PNG, JPEG, BMP and TIFF pictures, which become grey (16 bits are kept) and upright as their EXIF data say.
    Pictures and single DICOM images have an array with columns first, as MONAI's readers give it, and the affine
    diag(-width, -height, 1, 1), of a picture diag(-1, -1, 1, 1), so that ``Orientation("PL")`` leaves rows and columns
    as the picture has them. NaN outside the head is background.

    ``meta`` holds the scan's ``name``; ``notes``, a JSON list of what a user should know; ``modality``, where the file
    says it; ``colour``, in [0, 1], of a picture; and of a DICOM series ``dicom_files``, a JSON list.

    Args:
        spatial_dims: 3 accepts volumes of two slices or more, 2 accepts flat images, ``None`` both; a volume that has
            a single slice, of shape (H, W, 1), is flat, and processed as the one slice that it is.
        max_bytes: refuse a scan whose header claims more than this as float32, before any memory is taken.

    Example:
        >>> LoadScan(spatial_dims=3)("no/such/scan.nii.gz")
        Traceback (most recent call last):
        monai_dpmm_ad.errors.ScanError: no/such/scan.nii.gz: no such file or folder
    """

    def __init__(self, spatial_dims: int | None = None, max_bytes: int = DEFAULT_MAX_BYTES) -> None:
        if spatial_dims not in (None, 2, 3):
            raise ValueError(f"`spatial_dims` must be 2, 3 or None, got {spatial_dims!r}.")
        self.spatial_dims = spatial_dims
        self.max_bytes = max_bytes
        with quiet_readers():
            self._load = LoadImage(image_only=True, dtype=np.float32)

    def __call__(self, path: PathOrSeries, name: str | None = None, channel: int | None = None) -> MetaTensor:
        """Load a scan.

        Args:
            path: a file, the folder of one DICOM series, or the files of one DICOM series.
            name: the scan's output name, kept in ``meta["name"]``; by default from the file's name.
            channel: of a 4D NIfTI the volume to load, counted from 0.

        Returns:
            ``(1, H, W)`` or ``(1, H, W, D)``, float32.

        Raises:
            ScanError: when the file is no scan that can be processed.
        """
        image = self._read(path, is_label=False, channel=channel)
        source = _source(path)
        _check_dims(source, tuple(image.shape[1:]), self.spatial_dims)
        check_affine(source, image)
        fill_background(image, source)
        low, high = torch.aminmax(image.as_tensor())
        if float(low) == float(high):
            raise ScanError(source, f"is constant: every voxel is {float(low):g}")
        image.meta["name"] = name or scan_stem(source)
        return image

    def load_label(self, path: PathOrSeries, image: MetaTensor) -> MetaTensor:
        """Load the mask that belongs to an image.

        Args:
            path: the mask: a voxel is marked when it is above 0. In a JPEG, whose compression makes edges ring, it is
                marked when it is above half of the largest value.
            image: the loaded image.

        Returns:
            Boolean, of the image's shape.

        Raises:
            ScanError: naming the image, when the mask cannot be read, lies on another grid, or marks all of a volume's
                six faces: no lesion does, a mask that is inverted or full does. A single slice may be all lesion.
        """
        source = image.meta["filename_or_obj"]
        try:
            label = self.read(path, is_label=True)
        except ScanError as error:
            raise ScanError(source, f"label {error.path} {error.reason}") from error
        if label.shape[1:] != image.shape[1:]:
            shapes = f"{tuple(label.shape[1:])} but the image has {tuple(image.shape[1:])}"
            raise ScanError(source, f"label {_source(path)} has shape {shapes}")
        shift = largest_shift(label, image)
        if not shift <= 0.1:
            raise ScanError(
                source,
                f"label {_source(path)} lies elsewhere: same shape {tuple(image.shape[1:])}, but its affine moves a "
                f"corner by {shift:.2g} voxels",
            )
        threshold = 0.5 * float(label.max()) if has_suffix(_source(path), (".jpg", ".jpeg")) else 0.0
        mask = MetaTensor(label.as_tensor() > threshold, meta=dict(label.meta))
        mask.affine = image.affine
        is_volume = mask.ndim == 4 and min(mask.shape[1:]) > 1
        if is_volume and all(mask.select(dim, end).all() for dim in (1, 2, 3) for end in (0, -1)):
            raise ScanError(source, f"label {_source(path)} marks all of the volume's edge; is it inverted or full?")
        return mask

    def read(self, path: PathOrSeries, is_label: bool) -> MetaTensor:
        """Read the voxels of any file that can be read, whatever they mean.

        Args:
            path: as for a scan.
            is_label: keep a picture's values as they are.

        Returns:
            float32, ``(1, *spatial)``.

        Raises:
            ScanError: when the file cannot be read, or has voxels that are not finite (in a label NaN is 0).
        """
        image = self._read(path, is_label)
        values = image.as_tensor()
        if is_label:
            values = torch.nan_to_num_(values, nan=0.0)  # where nothing was drawn
        if not is_finite(values):
            bad = int((~torch.isfinite(values)).sum())
            raise ScanError(_source(path), f"has {bad} NaN or infinite voxels of {values.numel()}")
        return image

    def _read(self, path: PathOrSeries, is_label: bool, channel: int | None = None) -> MetaTensor:
        """Read the voxels, which may be NaN or infinite."""
        source = _source(path)
        try:
            with quiet_readers():
                reader = self._reader(path, is_label, channel)
                image = self._load(path, reader=reader)
        except ScanError:
            raise
        except ImportError as error:
            raise ScanError(source, str(error).rstrip(".")) from error
        except Exception as error:  # readers raise anything at all on damaged files
            lost = lost_voxels(Path(source))
            reason = reading_reason(error) if lost is None else f"is a header whose voxels, {lost}, are not beside it"
            raise ScanError(source, reason) from error
        meta = dict(image.meta)
        if has_suffix(source, PICTURE_SUFFIXES):
            meta |= {"affine": torch.from_numpy(PICTURE_AFFINE), "original_affine": PICTURE_AFFINE.copy()}
            meta["colour"] = reader.colour
        meta |= {"original_channel_dim": "no_channel", "filename_or_obj": source}
        meta["notes"] = json.dumps(getattr(reader, "notes", []))  # as text, which collating leaves alone
        if isinstance(reader, DicomSeriesReader):
            meta |= {"dicom_files": json.dumps(reader.slice_files), "modality": reader.modality}
        return MetaTensor(image.as_tensor().contiguous()[None], meta=meta)

    def _reader(self, path: PathOrSeries, is_label: bool, channel: int | None) -> Any:
        source = _source(path)
        if not isinstance(path, (str, os.PathLike)) or os.path.isdir(source):
            return DicomSeriesReader(self.max_bytes)
        if not os.path.exists(source):
            raise ScanError(source, "no such file or folder")
        if kind := special_kind(source):
            raise ScanError(source, f"is {kind}, no file")
        if os.path.getsize(source) == 0:
            raise ScanError(source, "is empty (0 bytes)")
        if has_suffix(source, NIBABEL_SUFFIXES):
            return volume_reader(source, self.max_bytes, channel)
        if has_suffix(source, NRRD_SUFFIXES):
            return NrrdVolumeReader(self.max_bytes)
        if has_suffix(source, META_SUFFIXES):
            return meta_image_reader(source, self.max_bytes)
        if has_suffix(source, PICTURE_SUFFIXES):
            return (label_reader if is_label else picture_reader)(source, self.max_bytes)
        if is_dicom_file(Path(source)):
            return DicomSeriesReader(self.max_bytes)
        if has_suffix(source, (".img",)):
            raise ScanError(source, "holds the voxels of a pair; name its header, the .hdr file beside it")
        known = ", ".join(suffix for suffix in (*VOLUME_SUFFIXES, *PICTURE_SUFFIXES))
        raise ScanError(source, f"is not an image that can be read (DICOM, {known})")


class LoadScand(MapTransform):
    """Dictionary version of ``LoadScan``: the image, its mask where there is one, and its name.

    A scan of several sequences has them as channels, all on the grid of the first one that it has, and 0 everywhere in
    those that it lacks; ``meta["present"]`` says which there are, as ``"101"``.

    Args:
        keys: the image's key (several are loaded alike).
        label_key: key of the mask; an item without it, or with ``None``, stays without.
        name_key: key of the scan's output name, copied to ``meta["name"]``.
        spatial_dims: see ``LoadScan``.
        max_bytes: see ``LoadScan``.
        allow_missing_keys: skip image keys that an item lacks.

    Example:
        >>> import tempfile
        >>> from pathlib import Path
        >>> import nibabel as nib
        >>> path = Path(tempfile.mkdtemp()) / "a.nii.gz"
        >>> nib.save(nib.Nifti1Image(np.random.default_rng(0).random((6, 5, 4), dtype=np.float32), np.eye(4)), path)
        >>> image = LoadScand()({"image": str(path), "name": "a"})["image"]
        >>> image.shape, image.meta["name"]
        (torch.Size([1, 6, 5, 4]), 'a')
    """

    def __init__(
        self,
        keys: KeysCollection = "image",
        label_key: str = "label",
        name_key: str = "name",
        spatial_dims: int | None = None,
        max_bytes: int = DEFAULT_MAX_BYTES,
        allow_missing_keys: bool = False,
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        self.label_key = label_key
        self.name_key = name_key
        self.loader = LoadScan(spatial_dims, max_bytes)

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Load an item.

        Args:
            data: an item of a datalist.

        Returns:
            A copy with tensors in place of paths.

        Raises:
            ScanError: naming the image.
        """
        item = dict(data)
        parts, onto, channel = (item.pop(key, None) for key in ("sequences", "onto", "channel"))
        for key in self.key_iterator(item):
            if parts:
                item[key] = load_sequences(self.loader, parts, item.get(self.name_key))
                continue
            image = self.loader(item[key], item.get(self.name_key), channel)
            item[key] = image if onto is None else load_onto(self.loader, image, onto)
        if "covariates" in item:
            item[self.first_key(item)].meta["covariates"] = json.dumps(read_person(item))  # as text, like the notes
            del item["covariates"]
        label = item.pop(self.label_key, None)
        if label is not None:
            item[self.label_key] = self.loader.load_label(label, item[self.first_key(item)])
        return item


def _source(path: PathOrSeries) -> str:
    return os.fspath(path) if isinstance(path, (str, os.PathLike)) else os.fspath(path[0])


def _check_dims(source: str, shape: tuple[int, ...], spatial_dims: int | None) -> None:
    if spatial_dims == 3 and len(shape) == 2:
        raise ScanError(source, f"is a 2D image with shape {shape}; a 3D volume is expected")
    if spatial_dims == 2 and len(shape) == 3 and min(shape) > 1:
        raise ScanError(source, f"is a 3D volume with shape {shape}; a 2D image is expected")
    if spatial_dims == 3 and min(shape) == 1:
        raise ScanError(source, f"is a single slice with shape {shape}; a 3D volume is expected")
