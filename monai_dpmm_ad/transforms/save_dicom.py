# Copyright 2026 monai_dpmm_ad contributors. Licensed under the Apache License, Version 2.0.
"""Write the mask as DICOM Segmentation and the map as DICOM Parametric Map, with references to the source images."""

from __future__ import annotations

import hashlib
import json
import os
import warnings
from collections.abc import Callable, Hashable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from monai.transforms import MapTransform
from numpy.typing import NDArray

from monai_dpmm_ad import __version__
from monai_dpmm_ad.errors import ScanError
from monai_dpmm_ad.transforms.save import output_path
from monai_dpmm_ad.utils.extras import import_extra
from monai_dpmm_ad.utils.files import replace_file

__all__ = ["SaveDicomd", "make_parametric_map", "make_segmentation", "read_sources"]

MAKER = "monai_dpmm_ad"
#: What Segmentation and Parametric Map take over from their sources and cannot be without.
NEEDED = ("StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID", "FrameOfReferenceUID", "ImagePositionPatient")
#: May be empty, but have to be there (type 2 of the standard): archives and anonymisers drop some.
_OPTIONAL = (
    *("PatientID", "PatientName", "PatientBirthDate", "PatientSex", "StudyID", "StudyDate", "StudyTime"),
    *("AccessionNumber", "ReferringPhysicianName", "PositionReferenceIndicator"),
)


class SaveDicomd(MapTransform):
    """Save ``NAME_mask.dcm`` and ``NAME_anomaly.dcm`` for scans that come from DICOM; others are handed on.

    Args:
        output_dir: folder of the outputs.
        mask_key: mask ``(1, columns, rows, slices)`` on the source's grid.
        map_key: map of the same shape.
    """

    def __init__(self, output_dir: str | os.PathLike[str], mask_key: str = "mask", map_key: str = "pred") -> None:
        super().__init__([mask_key, map_key], allow_missing_keys=True)
        self.output_dir, self.mask_key, self.map_key = Path(output_dir), mask_key, map_key
        import_extra("highdicom", "dicom")  # a missing package is said before the long work

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Write the files; ``data`` is handed on unchanged.

        Raises:
            ScanError: naming the scan, when its files lack what has to be referred to.
        """
        for key, postfix, make in (
            (self.mask_key, "mask", make_segmentation),
            (self.map_key, "anomaly", make_parametric_map),
        ):
            files = json.loads(data[key].meta.get("dicom_files", "[]")) if key in data else []
            if files:
                meta = data[key].meta
                path = output_path(self.output_dir, meta["name"], postfix, meta["filename_or_obj"], ".dcm")
                dataset = _make(make, np.asarray(data[key].cpu())[0], files)
                replace_file(path, dataset.save_as)
        return dict(data)


def _make(make: Callable[..., Any], values: NDArray[Any], files: Sequence[str]) -> Any:
    sources = read_sources(files)
    try:
        return make(values, sources)
    except AttributeError as error:  # highdicom expects each frame's description in what may have several, RT Dose say
        kind = sources[0].SOPClassUID.name
        raise ScanError(files[0], f"is of a kind that no DICOM output can refer to ({kind})") from error


def read_sources(files: Sequence[str | os.PathLike[str]]) -> list[Any]:
    """Read the headers of a series and complete what may be empty.

    Args:
        files: in the order of the volume's slices.

    Returns:
        A pydicom data set each, without pixels.

    Raises:
        ScanError: a file that lacks what has to be referred to.
    """
    pydicom = import_extra("pydicom", "dicom")
    sources = [pydicom.dcmread(file, stop_before_pixels=True) for file in files]
    for file, source in zip(files, sources, strict=True):
        missing = [tag for tag in NEEDED if not source.get(tag)]
        if missing:
            raise ScanError(os.fspath(file), f"lacks {', '.join(missing)}, so no DICOM output can refer to it")
        for tag in _OPTIONAL:
            if tag not in source:
                setattr(source, tag, None)
    return sources


def make_segmentation(mask: NDArray[Any], sources: Sequence[Any], names: Sequence[str] = ("Anomaly",)) -> Any:
    """Make a binary DICOM Segmentation.

    Args:
        mask: ``(columns, rows, slices)`` or ``(columns, rows)``: 0 is unmarked, 1 the first segment, 2 the second, ….
        sources: headers of the slices, in their order, see :func:`read_sources`.
        names: of the segments.

    Returns:
        A ``highdicom.seg.Segmentation``; slices without a marked pixel have no frame, unless none has one.
    """
    highdicom = import_extra("highdicom", "dicom")
    codes = _codes()
    segments = [
        highdicom.seg.SegmentDescription(
            segment_number=number,
            segment_label=name,
            segmented_property_category=codes.SCT.MorphologicallyAbnormalStructure,
            segmented_property_type=codes.SCT.Abnormal,
            algorithm_type=highdicom.seg.SegmentAlgorithmTypeValues.AUTOMATIC,
            algorithm_identification=highdicom.AlgorithmIdentificationSequence(
                name=MAKER, version=__version__, family=codes.DCM.ArtificialIntelligence
            ),
        )
        for number, name in enumerate(names, start=1)
    ]
    frames = np.minimum(_to_frames(mask, sources), len(names)).astype(np.uint8)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of source headers that bend the standard
        return highdicom.seg.Segmentation(
            source_images=list(sources),
            pixel_array=frames,
            segmentation_type=highdicom.seg.SegmentationTypeValues.BINARY,
            segment_descriptions=segments,
            omit_empty_frames=bool(frames.any()),
            content_label="ANOMALY",
            content_description="Anomaly mask. Research only, not a medical device",
            **_identify("mask", 8001, frames, sources),
        )


def make_parametric_map(values: NDArray[Any], sources: Sequence[Any]) -> Any:
    """Make a DICOM Parametric Map whose float32 values are those of the anomaly map.

    Args:
        values: ``(columns, rows, slices)`` or ``(columns, rows)``.
        sources: as for :func:`make_segmentation`.

    Returns:
        A ``highdicom.pm.ParametricMap`` with a frame for every slice.
    """
    highdicom = import_extra("highdicom", "dicom")
    codes = _codes()
    frames = _to_frames(values, sources).astype(np.float32)
    mapping = highdicom.pm.RealWorldValueMapping(
        lut_label="anomaly",
        lut_explanation="Anomaly score, higher is more anomalous",
        unit=codes.UCUM.NoUnits,
        value_range=(0.0, max(float(frames.max()), 1.0)),
        slope=1.0,
        intercept=0.0,
    )
    high = max(float(frames.max()), 1e-6)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return highdicom.pm.ParametricMap(
            source_images=list(sources),
            pixel_array=frames,
            contains_recognizable_visual_features=False,
            real_world_value_mappings=[mapping],
            window_center=high / 2,
            window_width=high,
            content_label="ANOMALY",
            content_description="Anomaly map. Research only, not a medical device",
            **_identify("map", 8002, frames, sources),
        )


def _codes() -> Any:
    import_extra("pydicom", "dicom")
    from pydicom.sr.codedict import codes

    return codes


def _to_frames(values: NDArray[Any], sources: Sequence[Any]) -> NDArray[Any]:
    """``(columns, rows, slices)`` as DICOM frames ``(slices, rows, columns)``."""
    volume = np.atleast_3d(values)
    expected = (int(sources[0].Columns), int(sources[0].Rows), len(sources))
    if volume.shape != expected:
        raise ValueError(f"`values` must have the sources' shape {expected}, got {volume.shape}.")
    return np.ascontiguousarray(volume.T)


def _identify(kind: str, number: int, frames: NDArray[Any], sources: Sequence[Any]) -> dict[str, Any]:
    """Who made it, and identifiers that follow from the content: the same result has the same, another one another."""
    pydicom = import_extra("pydicom", "dicom")
    content = hashlib.sha256(frames.tobytes()).hexdigest()
    parts = [MAKER, __version__, kind, content, *(str(source.SOPInstanceUID) for source in sources)]
    return {
        "series_instance_uid": pydicom.uid.generate_uid(entropy_srcs=["series", *parts]),
        "sop_instance_uid": pydicom.uid.generate_uid(entropy_srcs=["instance", *parts]),
        "series_number": number,
        "instance_number": 1,
        "manufacturer": MAKER,
        "manufacturer_model_name": MAKER,
        "software_versions": __version__,
        "device_serial_number": "0",
    }
