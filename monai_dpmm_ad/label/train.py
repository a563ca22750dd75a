# Copyright 2026 monai_dpmm_ad contributors. Licensed under the Apache License, Version 2.0.
"""MONAI Label's training tasks: learn from the studies that readers marked as normal, test on the abnormal ones."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from monailabel.interfaces.datastore import Datastore
from monailabel.interfaces.tasks.train import TrainTask

from monai_dpmm_ad.bundle import SETTINGS
from monai_dpmm_ad.label.labels import list_read_studies
from monai_dpmm_ad.label.refit import Refit, refit_bundle, update_bundle
from monai_dpmm_ad.label.refusals import refusing
from monai_dpmm_ad.label.requests import check_names, check_number
from monai_dpmm_ad.label.runner import BundleRunner
from monai_dpmm_ad.label.sensitivity import measure_sensitivity

__all__ = ["LearnNormal"]

OPTIONS = ("max_epochs", "seed", "force")


class LearnNormal(TrainTask):
    """Update or refit the bundle with the normal studies; the old bundle is kept beside the new one.

    Args:
        runner: holds the bundle.
        is_update: whether the studies are added to what the bundle knows, or take its place.
    """

    def __init__(self, runner: BundleRunner, is_update: bool) -> None:
        what = "Add the studies marked as normal to" if is_update else "Fit anew, on the studies marked as normal,"
        super().__init__(f"{what} the bundle")
        self.runner = runner
        self.is_update = is_update

    def config(self) -> dict[str, Any]:
        """What a request may set, with the defaults of a fit."""
        names = ("max_epochs",) if self.is_update else ("max_epochs", "seed")
        return {**{name: SETTINGS[name].default for name in names}, "force": False}

    def __call__(self, request: Mapping[str, Any], datastore: Datastore) -> dict[str, Any]:
        """Learn, then look for what readers marked in the abnormal studies: they are never learnt.

        Args:
            request: ``max_epochs``; ``seed`` of a refit; ``force``: even where fewer scans than before stay behind the
                bundle or its calibration.
            datastore: with the readers' final labels.

        Returns:
            Folders of the new and the previous bundle; the studies, and those that could not be used; ``fitted`` and
            ``calibration``, numbers before and after; ``sensitivity``, see
            :func:`~monai_dpmm_ad.label.sensitivity.measure_sensitivity`.
        """
        with refusing():
            check_names(request, OPTIONS)
            options: dict[str, Any] = {name: _whole(name, request[name]) for name in OPTIONS[:2] if name in request}
            force = _truth("force", request.get("force", False))
            studies = list_read_studies(datastore)
            normal = [study for study in studies if study.is_normal]
            if not normal:
                raise ValueError(
                    "Training needs studies marked as normal, got none. Submit an empty label, or one with a segment "
                    "'normal' only."
                )
            options |= self.runner.overrides  # device and regions are the server's
            learn = update_bundle if self.is_update else refit_bundle
            result = learn(self.runner.root, [study.image for study in normal], force=force, **options)
            abnormal = [study for study in studies if not study.is_normal]
            return {**_describe(result), "studies": [study.name for study in normal]} | {
                "sensitivity": measure_sensitivity(self.runner, abnormal)
            }


def _describe(result: Refit) -> dict[str, Any]:
    return {
        "bundle": str(result.bundle),
        "previous": str(result.previous),
        "fitted": {"before": result.before.fitted, "after": result.after.fitted},
        "calibration": {
            "scans_before": result.before.calibrating,
            "scans_after": result.after.calibrating,
            "held_out": result.after.is_held_out,
            "smallest_p_value": 1 / (result.after.calibrating + 1),
        },
        "failures": [f"{failure.path}: {failure.reason}" for failure in result.failures],
    }


def _whole(name: str, value: Any) -> int:
    number = check_number(name, value)
    if number < 0 or number != int(number):
        raise ValueError(f"`{name}` must be a whole number and not negative, got {value!r}.")
    return int(number)


def _truth(name: str, value: Any) -> bool:
    text = str(value).lower()
    if text not in ("true", "false"):
        raise ValueError(f"`{name}` must be true or false, got {value!r}.")
    return text == "true"
