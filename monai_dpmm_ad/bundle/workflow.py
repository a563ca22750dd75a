# Copyright 2026 monai_dpmm_ad contributors. Licensed under the Apache License, Version 2.0.
"""Run the configs with a bundle's settings, as MONAI does, with names for what comes out.

MONAI runs what a config says: a value that begins with ``$`` is Python. A bundle that someone sent is therefore a
program. The commands of this package run the package's own configs with the settings of the bundle, which are data;
the bundle's own configs run where the user says that the bundle is trusted.
"""

from __future__ import annotations

import copy
import json
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

from monai.bundle import ConfigWorkflow

from monai_dpmm_ad.bundle.folder import MODEL, is_fitted, read_state, template
from monai_dpmm_ad.bundle.formats import INFERENCE, read_settings
from monai_dpmm_ad.bundle.provenance import METADATA
from monai_dpmm_ad.bundle.setting import find_nearest, refuse_expressions
from monai_dpmm_ad.bundle.settings import SETTINGS, complete_settings, names_of
from monai_dpmm_ad.data import Found, ScanFailure, Split
from monai_dpmm_ad.errors import CheckpointError, telling_user
from monai_dpmm_ad.handlers import DriftHandler, ScanMetrics, ScanTable
from monai_dpmm_ad.network import AnomalyNet
from monai_dpmm_ad.utils.defaults import usual_defaults
from monai_dpmm_ad.utils.log import quiet_talkers

__all__ = ["AnomalyWorkflow", "load_workflow"]

#: name → id in the configs, whether every config of that kind has it, and what it is
_OF_ALL = {
    "settings": ("values", True, "every setting, checked and with defaults"),
    "network": ("network", True, "the network on its device"),
    "failures": ("failures", True, "the scans that were not processed"),
}
_PROPERTIES = {
    "train": {**_OF_ALL, "split": ("split", True, "the scans that are fitted and held out")},
    "inference": {
        **_OF_ALL,
        "found": ("found", True, "what the paths lead to"),
        "datalist": ("datalist", True, "the scans"),
        "table": ("table", True, "the handler that writes a row for each scan"),
        "drift": ("drift", True, "the handler that compares the scans with the fitted ones"),
        "metrics": ("metrics", False, "the handler of an evaluation"),
    },
}

#: Settings of the model that may be another for a scan: which of its slices are looked at.
_OF_A_SCAN = ("axes", "slice_spacing")


class AnomalyWorkflow(ConfigWorkflow):
    """MONAI's workflow of a bundle's configs, with typed properties beside MONAI's own.

    It makes and runs everything in float32, whatever torch's default is. As a context manager it is initialised and
    finalised. A property exists once the workflow is initialised; what a run fills is filled after :meth:`run`.

    Args:
        files: configs; later ones overlay earlier ones.
        kind: ``train`` or ``inference``.
        changes: config id → value.

    Attributes:
        settings: every setting, checked and with defaults.
        network: on its device.
        failures: the scans that were not processed.
        split: of a fit: the scans that are fitted and held out.
        found: of a run: what the paths lead to, and what of it was left out.
        datalist: of a run: the scans.
        table: of a run: has a row and the regions of each scan.
        drift: of a run: whether the scans come from the population that was fitted.
        metrics: of an evaluation; None otherwise.

    Example:
        >>> from monai_dpmm_ad.bundle.folder import template
        >>> workflow = load_workflow(template(), ["train"], "train", embedder_name="pixels-8", normative="off")
        >>> _ = workflow.initialize()
        >>> workflow.settings["embedder_name"], workflow.network.detector.fitted
        ('pixels-8', False)
    """

    settings: dict[str, Any]
    network: AnomalyNet
    failures: list[ScanFailure]
    split: Split
    found: Found
    datalist: list[dict[str, Any]]
    table: ScanTable
    drift: DriftHandler
    metrics: ScanMetrics | None

    def __init__(self, files: Sequence[Path], kind: str, changes: Mapping[str, Any]) -> None:
        folder = files[0].parent
        quiet_talkers()
        super().__init__(
            config_file=[str(file) for file in files],
            meta_file=str(folder / METADATA.name),
            logging_file=False,  # how a process logs is not a bundle's affair
            workflow_type=kind,
            **copy.deepcopy(dict(changes)),
        )
        self._origin = (files, kind, dict(changes))
        for name, (config_id, required, meaning) in _PROPERTIES[kind].items():
            self.add_property(name, required, config_id, meaning)  # type: ignore[arg-type]

    def __enter__(self) -> AnomalyWorkflow:
        self.initialize()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.finalize()

    def initialize(self) -> Any:
        """Make what the config says; an error of the user's is raised as it is."""
        with usual_defaults(), telling_user():
            return super().initialize()

    def _get_property(self, name: str, property: dict[str, Any]) -> Any:
        with usual_defaults(), telling_user():
            return super()._get_property(name, property)

    def run(self) -> Any:
        """Run; MONAI adds the bundle's folder to the places where Python looks for modules, each time anew."""
        places = sys.path[:]
        try:
            with usual_defaults(), telling_user():
                return super().run()
        finally:
            sys.path[:] = places

    def renewed(self, **overrides: Any) -> AnomalyWorkflow:
        """Make everything anew, with further overrides, but for the network.

        Args:
            overrides: as for :func:`load_workflow`, but settings of the model must be its own.

        Raises:
            ValueError: as there.
        """
        files, kind, changes = self._origin
        read = _read_overrides(overrides, files, kind)
        for name in (name for name in names_of("model") if name in overrides and name not in _OF_A_SCAN):
            if SETTINGS[name].check(overrides[name]) != self.settings[name]:
                raise ValueError(
                    f"`{name}` must be that of the loaded model, {self.settings[name]}, got {overrides[name]}. "
                    "Load the model with it, or fit anew."
                )
        fresh = AnomalyWorkflow(files, kind, {**changes, **read})
        fresh.network_def = self.network_def
        return fresh


def load_workflow(
    bundle_root: str | os.PathLike[str],
    configs: Sequence[str],
    kind: str,
    trust_bundle: bool = False,
    judge_settings: bool = True,
    **overrides: Any,
) -> AnomalyWorkflow:
    """Load configs with a bundle's settings, the same that ``python -m monai.bundle run`` runs.

    Args:
        bundle_root: folder of the bundle.
        configs: names in ``configs/`` without the suffix; later ones overlay earlier ones.
        kind: ``train`` or ``inference``.
        trust_bundle: run the bundle's own configs, which are code, in place of this package's with its settings.
        judge_settings: log a warning where a setting of the model is not the one that thresholds were calibrated with.
        overrides: settings by name, and values of other config ids.

    Returns:
        The workflow, not yet initialised.

    Raises:
        CheckpointError: when the folder is no bundle, must be fitted first, or has a setting that is unknown or cannot
            have its value.
        ValueError: an unknown setting or id, a value that a setting cannot have, or one that could be read as an
            expression of the config, which would run code.

    Example:
        >>> from monai_dpmm_ad.bundle.folder import template
        >>> workflow = load_workflow(template(), ["train"], "train", max_epochs=3)
        >>> workflow.parser.get_parsed_content("values")["max_epochs"]
        3
    """
    root = Path(bundle_root).absolute()
    if not (root / INFERENCE).is_file():
        raise CheckpointError(f"{root}: is no bundle of this package, {INFERENCE} is missing. Make one with fit.")
    if kind == "inference" and not is_fitted(root):
        raise CheckpointError(f"{root}: has no fitted model, {MODEL} is missing. Make one with fit.")
    folder = (root if trust_bundle else template()) / "configs"
    files = [folder / f"{name}.json" for name in configs]
    changes = _read_overrides(overrides, files, kind)
    if kind == "inference":
        changes["judge_settings"] = judge_settings
        if not trust_bundle:
            changes = {"settings": read_settings(root), **changes}
        read_state(root / MODEL)  # a damaged file is named before anything else is done
    return AnomalyWorkflow(files, kind, {"bundle_root": str(root), **changes})


def _read_overrides(overrides: Mapping[str, Any], files: Sequence[Path], kind: str) -> dict[str, Any]:
    """Check overrides and name the config ids that they stand for."""
    for name, value in overrides.items():
        refuse_expressions(name, value)
    settings = {name: value for name, value in overrides.items() if name in SETTINGS}
    complete_settings(settings, "fit" if kind == "train" else "run")  # only a check: the config completes them itself
    others = {name: value for name, value in overrides.items() if name not in SETTINGS}
    _check_ids(others, files)
    return {**others, **{f"settings#{name}": value for name, value in settings.items()}}


def _check_ids(changes: Mapping[str, Any], files: Sequence[Path]) -> None:
    """Refuse what no config has, which MONAI would add in vain, and a setting by the name of its option."""
    known = {id for file in files for id in json.loads(file.read_text(encoding="utf-8"))}
    options = {setting.option for setting in SETTINGS.values()}
    for name, value in changes.items():
        is_known = name.replace("::", "#").split("#")[0] in known
        if is_known and not (name in options and isinstance(value, str)):
            continue
        nearest = find_nearest(name, SETTINGS.values(), () if is_known else known)
        hint = f" Did you mean `{nearest}`?" if nearest else ""
        if is_known:
            raise ValueError(f"`{name}` must be a part of the config, got '{value}'.{hint}")
        raise ValueError(f"`{name}` is neither a setting nor an id of {', '.join(f.name for f in files)}.{hint}")
