# Copyright 2026 monai_dpmm_ad contributors. Licensed under the Apache License, Version 2.0.
"""MONAI Label's models: the label map that 3D Slicer shows, and the map itself."""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from monailabel.interfaces.tasks.infer_v2 import InferTask, InferType
from monailabel.transform.writer import write_itk
from numpy.typing import NDArray
from PIL import Image

from monai_dpmm_ad.bundle import MODEL
from monai_dpmm_ad.calibration.drift import describe_drift
from monai_dpmm_ad.data.paths import NRRD_SUFFIXES, PICTURE_SUFFIXES, has_suffix
from monai_dpmm_ad.handlers.regions import compute_regions
from monai_dpmm_ad.label.refusals import refusing
from monai_dpmm_ad.label.requests import AXES_SEPARATOR, MapRequest, check_output, parse_request
from monai_dpmm_ad.label.runner import BundleRunner, Prediction
from monai_dpmm_ad.label.severity import (
    LEVEL_NAMES,
    Level,
    RegionLevel,
    compute_levels,
    compute_region_levels,
    draw_levels,
    draw_region_levels,
)
from monai_dpmm_ad.ops.components import remove_small
from monai_dpmm_ad.ops.slices import AUTO, AXES
from monai_dpmm_ad.transforms.save import write_map

__all__ = ["AnomalyInfer", "draw_prediction"]

#: Of the table's row: the file's place on the server, and what the client knows already.
_NOT_TOLD = ("name", "image", "abnormal")


class AnomalyInfer(InferTask):
    """Draw the map of a study with the bundle.

    Args:
        runner: holds the bundle.
        is_mask: whether the answer is the label map with levels of severity, or the float map.
    """

    def __init__(self, runner: BundleRunner, is_mask: bool) -> None:
        super().__init__(
            # Slicer offers models of type "segmentation" as label maps; the float map would be cut to integers there.
            type=InferType.SEGMENTATION if is_mask else InferType.OTHERS,
            labels=LEVEL_NAMES if is_mask else None,
            dimension=3,
            description="Anomaly levels 1 to 3, calibrated on healthy scans" if is_mask else "Anomaly map (float32)",
        )
        self.runner = runner
        self.is_mask = is_mask

    def is_valid(self) -> bool:
        """Say that the task can run: whether the bundle is there is said, with a reason, when it runs."""
        return True

    def get_path(self, validate: bool = True) -> str | None:
        """Path of the fitted model."""
        path = self.runner.root / MODEL
        return str(path) if path.is_file() or not validate else None

    def config(self) -> dict[str, Any]:
        """What a request may set, with its defaults; Slicer shows the list as a choice, the first one chosen."""
        defaults = self.runner.load().defaults
        axes = list(dict.fromkeys([AXES_SEPARATOR.join(defaults.axes), AUTO, *AXES, AXES_SEPARATOR.join(AXES)]))
        return {"rate": defaults.rate, "axes": axes, "min_region": defaults.min_region}

    def __call__(self, request: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
        """Process one study.

        Args:
            request: ``image``, a path; ``rate``, ``axes``, ``min_region``; MONAI Label's ``result_extension``,
                ``result_dtype`` and ``result_compress``.

        Returns:
            Path of a temporary file with the result, and the facts about the study.

        Raises:
            HTTPException: with the reason, see :func:`~monai_dpmm_ad.label.refusals.refusing`.
        """
        start = time.time()
        with refusing():
            extension, dtype = check_output(request, self.is_mask)
            wanted = parse_request(request, self.runner.load().defaults)
            prediction = self.runner.run(request["image"], wanted)
            drawn = time.time()
            values, facts = _read(prediction, wanted, self.is_mask)
            path = _write(values.astype(dtype, copy=False), prediction, extension, bool(request.get("result_compress")))
        facts["label_names"] = self.labels
        facts["latencies"] = {"infer": round(drawn - start, 2), "total": round(time.time() - start, 2)}
        return path, facts


def draw_prediction(
    prediction: Prediction, wanted: MapRequest
) -> tuple[NDArray[np.uint8], list[Level] | list[RegionLevel]]:
    """Draw the label map of a prediction: levels of regions where they are what is flagged, else of voxels.

    Args:
        prediction: of a study.
        wanted: how it is drawn.

    Returns:
        Levels on the study's grid, 0 below all of them; and what each means.
    """
    score_map = _score_map(prediction)
    affine = np.asarray(prediction.scan["pred"].meta["original_affine"], dtype=np.float64)
    if _flags_regions(prediction, wanted):
        calibration = prediction.bundle.network.regions
        mask = np.asarray(prediction.scan["mask"].as_subclass(torch.Tensor)[0].cpu())
        regions = compute_regions(mask, score_map, affine, wanted.min_region, calibration)
        steps = compute_region_levels(calibration)
        return draw_region_levels(regions, mask.shape, steps), steps
    levels = compute_levels(prediction.bundle.network.calibration, wanted.rate)
    voxel = float(abs(np.linalg.det(affine[:3, :3]))) if score_map.ndim == 3 else 1.0
    drawn = draw_levels(score_map, [_thresholds(prediction, level) for level in levels])
    return remove_small(drawn, voxel, wanted.min_region), levels


def _flags_regions(prediction: Prediction, wanted: MapRequest) -> bool:
    """Whether the mask holds regions: they are calibrated, and nobody asked for a rate of voxels."""
    bundle = prediction.bundle
    by_rate = bundle.model.settings["false_positive_rate"] is not None or wanted.rate != bundle.defaults.rate
    return not by_rate and bundle.network.regions.fitted and prediction.row.frame not in (None, "none")


def _score_map(prediction: Prediction) -> NDArray[np.float32]:
    return np.asarray(prediction.scan["pred"].as_subclass(torch.Tensor)[0].cpu())


def _read(prediction: Prediction, wanted: MapRequest, is_mask: bool) -> tuple[NDArray[Any], dict[str, Any]]:
    """The result's voxels, and what the answer says of the study."""
    label_map, levels = draw_prediction(prediction, wanted)
    row = asdict(prediction.row)
    facts = {name: value for name, value in row.items() if name not in _NOT_TOLD}  # columns to come are told too
    facts |= {
        "rate": wanted.rate,
        "axes": list(wanted.axes),
        "min_region": wanted.min_region,
        "levels": [_describe_level(level, label_map, prediction) for level in levels],
        "regions": [asdict(region) for region in prediction.regions],
        "bundle": prediction.bundle.digest,
        "warnings": _warnings(prediction, wanted),
    }
    return (label_map if is_mask else _score_map(prediction)), facts


def _describe_level(level: Level | RegionLevel, label_map: NDArray[Any], prediction: Prediction) -> dict[str, Any]:
    """A level with its size; outside of what was fitted nothing is guaranteed."""
    guaranteed = level.guaranteed and prediction.row.in_range is not False
    return asdict(level) | {"guaranteed": guaranteed, "num_voxels": int((label_map >= level.level).sum())}


def _thresholds(prediction: Prediction, level: Level) -> float | NDArray[Any]:
    """A level's threshold, or each voxel's own where the bundle has regions."""
    calibration, regions = prediction.bundle.network.calibration, prediction.scan.get("regions")
    if regions is None or not calibration.num_regions:
        return level.threshold
    return np.asarray(calibration.threshold_map(regions.as_subclass(torch.Tensor)[0].cpu(), level.rate))


def _warnings(prediction: Prediction, wanted: MapRequest) -> list[str]:
    warnings = ["Research software, not a medical device."]
    if prediction.row.warning:
        warnings.append(f"{prediction.row.warning}.")
    fitted = prediction.bundle.defaults.axes
    if set(wanted.axes) != set(fitted):
        warnings.append(
            f"The thresholds were calibrated along {AXES_SEPARATOR.join(fitted)}, not along "
            f"{AXES_SEPARATOR.join(wanted.axes)}: here the rates are not calibrated."
        )
    network = prediction.bundle.network
    if _flags_regions(prediction, wanted):
        allowed = prediction.bundle.model.settings["false_regions"]
        if not network.regions.guaranteed(allowed):
            warnings.append(f"Too few held-out healthy scans to guarantee {allowed:g} false regions in a scan.")
    elif not network.calibration.guaranteed(wanted.rate):
        warnings.append(f"Too few held-out healthy scans to guarantee a rate of {wanted.rate:g}.")
    if different := describe_drift(prediction.drift):
        warnings.append(different)
    return warnings


def _write(values: NDArray[Any], prediction: Prediction, extension: str | None, compress: bool) -> str:
    meta = prediction.scan["pred"].meta
    source = str(meta["filename_or_obj"])
    suited = next((kind[0] for kind in (PICTURE_SUFFIXES, NRRD_SUFFIXES) if has_suffix(source, kind)), ".nii.gz")
    extension = extension or suited
    handle, name = tempfile.mkstemp(prefix="dpmm-ad-", suffix=extension)
    os.close(handle)
    try:
        if extension == ".nrrd":
            write_itk(values, name, None if values.ndim == 2 else meta["original_affine"], None, compress)
        elif extension == ".png" and values.dtype.kind != "f":
            Image.fromarray(values.astype(np.uint8).T).save(name)
        else:
            write_map(Path(name), values, meta)
    except BaseException:
        os.unlink(name)
        raise
    return name
