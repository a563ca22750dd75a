# Copyright 2026 monai_dpmm_ad contributors. Licensed under the Apache License, Version 2.0.
"""The MONAI Label app: what the server offers to 3D Slicer and other clients."""

from __future__ import annotations

import logging
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import requests
from fastapi import HTTPException
from monailabel.config import settings
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
from monai_dpmm_ad.bundle.sequences import refuse_sequences
from monai_dpmm_ad.commands.label_app import SERVER
from monai_dpmm_ad.errors import CheckpointError
from monai_dpmm_ad.label.access import read_access, read_switch
from monai_dpmm_ad.label.batch import BatchAnomaly
from monai_dpmm_ad.label.dicom import open_dicom_studies
from monai_dpmm_ad.label.infer import AnomalyInfer
from monai_dpmm_ad.label.labels import NORMAL
from monai_dpmm_ad.label.ranking import AnomalyScoring, MostAnomalous, StudyScores
from monai_dpmm_ad.label.refusals import refuse_unknown
from monai_dpmm_ad.label.runner import BundleRunner
from monai_dpmm_ad.label.severity import LEVEL_NAMES
from monai_dpmm_ad.label.studies import StudyFolder
from monai_dpmm_ad.label.train import LearnNormal

__all__ = ["AnomalyApp"]

MASK, MAP, SCORING, STRATEGY = "dpmm_ad_mask", "dpmm_ad_map", "dpmm_ad", "most_anomalous"
UPDATE, REFIT = "dpmm_ad_update", "dpmm_ad_refit"
logger = logging.getLogger(__name__)


class AnomalyApp(MONAILabelApp):
    """Serve a bundle; ``monai-dpmm-ad label-app`` prints the command.

    Args:
        app_dir: folder of ``main.py``.
        studies: folder of the studies, or the address of a DICOM server.
        conf: ``bundle``, folder of a fitted bundle; ``device``, where to run it (default: a GPU where there is one);
            ``regions``, the atlas of a bundle that was fitted with one; ``trust_bundle``, ``true`` runs a bundle whose
            configs are not this package's own; who may do what, see :func:`~monai_dpmm_ad.label.access.read_access`.

    Raises:
        CheckpointError: when ``bundle`` is missing or holds no fitted bundle.
        ValueError: a bundle of several sequences, a setting that means nothing, or an ``app_dir`` inside of the
            package, where logs must not go.
    """

    def __init__(self, app_dir: str, studies: str, conf: Mapping[str, str]) -> None:
        _check_folder(app_dir)
        self.access = read_access(conf, settings.MONAI_LABEL_AUTH_ENABLE)
        bundle = conf.get("bundle")
        if not bundle or not is_fitted(bundle):
            raise CheckpointError(f"`bundle` must be a fitted bundle, got {bundle}. Add --conf bundle BUNDLE.")
        refuse_sequences(bundle, "a label server, which hands over one image")
        overrides = {name: conf[name] for name in ("device",) if name in conf}
        if "regions" in conf:
            overrides["regions"] = os.path.abspath(conf["regions"])
        self.runner = BundleRunner(bundle, trust_bundle=read_switch(conf, "trust_bundle"), **overrides)
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

    def init_datastore(self) -> Datastore:
        """The studies folder, confined; or a DICOM server."""
        if self.studies.startswith(("http://", "https://")):
            return super().init_datastore()
        return StudyFolder(
            self.studies,
            self.access.links,
            extensions=settings.MONAI_LABEL_DATASTORE_FILE_EXT,
            auto_reload=settings.MONAI_LABEL_DATASTORE_AUTO_RELOAD,
            read_only=settings.MONAI_LABEL_DATASTORE_READ_ONLY,
        )

    def init_remote_datastore(self) -> Datastore:
        """A DICOM server; what else MONAI Label knows is its own."""
        if settings.MONAI_LABEL_DATASTORE.lower() in ("xnat", "dsa"):
            return super().init_remote_datastore()
        return open_dicom_studies(self.studies)

    def init_infers(self) -> dict[str, InferTask]:
        """The two models."""
        return {MASK: AnomalyInfer(self.runner, is_mask=True), MAP: AnomalyInfer(self.runner, is_mask=False)}

    def init_batch_infer(self) -> BatchInferTask:
        """Either model over many studies."""
        return BatchAnomaly()

    def init_trainers(self) -> dict[str, TrainTask]:
        """The update first: it is what 3D Slicer runs unless told otherwise."""
        return {UPDATE: LearnNormal(self.runner, is_update=True), REFIT: LearnNormal(self.runner, is_update=False)}

    def init_strategies(self) -> dict[str, Strategy]:
        """Ours first: it is what 3D Slicer chooses unless told otherwise."""
        return {STRATEGY: MostAnomalous(self._scores), "first": First(), "random": Random()}

    def init_scoring_methods(self) -> dict[str, ScoringMethod]:
        """Scores for the strategy; MONAI Label runs it when the server starts and after a refit."""
        return {SCORING: AnomalyScoring(self._scores)}

    def on_init_complete(self) -> None:
        """Begin to serve, behind the gate only.

        Raises:
            RuntimeError: when MONAI Label's own application serves: it lets whoever reaches it write files.
        """
        if self._server_mode:
            from monai_dpmm_ad.label.server import app  # much to load where no server runs

            if not app.is_open:
                raise RuntimeError(f"The server must be guarded. Start it with --uvicorn_app {SERVER}.")
        super().on_init_complete()

    def async_scoring(self, method: str | None, params: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """Score in the background; outside of the server's process, ask the server to."""
        if self._server_mode:
            scored: dict[str, Any] = super().async_scoring(method, params)
            return scored
        url = f"http://127.0.0.1:{settings.MONAI_LABEL_SERVER_PORT}/scoring/{method or SCORING}"
        headers = {"Authorization": f"Bearer {self.access.token}"} if self.access.token else {}
        try:
            answer = requests.post(url, json=dict(params or {}), headers=headers, timeout=60)
            answer.raise_for_status()
        except requests.RequestException as error:  # what was trained is in its place; scores come with Next Sample
            logger.warning("the server could not be asked to score: %s", error)
            return {}
        return dict(answer.json())

    def infer(self, request: Mapping[str, Any], datastore: Datastore | None = None) -> dict[str, Any]:
        """Run a model; an unknown model or study is a 404, an ``image`` that is no name a 400."""
        refuse_unknown("model", request.get("model"), self._infers)
        image = request.get("image")
        if not isinstance(image, str):
            raise HTTPException(400, f"`image` must be the name of a study, got {image!r}.")
        if not self._is_upload(image):
            refuse_unknown("image", image, (datastore or self.datastore()).list_images())
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

    def _is_upload(self, image: str) -> bool:
        """Whether the request names a file of ours: uploads lie in the temporary folder or in that of the sessions."""
        path, sessions = os.path.realpath(image), self.sessions()
        folders = [tempfile.gettempdir(), *([sessions.store_path] if sessions is not None else [])]
        inside = any(path.startswith(os.path.realpath(folder) + os.sep) for folder in folders)
        return os.path.isabs(image) and inside and os.path.exists(path)


def _check_folder(app_dir: str) -> None:
    """Refuse the package's own copy of the app: MONAI Label writes logs, which name studies, beside ``main.py``."""
    own = Path(__file__).resolve().parents[1] / "bundles", Path(__file__).resolve().parents[2] / "bundles" / "label_app"
    if any(Path(app_dir).resolve().is_relative_to(folder) for folder in own):
        raise ValueError(f"`app_dir` must be a copy of the app, got {app_dir}. Make one: monai-dpmm-ad label-app")
