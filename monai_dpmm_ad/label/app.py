# Copyright 2026 monai_dpmm_ad contributors. Licensed under the Apache License, Version 2.0.
"""The MONAI Label app: what the server offers to 3D Slicer and other clients."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from fastapi import HTTPException
from monailabel.interfaces.app import MONAILabelApp
from monailabel.interfaces.datastore import Datastore
from monailabel.interfaces.tasks.batch_infer import BatchInferTask
from monailabel.interfaces.tasks.infer_v2 import InferTask
from monailabel.interfaces.tasks.scoring import ScoringMethod
from monailabel.interfaces.tasks.strategy import Strategy
from monailabel.interfaces.tasks.train import TrainTask
from monailabel.tasks.activelearning.first import First
from monailabel.tasks.activelearning.random import Random

from monai_dpmm_ad import __version__
from monai_dpmm_ad.bundle import is_fitted
from monai_dpmm_ad.errors import CheckpointError
from monai_dpmm_ad.label.batch import BatchAnomaly
from monai_dpmm_ad.label.infer import AnomalyInfer
from monai_dpmm_ad.label.ranking import AnomalyScoring, MostAnomalous, StudyScores
from monai_dpmm_ad.label.refusals import refuse_unknown
from monai_dpmm_ad.label.runner import BundleRunner
from monai_dpmm_ad.label.severity import LEVEL_NAMES
from monai_dpmm_ad.label.train import NORMAL, RefitNormal

__all__ = ["AnomalyApp"]

MASK, MAP, TRAINER, SCORING, STRATEGY = "dpmm_ad_mask", "dpmm_ad_map", "dpmm_ad_refit", "dpmm_ad", "most_anomalous"


class AnomalyApp(MONAILabelApp):
    """Serve a bundle: ``monailabel start_server --app bundles/label_app --studies DIR --conf bundle BUNDLE``.

    Args:
        app_dir: folder of ``main.py``.
        studies: folder of the studies, or the address of a DICOM server.
        conf: ``bundle``, folder of a fitted bundle; ``device``, where to run it (default: a GPU where there is one);
            ``regions``, the atlas of a bundle that was fitted with one; ``trust_bundle``, ``true`` runs a bundle whose
            configs are not this package's own.

    Raises:
        CheckpointError: when ``bundle`` is missing or holds no fitted bundle.
        ValueError: when ``trust_bundle`` is neither true nor false.
    """

    def __init__(self, app_dir: str, studies: str, conf: Mapping[str, str]) -> None:
        bundle = conf.get("bundle")
        if not bundle or not is_fitted(bundle):
            raise CheckpointError(f"`bundle` must be a fitted bundle, got {bundle}. Add --conf bundle BUNDLE.")
        overrides = {name: conf[name] for name in ("device",) if name in conf}
        if "regions" in conf:
            overrides["regions"] = os.path.abspath(conf["regions"])
        trusted = str(conf.get("trust_bundle", False)).lower()
        if trusted not in ("true", "false"):
            raise ValueError(f"`trust_bundle` must be true or false, got {trusted}.")
        self.runner = BundleRunner(bundle, trust_bundle=trusted == "true", **overrides)
        self._scores = StudyScores(self.runner)
        super().__init__(
            app_dir=app_dir,
            studies=studies,
            conf=dict(conf),
            name="monai_dpmm_ad",
            description="Anomaly maps, calibrated on healthy scans. Research software, not a medical device.",
            version=__version__,
            labels=[*LEVEL_NAMES, NORMAL],
        )

    def init_infers(self) -> dict[str, InferTask]:
        """The two models."""
        return {MASK: AnomalyInfer(self.runner, is_mask=True), MAP: AnomalyInfer(self.runner, is_mask=False)}

    def init_batch_infer(self) -> BatchInferTask:
        """Either model over many studies."""
        return BatchAnomaly()

    def init_trainers(self) -> dict[str, TrainTask]:
        """The refit."""
        return {TRAINER: RefitNormal(self.runner)}

    def init_strategies(self) -> dict[str, Strategy]:
        """Ours first: it is what 3D Slicer chooses unless told otherwise."""
        return {STRATEGY: MostAnomalous(self._scores), "first": First(), "random": Random()}

    def init_scoring_methods(self) -> dict[str, ScoringMethod]:
        """Scores for the strategy; MONAI Label runs it when the server starts and after a refit."""
        return {SCORING: AnomalyScoring(self._scores)}

    def on_init_complete(self) -> None:
        """Guard the endpoints of the server that has made this app."""
        if self._server_mode:
            from monailabel.app import app  # exists already where a server runs, and is much to load where none does

            from monai_dpmm_ad.label.endpoints import guard_endpoints

            guard_endpoints(app)
        super().on_init_complete()

    def infer(self, request: Mapping[str, Any], datastore: Datastore | None = None) -> dict[str, Any]:
        """Run a model; an unknown model or study is a 404, an ``image`` that is no name a 400."""
        refuse_unknown("model", request.get("model"), self._infers)
        image = request.get("image")
        if not isinstance(image, str):
            raise HTTPException(400, f"`image` must be the name of a study, got {image!r}.")
        store = datastore or self.datastore()
        if not _is_path(image):
            refuse_unknown("image", image, store.list_images())
        return super().infer(request, datastore)

    def next_sample(self, request: Mapping[str, Any]) -> dict[str, Any]:
        """Choose a study; an unknown strategy is a 404."""
        refuse_unknown("strategy", request.get("strategy") or STRATEGY, self._strategies)
        return super().next_sample({**request, "strategy": request.get("strategy") or STRATEGY})

    def batch_infer(self, request: Mapping[str, Any], datastore: Datastore | None = None) -> dict[str, Any]:
        """Run a model on many studies; an unknown model is a 404."""
        refuse_unknown("model", request.get("model"), self._infers)
        return super().batch_infer(request, datastore)

    def scoring(self, request: Mapping[str, Any], datastore: Datastore | None = None) -> dict[str, Any]:
        """Score the unlabelled studies; an unknown method is a 404."""
        refuse_unknown("method", request.get("method"), self._scoring_methods)
        return super().scoring(request, datastore)

    def train(self, request: Mapping[str, Any]) -> dict[str, Any]:
        """Run a training task; an unknown one is a 404."""
        refuse_unknown("model", request.get("model"), self._trainers)
        return super().train(request)


def _is_path(image: str) -> bool:
    """Whether the request names a file: MONAI Label puts uploaded images into temporary files."""
    return os.path.isabs(image) and os.path.exists(image)
