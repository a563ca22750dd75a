# Copyright 2026 monai_dpmm_ad contributors. Licensed under the Apache License, Version 2.0.
"""Write the mask as DICOM Segmentation and the map as DICOM Parametric Map, with references to the source images."""

from __future__ import annotations

import hashlib
import json
import os
import warnings
from collections.abc import Callable, Hashable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from monai.transforms import MapTransform
from numpy.typing import NDArray

from monai_dpmm_ad import __version__
from monai_dpmm_ad.data.readers import reading_reason
from monai_dpmm_ad.errors import ScanError
from monai_dpmm_ad.transforms.save import output_path
from monai_dpmm_ad.utils.extras import import_extra
from monai_dpmm_ad.utils.files import remove_file, replace_file

__all__ = ["SaveDicomd", "make_parametric_map", "make_segmentation", "read_sources", "save_segmentation"]

MAKER = "monai_dpmm_ad"
#: What is said of a scan that lies outside of what was fitted.
_OUTSIDE = "OUTSIDE OF WHAT WAS FITTED"
_UNRELIABLE = "Scan unlike those fitted: do not rely on it"
#: What Segmentation and Parametric Map take over from their sources and cannot be without.
NEEDED = ("StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID", "FrameOfReferenceUID", "ImagePositionPatient")
#: May be empty, but have to be there (type 2 of the standard): archives and anonymisers drop some.
_OPTIONAL = (
    *("PatientID", "PatientName", "PatientBirthDate", "PatientSex", "StudyID", "StudyDate", "StudyTime"),
    *("AccessionNumber", "ReferringPhysicianName", "PositionReferenceIndicator"),
)


class SaveDicomd(MapTransform):
    """Save ``NAME_mask.dcm`` and ``NAME_anomaly.dcm`` for scans that come from DICOM; others are handed on.

    They are an extra: where a series cannot be referred to, the other results stand, and ``notes`` in the map's
    metadata say why there are none. A scan with ``in_range`` False is marked in their descriptions.

    Args:
        output_dir: folder of the outputs.
        mask_key: mask ``(1, columns, rows, slices)`` on the source's grid.
        map_key: map of the same shape.

    Example:
        >>> import tempfile
        >>> import torch
        >>> from monai.data import MetaTensor
        >>> save = SaveDicomd(tempfile.mkdtemp())
        >>> scan = {"mask": MetaTensor(torch.zeros(1, 4, 4, 2)), "pred": MetaTensor(torch.zeros(1, 4, 4, 2))}
        >>> sorted(save(scan))  # these come from no DICOM series, so that nothing is written
        ['mask', 'pred']
    """

    def __init__(self, output_dir: str | os.PathLike[str], mask_key: str = "mask", map_key: str = "pred") -> None:
        super().__init__([mask_key, map_key], allow_missing_keys=True)
        self.output_dir, self.mask_key, self.map_key = Path(output_dir), mask_key, map_key
        import_extra("highdicom", "dicom")  # a missing package is said before the long work

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Write the files; of ``data`` nothing else than the map's notes is changed.

        Raises:
            OSError: the file cannot be written.
        """
        notes = self.write(data)
        if notes:
            meta = data[self.map_key].meta
            meta["notes"] = json.dumps([*json.loads(meta.get("notes") or "[]"), *notes])
        return dict(data)

    def write(self, data: Mapping[Any, Any]) -> list[str]:
        """Write the files; returns why there are none, as sentences."""
        notes = []
        for key, postfix, make in (
            (self.mask_key, "mask", make_segmentation),
            (self.map_key, "anomaly", make_parametric_map),
        ):
            files = json.loads(data[key].meta.get("dicom_files", "[]")) if key in data else []
            if files:
                meta = data[key].meta
                path = output_path(self.output_dir, meta["name"], postfix, meta["filename_or_obj"], ".dcm")
                owner = str(meta["filename_or_obj"])
                try:
                    values = np.asarray(data[key].cpu())[0]
                    dataset = _make(partial(make, in_range=data.get("in_range")), values, files)
                except ScanError as error:
                    remove_file(path, owner)  # an earlier run's
                    notes.append(f"No DICOM {postfix} was written: {error.path} {error.reason}")
                    continue
                replace_file(path, dataset.save_as, owner=owner)
        return notes


def save_segmentation(
    path: Path, mask: NDArray[Any], meta: Mapping[str, Any], names: Sequence[str], in_range: bool | None = None
) -> bool:
    """Save a mask as DICOM Segmentation, where its scan comes from DICOM.

    Args:
        path: of the file.
        mask: on the source's grid: 0, 1 for the first segment, ….
        meta: of the scan.
        names: of the segments.
        in_range: False is said in its descriptions.

    Returns:
        Whether there is a series to refer to.

    Raises:
        ScanError: a series that cannot be referred to.
    """
    files = json.loads(meta.get("dicom_files", "[]"))
    if files:
        dataset = _make(partial(make_segmentation, names=names, in_range=in_range), mask, files)
        replace_file(path, dataset.save_as, owner=str(meta["filename_or_obj"]))
    return bool(files)


def _make(make: Callable[..., Any], values: NDArray[Any], files: Sequence[str]) -> Any:
    try:
        sources = read_sources(files)
    except ScanError:
        raise
    except Exception as error:  # pydicom raises anything at all on damaged headers
        raise ScanError(files[0], f"cannot be referred to ({reading_reason(error)})") from error
    if any(int(source.get("NumberOfFrames", 1) or 1) > 1 for source in sources):
        raise ScanError(files[0], "is an enhanced multi-frame file, to which DICOM outputs do not refer yet")
    try:
        return make(values, sources)
    except Exception as error:  # highdicom asks much of its sources, and says it in many ways
        kind = sources[0].SOPClassUID.name
        raise ScanError(
            files[0], f"cannot be referred to ({kind}: {str(error).splitlines()[0].rstrip('.')})"
        ) from error


def read_sources(files: Sequence[str | os.PathLike[str]]) -> list[Any]:
    """Read the headers of a series and complete what may be empty.

    Args:
        files: in the order of the volume's slices.

    Returns:
        A pydicom data set each, without pixels.

    Raises:
        ScanError: a file that lacks what has to be referred to, or shares it with another.
    """
    pydicom = import_extra("pydicom", "dicom")
    sources = [pydicom.dcmread(file, stop_before_pixels=True, force=True) for file in files]
    for file, source in zip(files, sources, strict=True):
        _empty_unusable(source)
        missing = [tag for tag in NEEDED if not source.get(tag)]
        if missing:
            raise ScanError(os.fspath(file), f"lacks {', '.join(missing)}, so no DICOM output can refer to it")
        for tag in _OPTIONAL:
            if tag not in source:
                setattr(source, tag, None)
        # Cosines differ in their last decimals from slice to slice; what was read as one orientation is written as one.
        source.ImageOrientationPatient = sources[0].ImageOrientationPatient
    if len({str(source.SOPInstanceUID) for source in sources}) < len(sources):
        raise ScanError(
            os.fspath(files[0]), "shares its SOPInstanceUID with other slices, so no DICOM output can refer to it"
        )
    return sources


def _empty_unusable(source: Any) -> None:
    """Empty dates and times that are none, as anonymisers leave them."""
    valuerep = import_extra("pydicom", "dicom").valuerep
    kinds = {"DA": valuerep.DA, "TM": valuerep.TM, "DT": valuerep.DT}
    for tag in list(source.keys()):
        raw = source.get_item(tag)
        if str(getattr(raw, "VR", "")) not in kinds:
            continue
        try:
            value = source[tag].value
            for part in [value] if isinstance(value, str) or value is None else list(value):
                kinds[str(raw.VR)](part)
        except Exception:
            source.add_new(tag, str(raw.VR), None)


def make_segmentation(
    mask: NDArray[Any], sources: Sequence[Any], names: Sequence[str] = ("Anomaly",), in_range: bool | None = None
) -> Any:
    """Make a binary DICOM Segmentation.

    Args:
        mask: ``(columns, rows, slices)`` or ``(columns, rows)``: 0 is unmarked, 1 the first segment, 2 the second, ….
        sources: headers of the slices, in their order, see :func:`read_sources`.
        names: of the segments.
        in_range: False marks it as of a scan outside of what was fitted, in the descriptions of series and content.

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
            **_identify("mask", 8001, frames, sources, in_range),
        )


def make_parametric_map(values: NDArray[Any], sources: Sequence[Any], in_range: bool | None = None) -> Any:
    """Make a DICOM Parametric Map whose float32 values are those of the anomaly map.

    Args:
        values: ``(columns, rows, slices)`` or ``(columns, rows)``.
        sources: as for :func:`make_segmentation`.
        in_range: as there.

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
            **_identify("map", 8002, frames, sources, in_range),
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


def _identify(
    kind: str, number: int, frames: NDArray[Any], sources: Sequence[Any], in_range: bool | None
) -> dict[str, Any]:
    """What it is, and identifiers that follow from the content: the same result has the same, another one another."""
    pydicom = import_extra("pydicom", "dicom")
    content = hashlib.sha256(frames.tobytes()).hexdigest()
    parts = [MAKER, __version__, kind, content, *(str(source.SOPInstanceUID) for source in sources)]
    outside = in_range is False
    parts += [_OUTSIDE] if outside else []
    # At most 64 characters each.
    return {
        "series_description": f"Anomaly {kind}{f', {_OUTSIDE}' if outside else ''}",
        "content_description": f"Anomaly {kind}. {_UNRELIABLE if outside else 'Research only, not a medical device'}",
        "series_instance_uid": pydicom.uid.generate_uid(entropy_srcs=["series", *parts]),
        "sop_instance_uid": pydicom.uid.generate_uid(entropy_srcs=["instance", *parts]),
        "series_number": number,
        "instance_number": 1,
        "manufacturer": MAKER,
        "manufacturer_model_name": MAKER,
        "software_versions": __version__,
        "device_serial_number": "0",
    }
