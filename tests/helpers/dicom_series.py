# Copyright 2026 monai_dpmm_ad contributors. Licensed under the Apache License, Version 2.0.
"""Write volumes as DICOM series, as scanners do: any order of files, any orientation, stored numbers with a slope."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from helpers.dicom_files import save_dicom

__all__ = ["KINDS", "write_series"]

#: SOP class and slope, intercept of the stored numbers
KINDS = {"MR": ("1.2.840.10008.5.1.4.1.1.4", 1.0, 0.0), "CT": ("1.2.840.10008.5.1.4.1.1.2", 0.5, -1024.0)}


def write_series(
    folder: Path,
    volume: np.ndarray,
    affine: np.ndarray,
    kind: str = "MR",
    seed: int = 0,
    prefix: str = "IM",
    skip: tuple[int, ...] = (),
    slopes: Sequence[float] = (),
    **tags: Any,
) -> list[Path]:
    """Write ``volume (columns, rows, slices)`` with a RAS affine; files and instance numbers are shuffled.

    Args:
        folder: made if needed; several series may share it.
        volume: values after rescaling.
        affine: 4×4 without shear, slices along its third column.
        kind: ``MR`` or ``CT``, which decides slope and intercept.
        seed: of the order and the identifiers.
        prefix: of the files' names, which have no suffix.
        skip: slices that are left out.
        slopes: of the stored numbers, in turn for each slice, as in PET; () is the kind's own.
        tags: further tags; None removes one.

    Returns:
        The files in the order of the slices.
    """
    import pydicom

    folder.mkdir(parents=True, exist_ok=True)
    sop_class, slope, intercept = KINDS[kind]
    lps = np.diag([-1.0, -1.0, 1.0, 1.0]) @ affine
    step_x, step_y = np.linalg.norm(lps[:3, 0]), np.linalg.norm(lps[:3, 1])
    order = np.random.default_rng(seed).permutation(volume.shape[2])
    uid = {
        name: pydicom.uid.generate_uid(entropy_srcs=[name, str(seed), prefix]) for name in ("study", "series", "frame")
    }
    files = []
    for index in range(volume.shape[2]):
        slope = slopes[index % len(slopes)] if slopes else slope
        data = pydicom.dataset.Dataset()
        data.SOPClassUID = sop_class
        data.SOPInstanceUID = pydicom.uid.generate_uid(entropy_srcs=["slice", str(seed), prefix, str(index)])
        data.StudyInstanceUID, data.SeriesInstanceUID, data.FrameOfReferenceUID = (
            uid["study"],
            uid["series"],
            uid["frame"],
        )
        data.PatientID, data.PatientName = f"P{seed}", "Phantom"
        data.PatientBirthDate, data.PatientSex, data.StudyDate, data.StudyTime = "", "", "20260101", "120000"
        data.StudyID, data.AccessionNumber, data.ReferringPhysicianName = "1", "", ""
        data.PositionReferenceIndicator = ""
        data.Modality, data.SeriesNumber, data.InstanceNumber = kind, 3, int(order[index]) + 1
        data.ImageOrientationPatient = [round(float(x), 6) for x in (*(lps[:3, 0] / step_x), *(lps[:3, 1] / step_y))]
        data.ImagePositionPatient = [round(float(x), 5) for x in (lps @ [0, 0, index, 1])[:3]]
        data.PixelSpacing = [float(step_y), float(step_x)]
        data.SliceThickness = float(np.linalg.norm(lps[:3, 2]))
        stored = np.round((volume[:, :, index].T - intercept) / slope).astype(np.uint16)
        data.Rows, data.Columns = stored.shape
        data.SamplesPerPixel, data.PhotometricInterpretation = 1, "MONOCHROME2"
        data.BitsAllocated, data.BitsStored, data.HighBit, data.PixelRepresentation = 16, 16, 15, 0
        if (slope, intercept) != (1.0, 0.0):
            data.RescaleSlope, data.RescaleIntercept = slope, intercept
        data.PixelData = stored.tobytes()
        for tag, value in tags.items():
            if value is None:
                delattr(data, tag)
            else:
                setattr(data, tag, value)
        data.file_meta = pydicom.dataset.FileMetaDataset()
        data.file_meta.TransferSyntaxUID = pydicom.uid.ExplicitVRLittleEndian
        data.file_meta.MediaStorageSOPClassUID = sop_class
        data.file_meta.MediaStorageSOPInstanceUID = data.SOPInstanceUID
        path = folder / f"{prefix}{order[index]:03d}"
        if index not in skip:
            save_dicom(data, path)
            files.append(path)
    return files
