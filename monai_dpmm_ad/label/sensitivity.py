# Copyright 2026 monai_dpmm_ad contributors. Licensed under the Apache License, Version 2.0.
"""How much of what readers marked the bundle flags: a test on studies that it never learns."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from monai.data import MetaTensor
from numpy.typing import NDArray

from monai_dpmm_ad.bundle.provenance import load_provenance
from monai_dpmm_ad.data.content import hash_scans
from monai_dpmm_ad.errors import ScanError
from monai_dpmm_ad.label.infer import draw_prediction
from monai_dpmm_ad.label.labels import ReadStudy
from monai_dpmm_ad.label.runner import BundleRunner, Prediction
from monai_dpmm_ad.ops.components import label_components
from monai_dpmm_ad.transforms.grids import largest_shift

__all__ = ["count_found", "measure_sensitivity"]


def measure_sensitivity(runner: BundleRunner, studies: Sequence[ReadStudy]) -> dict[str, Any]:
    """Flag regions in studies that readers marked, at the bundle's own rate.

    Args:
        runner: holds the bundle.
        studies: with marked voxels.

    Returns:
        ``studies``; ``marked``, the connected regions that readers drew; ``found``, how many of them a flagged region
        touches; ``share``, the one over the other, None without any; ``failures``; ``learnt``, the studies that the
        bundle was fitted or calibrated on before they were marked, which are left out.
    """
    digests = {scan["sha256"] for scan in load_provenance(runner.root)["scans"]}
    marked = found = 0
    failures, learnt, used = [], [], []
    for study, digest in zip(studies, hash_scans([{"image": study.image} for study in studies]), strict=True):
        if digest in digests:
            learnt.append(study.name)
            continue
        try:
            prediction = runner.run(study.image)
            one = count_found(_on_grid(study, prediction), draw_prediction(prediction, prediction.bundle.defaults)[0])
        except ScanError as error:
            failures.append(str(error))
            continue
        used.append(study.name)
        marked, found = marked + one[0], found + one[1]
    share = found / marked if marked else None
    return {
        "studies": used,
        "marked": marked,
        "found": found,
        "share": share,
        "failures": failures,
        "learnt": learnt,
    }


def count_found(marked: NDArray[Any], flagged: NDArray[Any]) -> tuple[int, int]:
    """Count the connected regions of a mask, and those of them that another mask touches.

    Args:
        marked: what readers drew, 0 = nothing; 2D or 3D.
        flagged: same shape.
    """
    labels, number, box = label_components(marked != 0)
    touched = np.unique(labels[flagged[box] != 0]) if number else np.zeros(0, int)
    return number, int((touched > 0).sum())


def _on_grid(study: ReadStudy, prediction: Prediction) -> NDArray[np.bool_]:
    """What was marked, on the study's grid.

    Raises:
        ScanError: when the label lies on another.
    """
    pred = prediction.scan["pred"]
    image = MetaTensor(pred.as_subclass(torch.Tensor), affine=torch.as_tensor(pred.meta["original_affine"]))
    if study.marked.shape != image.shape:
        raise ScanError(study.image, f"its label has shape {tuple(study.marked.shape[1:])}, not the study's")
    if not largest_shift(study.marked, image) <= 0.1:
        raise ScanError(study.image, "its label lies elsewhere: another affine than the study's")
    return np.asarray(study.marked.as_subclass(torch.Tensor)[0])
