# Copyright 2026 monai_dpmm_ad contributors. Licensed under the Apache License, Version 2.0.
"""Label maps as DICOM Segmentations of a series, and back."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from fastapi import HTTPException
from fastapi.responses import FileResponse
from monailabel.interfaces.app import MONAILabelApp
from numpy.typing import NDArray
from scipy.ndimage import affine_transform
from starlette.background import BackgroundTask

from monai_dpmm_ad.transforms import LoadScan
from monai_dpmm_ad.transforms.save_dicom import make_segmentation, read_sources

__all__ = ["check_segmentation", "make_label_segmentation", "read_segmentation", "segment"]


def check_segmentation(app: MONAILabelApp, model: str) -> None:
    """Refuse before the study is processed what cannot be a DICOM Segmentation.

    Raises:
        HTTPException: 400, when the studies are files, or the model draws a map: a Segmentation has no numbers.
    """
    if not hasattr(app.datastore(), "series_folder"):
        raise HTTPException(400, "`output` must be image, json or all where the studies are files, got dicom_seg.")
    task = app._infers.get(model)
    if task is not None and not task.labels:
        raise HTTPException(
            400, f"`output` must be image, json or all for {model}, got dicom_seg: a map has no levels."
        )


def segment(app: MONAILabelApp, model: str, image: str, params: Mapping[str, Any]) -> FileResponse:
    """Run a model on a series and answer with a DICOM Segmentation."""
    found = app.infer({**params, "model": model, "image": image, "result_extension": ".nii.gz"})
    try:
        names = {value: name for name, value in found["params"]["label_names"].items()}
        folder, in_range = app.datastore().series_folder(image), found["params"].get("in_range")
        dataset = make_label_segmentation(found["file"], folder, names, in_range)
    finally:
        os.unlink(found["file"])
    handle, path = tempfile.mkstemp(suffix=".dcm")
    os.close(handle)
    dataset.save_as(path)
    return FileResponse(
        path, media_type="application/dicom", filename="seg.dcm", background=BackgroundTask(os.unlink, path)
    )


def make_label_segmentation(
    label: str | os.PathLike[str], series: str, names: Mapping[int, str], in_range: bool | None = None
) -> Any:
    """Make a DICOM Segmentation of a label map, whichever way its array lies.

    Args:
        label: file of the label map, anywhere in the patient's space.
        series: folder of the DICOM series.
        names: of the values; those without one are called after the value. A label without any marked voxel becomes one
            empty segment ``normal``, since a Segmentation has at least one.
        in_range: see :func:`~monai_dpmm_ad.transforms.save_dicom.make_segmentation`.

    Returns:
        A ``highdicom.seg.Segmentation``.
    """
    image, drawn = LoadScan().read(series, is_label=False), LoadScan().read(os.fspath(label), is_label=True)
    matrix = np.linalg.inv(np.asarray(drawn.affine)) @ np.asarray(image.affine)
    values = affine_transform(
        np.asarray(drawn[0]), matrix[:3, :3], matrix[:3, 3], tuple(image.shape[1:]), order=0, mode="constant"
    )
    found = [int(value) for value in np.unique(values) if value > 0]
    numbers = np.zeros(values.shape, np.uint8)
    for number, value in enumerate(found, start=1):
        numbers[values == value] = number
    sources = read_sources(json.loads(image.meta["dicom_files"]))
    told = [names.get(value, f"label {value}") for value in found] or ["normal"]
    return make_segmentation(numbers, sources, told, in_range)


def read_segmentation(dataset: Any, like: str | os.PathLike[str]) -> tuple[NDArray[np.uint8], dict[int, str]]:
    """Read a DICOM Segmentation as a label map on another image's grid.

    Args:
        dataset: pydicom data set of a Segmentation.
        like: NIfTI file of the image.

    Returns:
        Values on the image's grid, and the names of the values; a segment without a marked pixel has a name only.
    """
    import pydicom_seg
    import SimpleITK

    reference = SimpleITK.ReadImage(os.fspath(like))
    result = pydicom_seg.SegmentReader().read(dataset)
    values = np.zeros(SimpleITK.GetArrayViewFromImage(reference).shape, np.uint8)
    names = {}
    for number in sorted(result.available_segments):
        drawn = SimpleITK.Resample(
            result.segment_image(number), reference, SimpleITK.Transform(), SimpleITK.sitkNearestNeighbor
        )
        values[SimpleITK.GetArrayViewFromImage(drawn) > 0] = number
        names[number] = str(result.segment_infos[number].SegmentLabel)
    return values.T, names


def write_label(path: Path, values: NDArray[np.uint8], like: str | os.PathLike[str]) -> None:
    """Write a label map with an image's geometry."""
    image: Any = nib.load(like)
    nib.save(nib.Nifti1Image(values, image.affine), path)
