# Copyright 2026 monai_dpmm_ad contributors. Licensed under the Apache License, Version 2.0.
"""A small head, and DICOM files of every kind of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from helpers.dicom_files import save_dicom

__all__ = ["MR", "make_head", "write_slice", "write_slices"]

MR = "1.2.840.10008.5.1.4.1.1.4"
ROOT = "1.2.826.0.1.3680043.8.498."


def make_head(shape: tuple[int, int, int] = (24, 28, 10), seed: int = 0) -> np.ndarray:
    """An ellipsoid of whole numbers with noise and two tissues, ``(x, y, z)``, on nearly black air."""
    generator = np.random.default_rng(seed)
    grid = np.stack(np.meshgrid(*(np.linspace(-1, 1, size) for size in shape), indexing="ij"))
    radius = np.sqrt((grid[0] / 0.75) ** 2 + (grid[1] / 0.85) ** 2 + (grid[2] / 1.1) ** 2)
    values = np.where(radius < 1, 500, 0) + np.where((radius > 0.85) & (radius < 1), 300, 0)
    noise = generator.normal(0, 12, shape) * (values > 0) + np.abs(generator.normal(0, 3, shape))
    return np.clip(values + noise, 0, None).round().astype(np.int16)


def write_slice(path: Path, pixels: np.ndarray, index: int, series: str = "1", **tags: Any) -> Path:
    """Write one slice ``(rows, columns)``; a tag of None is removed, a data element is taken as it is."""
    import pydicom

    data = pydicom.dataset.Dataset()
    data.SOPClassUID, data.Modality, data.ImageType = MR, "MR", ["ORIGINAL", "PRIMARY"]
    data.SOPInstanceUID, data.SeriesInstanceUID = f"{ROOT}{series}.{index + 1}", f"{ROOT}{series}"
    data.StudyInstanceUID, data.FrameOfReferenceUID, data.PatientID = f"{ROOT}7", f"{ROOT}8", "P1"
    data.SeriesNumber, data.InstanceNumber = 3, index + 1
    data.ImageOrientationPatient, data.PixelSpacing = [1, 0, 0, 0, 1, 0], [2.0, 2.0]
    data.ImagePositionPatient = [0.0, 0.0, 4.0 * index]
    data.Rows, data.Columns = pixels.shape
    data.SamplesPerPixel, data.PhotometricInterpretation = 1, "MONOCHROME2"
    data.BitsAllocated, data.BitsStored, data.HighBit = 16, 16, 15
    data.PixelRepresentation = int(pixels.dtype.kind == "i")
    data.PixelData = np.ascontiguousarray(pixels).tobytes()
    for tag, value in tags.items():
        if value is None:
            delattr(data, tag)
        elif isinstance(value, pydicom.dataelem.DataElement):
            data.add(value)
        else:
            setattr(data, tag, value)
    meta = pydicom.dataset.FileMetaDataset()
    meta.TransferSyntaxUID = pydicom.uid.ExplicitVRLittleEndian
    meta.MediaStorageSOPClassUID = data.get("SOPClassUID", MR)
    meta.MediaStorageSOPInstanceUID = data.get("SOPInstanceUID", f"{ROOT}9")
    data.file_meta = meta
    path.parent.mkdir(parents=True, exist_ok=True)
    save_dicom(data, path)
    return path


def write_slices(folder: Path, volume: np.ndarray, **tags: Any) -> Path:
    """Write ``(x, y, z)`` as a series and return its folder."""
    for index in range(volume.shape[2]):
        write_slice(folder / f"I{index:03d}", volume[:, :, index].T, index, **tags)
    return folder
