# Copyright 2026 monai_dpmm_ad contributors. Licensed under the Apache License, Version 2.0.
# ruff: noqa: F401 (what is imported for type checkers is handed on)
"""Anomaly maps for medical images: a Dirichlet process mixture on frozen DINO features, as a MONAI bundle.

The names below are the public face: a notebook, a pipeline and the bundle's configs need no others, whatever rooms the
package has inside. Each imports what it needs when it is first used, so that importing the package is cheap.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from monai_dpmm_ad.utils.lazy import hand_on

if TYPE_CHECKING:
    from monai_dpmm_ad.bundle.card import record_evaluation
    from monai_dpmm_ad.bundle.folder import create_bundle, is_fitted, read_state, save_model
    from monai_dpmm_ad.bundle.formats import read_settings
    from monai_dpmm_ad.bundle.pack import pack_bundle, push_bundle
    from monai_dpmm_ad.bundle.parts import fit_settings, make_detector, make_embedder, make_network, run_settings
    from monai_dpmm_ad.bundle.promises import warn_of_settings
    from monai_dpmm_ad.bundle.sequences import fit_sequences
    from monai_dpmm_ad.bundle.settings import pick_settings
    from monai_dpmm_ad.bundle.unpack import unpack_bundle
    from monai_dpmm_ad.bundle.update import record_scans, split_update, start_update
    from monai_dpmm_ad.bundle.workflow import AnomalyWorkflow, load_workflow
    from monai_dpmm_ad.commands.compare import compare
    from monai_dpmm_ad.commands.model import AnomalyModel, AnomalyResult
    from monai_dpmm_ad.commands.run import Outcome, demo, evaluate, fit, infer
    from monai_dpmm_ad.data.acquisitions import add_acquisitions
    from monai_dpmm_ad.data.covariates import add_covariates, add_split_covariates, choose_of_sites, name_sites
    from monai_dpmm_ad.data.datalist import add_regions, find_scans, require_scans, resolve_datalist
    from monai_dpmm_ad.data.dataset import ScanDataset, collate_scans
    from monai_dpmm_ad.data.fitted_sequences import choose_sequences, match_sequences
    from monai_dpmm_ad.data.phantoms import write_cohort
    from monai_dpmm_ad.data.split import split_scans
    from monai_dpmm_ad.detectors import Detector, create_detector
    from monai_dpmm_ad.embedding import Embedder, StoreLoader, create_embedder
    from monai_dpmm_ad.engines import DetectorTrainer, HeldOutEvaluator, ResumeLog, ScanEvaluator, embed_dataset
    from monai_dpmm_ad.errors import CheckpointError, EmbeddingStoreError, NotFittedError, ScanError
    from monai_dpmm_ad.handlers import (
        AnomalyMetricsHandler,
        BestModelSaver,
        CalibrationHandler,
        DicomHandler,
        DriftHandler,
        IntensityTailHandler,
        MetricsTable,
        NormativeHandler,
        ScanMetrics,
        ScanProgress,
        ScanTable,
        SiteHandler,
        SubsetCalibrationHandler,
    )
    from monai_dpmm_ad.mixture import DirichletProcessMixture
    from monai_dpmm_ad.network import AnomalyNet, SequenceNet, VolumeInferer
    from monai_dpmm_ad.transforms import (
        LoadRegionsd,
        LoadScand,
        SaveDicomd,
        SaveScand,
        ScaleIntensityForegroundd,
        preprocess_scan,
        preprocess_slices,
    )
    from monai_dpmm_ad.transforms.drop import DropVoxelsd
    from monai_dpmm_ad.transforms.place import JudgeByPlaced, MatchIntensityd
    from monai_dpmm_ad.transforms.score import ScoreScand
    from monai_dpmm_ad.transforms.sequences import SumSequencesd
    from monai_dpmm_ad.transforms.truth import CheckTruthd
    from monai_dpmm_ad.utils.distributed import is_first, join_processes, share
    from monai_dpmm_ad.utils.progress import quiet_warnings

__version__ = "0.1.0"

#: module below the package → the public names that it defines
_NAMES = {
    "bundle.card": "record_evaluation",
    "bundle.folder": "create_bundle is_fitted read_state save_model",
    "bundle.formats": "read_settings",
    "bundle.pack": "pack_bundle push_bundle",
    "bundle.parts": "fit_settings make_detector make_embedder make_network run_settings",
    "bundle.promises": "warn_of_settings",
    "bundle.sequences": "fit_sequences",
    "bundle.settings": "pick_settings",
    "bundle.unpack": "unpack_bundle",
    "bundle.update": "record_scans split_update start_update",
    "bundle.workflow": "AnomalyWorkflow load_workflow",
    "commands.compare": "compare",
    "commands.model": "AnomalyModel AnomalyResult",
    "commands.run": "Outcome demo evaluate fit infer",
    "data.acquisitions": "add_acquisitions",
    "data.covariates": "add_covariates add_split_covariates choose_of_sites name_sites",
    "data.datalist": "add_regions find_scans require_scans resolve_datalist",
    "data.dataset": "ScanDataset collate_scans",
    "data.fitted_sequences": "choose_sequences match_sequences",
    "data.phantoms": "write_cohort",
    "data.split": "split_scans",
    "detectors": "Detector create_detector",
    "embedding": "Embedder StoreLoader create_embedder",
    "engines": "DetectorTrainer HeldOutEvaluator ResumeLog ScanEvaluator embed_dataset",
    "errors": "CheckpointError EmbeddingStoreError NotFittedError ScanError",
    "handlers": "AnomalyMetricsHandler BestModelSaver CalibrationHandler DicomHandler DriftHandler "
    "IntensityTailHandler MetricsTable NormativeHandler ScanMetrics ScanProgress ScanTable SiteHandler "
    "SubsetCalibrationHandler",
    "mixture": "DirichletProcessMixture",
    "network": "AnomalyNet SequenceNet VolumeInferer",
    "transforms": "LoadRegionsd LoadScand SaveDicomd SaveScand ScaleIntensityForegroundd preprocess_scan "
    "preprocess_slices",
    "transforms.drop": "DropVoxelsd",
    "transforms.place": "JudgeByPlaced MatchIntensityd",
    "transforms.score": "ScoreScand",
    "transforms.truth": "CheckTruthd",
    "transforms.sequences": "SumSequencesd",
    "utils.distributed": "is_first join_processes share",
    "utils.progress": "quiet_warnings",
}
_HOMES = {name: f"{__name__}.{module}" for module, names in _NAMES.items() for name in names.split()}

__getattr__, __dir__ = hand_on(__name__, _HOMES)
