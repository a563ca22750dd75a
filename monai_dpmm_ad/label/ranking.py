# Copyright 2026 monai_dpmm_ad contributors. Licensed under the Apache License, Version 2.0.
"""Active learning: score unlabelled studies with the bundle and hand out the most suspicious one first."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from typing import Any

from fastapi import HTTPException
from monailabel.interfaces.datastore import Datastore
from monailabel.interfaces.exception import ImageNotFoundException
from monailabel.interfaces.tasks.scoring import ScoringMethod
from monailabel.interfaces.tasks.strategy import Strategy

from monai_dpmm_ad.errors import CheckpointError, ScanError
from monai_dpmm_ad.handlers import ScanRow
from monai_dpmm_ad.label.refusals import refusing
from monai_dpmm_ad.label.requests import check_names, check_number
from monai_dpmm_ad.label.runner import BundleRunner

__all__ = ["AnomalyScoring", "MostAnomalous", "StudyScores"]

KEY = "dpmm_ad"
logger = logging.getLogger(__name__)


class StudyScores:
    """The studies' scores, kept in the datastore's image information under ``dpmm_ad``.

    A score holds for the bundle and the file that gave it: after a refit, or when the file changed, it is computed
    again. A study that cannot be processed keeps the reason in place of a score.

    Args:
        runner: holds the bundle.
    """

    def __init__(self, runner: BundleRunner) -> None:
        self.runner = runner
        self._unkept: dict[str, dict[str, Any]] = {}

    def cached(self, image_id: str, datastore: Datastore) -> dict[str, Any] | None:
        """What the datastore holds of a study, None where that is nothing or out of date."""
        if image_id in self._unkept:
            return self._unkept[image_id]
        info = datastore.get_image_info(image_id).get(KEY)
        if not isinstance(info, dict):  # asked first: to look at the file, a DICOM server's would be fetched
            return None
        try:
            state = self._state(image_id, datastore)
        except HTTPException:  # a link that leads out of the studies folder
            return info if "error" in info else None
        return info if state.items() <= info.items() else None

    def compute(self, image_id: str, datastore: Datastore) -> dict[str, Any]:
        """Score a study and keep the score: ``score``, ``p_value``, ``flagged`` and its unit, or ``error``."""
        info: dict[str, Any] = {}
        try:
            info = self._state(image_id, datastore)
            info |= _kept(self.runner.run(datastore.get_image_uri(image_id)).row)
        except ScanError as error:
            info["error"] = error.reason
        except HTTPException as error:  # a link that leads out of the studies folder
            info["error"] = error.detail
        except CheckpointError:
            raise
        except Exception as error:  # a DICOM server, or what reads its series, fails in its own ways
            info["error"] = str(error) or type(error).__name__
        if "error" in info:
            logger.warning("%s is not scored: %s", image_id, info["error"])
        try:
            datastore.update_image_info(image_id, {KEY: info})
        except ImageNotFoundException:  # a series that could not be fetched has no place in the cache
            self._unkept[image_id] = info
        return info

    def _state(self, image_id: str, datastore: Datastore) -> dict[str, Any]:
        path = datastore.get_image_uri(image_id)
        modified = os.stat(path).st_mtime_ns if os.path.exists(path) else 0
        return {"bundle": self.runner.load().digest, "modified": modified}


def _kept(row: ScanRow) -> dict[str, Any]:
    return {name: getattr(row, name) for name in ("score", "p_value", "in_range", "flagged", "flagged_unit")}


class AnomalyScoring(ScoringMethod):
    """MONAI Label's scoring method: score every unlabelled study that has no score of the current bundle.

    Args:
        scores: where they are kept.
    """

    def __init__(self, scores: StudyScores) -> None:
        super().__init__("Anomaly score of every unlabelled study")
        self.scores = scores

    def __call__(self, request: Mapping[str, Any], datastore: Datastore) -> dict[str, Any]:
        """Score; a study that cannot be read does not stop the others.

        Returns:
            Numbers of studies: ``total``, ``skipped`` (already scored), ``executed``, ``failed``.
        """
        with refusing():
            images = sorted(datastore.get_unlabeled_images())
            todo = [image for image in images if self.scores.cached(image, datastore) is None]
            done = [self.scores.compute(image, datastore) for image in todo]
        failed = sum("error" in info for info in done)
        return {"total": len(images), "skipped": len(images) - len(todo), "executed": len(done), "failed": failed}


class MostAnomalous(Strategy):
    """MONAI Label's strategy behind "Next Sample": the unlabelled study with the highest score.

    Studies without a score are scored first, but no more than ``max_new_scores`` in one request, so that the answer
    comes soon; the others wait for the scoring method.

    Args:
        scores: where they are kept.
        max_new_scores: default of that parameter.
    """

    def __init__(self, scores: StudyScores, max_new_scores: int = 8) -> None:
        super().__init__("The study with the highest anomaly score first")
        self.scores = scores
        self.max_new_scores = max_new_scores

    def info(self) -> dict[str, Any]:
        """Description and options, as a client shows them."""
        return {"description": self.description, "config": {"max_new_scores": self.max_new_scores}}

    def __call__(self, request: Mapping[str, Any], datastore: Datastore) -> dict[str, Any] | None:
        """Choose a study.

        Returns:
            Its ``id`` with ``score``, ``p_value``, ``in_range`` (False: the p-value is not promised) and the number of
            studies that are still ``unscored``; None where no unlabelled study has a score.
        """
        with refusing():
            check_names(request, ["max_new_scores"])
            left = int(check_number("max_new_scores", request.get("max_new_scores", self.max_new_scores)))
            found: dict[str, dict[str, Any]] = {}
            images = sorted(datastore.get_unlabeled_images(request.get("label_tag"), request.get("labels")))
            for image in images:
                info = self.scores.cached(image, datastore)
                if info is None and left > 0:
                    info, left = self.scores.compute(image, datastore), left - 1
                if info is not None:
                    found[image] = info
        ranked = sorted((image for image in found if "score" in found[image]), key=lambda name: -found[name]["score"])
        if not ranked:
            return None
        best = found[ranked[0]]
        return {
            "id": ranked[0],
            "score": best["score"],
            "p_value": best["p_value"],
            "in_range": best["in_range"],
            "unscored": len(images) - len(found),
        }
