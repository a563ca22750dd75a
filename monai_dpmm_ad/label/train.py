# Copyright 2026 monai_dpmm_ad contributors. Licensed under the Apache License, Version 2.0.
"""MONAI Label's training task: refit the mixture on the studies that readers marked as normal."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Mapping
from typing import Any

import numpy as np
from monai.transforms import LoadImage
from monailabel.interfaces.datastore import Datastore, DefaultLabelTag
from monailabel.interfaces.tasks.train import TrainTask

from monai_dpmm_ad.label.refit import MIN_SCANS, refit_bundle
from monai_dpmm_ad.label.refusals import refusing
from monai_dpmm_ad.label.requests import check_names, check_number
from monai_dpmm_ad.label.runner import BundleRunner

__all__ = ["NORMAL", "RefitNormal", "find_normal_studies", "is_normal"]

#: Name of the segment that marks a study as normal.
NORMAL = "normal"
OPTIONS = ("max_epochs", "seed")
logger = logging.getLogger(__name__)


class RefitNormal(TrainTask):
    """Refit the bundle's mixture and calibration on the normal studies; the old bundle is kept beside the new one.

    Args:
        runner: holds the bundle.
    """

    def __init__(self, runner: BundleRunner) -> None:
        super().__init__("Refit the mixture on the studies that were marked as normal")
        self.runner = runner

    def config(self) -> dict[str, Any]:
        """Options with the defaults of the bundle's ``configs/train.json``."""
        path = self.runner.root / "configs" / "train.json"
        config = json.loads(path.read_text(encoding="utf-8"))
        return {name: int(config[name]) for name in OPTIONS}

    def __call__(self, request: Mapping[str, Any], datastore: Datastore) -> dict[str, Any]:
        """Refit.

        Args:
            request: ``max_epochs``, ``seed``.
            datastore: with the readers' final labels.

        Returns:
            Folders of the new and the previous bundle, the studies, and those that could not be used.
        """
        with refusing():
            check_names(request, OPTIONS)
            options: dict[str, Any] = {name: _whole(name, request[name]) for name in OPTIONS if name in request}
            studies = find_normal_studies(datastore)
            if len(studies) < MIN_SCANS:
                raise ValueError(
                    f"Training needs at least {MIN_SCANS} studies marked as normal, got {len(studies)}. "
                    f"Submit an empty label, or one with a segment '{NORMAL}' only."
                )
            options |= self.runner.overrides  # device and regions are the server's
            result = refit_bundle(self.runner.root, [datastore.get_image_uri(study) for study in studies], **options)
        return {
            "bundle": str(result.bundle),
            "previous": str(result.previous),
            "studies": studies,
            "failures": [f"{failure.path}: {failure.reason}" for failure in result.failures],
        }


def _whole(name: str, value: Any) -> int:
    number = check_number(name, value)
    if number < 0 or number != int(number):
        raise ValueError(f"`{name}` must be a whole number and not negative, got {value!r}.")
    return int(number)


def find_normal_studies(datastore: Datastore) -> list[str]:
    """Find the studies that a reader marked as normal, sorted."""
    tag = DefaultLabelTag.FINAL.value
    studies = []
    for image_id in sorted(datastore.get_labeled_images()):
        label_id = datastore.get_label_by_image_id(image_id, tag)
        info = datastore.get_label_info(label_id, tag)
        try:
            if is_normal(datastore.get_label_uri(label_id, tag), info):
                studies.append(image_id)
        except Exception as error:  # readers raise anything at all on damaged files
            logger.warning("label of %s cannot be read, so it marks nothing: %s", image_id, error)
    return studies


def is_normal(label: str | os.PathLike[str], info: Mapping[str, Any]) -> bool:
    """Whether a final label says that its study is normal: no voxel is marked but as ``normal``.

    Args:
        label: file of the label map.
        info: what the client sent with it; 3D Slicer sends ``label_info``, the names of the values.
    """
    segments = info.get("label_info") or []
    allowed = {0, *(int(segment["idx"]) for segment in segments if segment["name"].lower() == NORMAL)}
    values = np.unique(np.asarray(LoadImage(image_only=True)(os.fspath(label))))
    return set(values.tolist()) <= allowed
