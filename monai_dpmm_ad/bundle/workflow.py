# Copyright 2026 monai_dpmm_ad contributors. Licensed under the Apache License, Version 2.0.
"""Run one of the configs with a bundle's settings, and load its network.

MONAI runs what a config says: a value that begins with ``$`` is Python. A bundle that someone sent is therefore a
program. The commands of this package run the package's own configs with the settings of the bundle, which are data;
the bundle's own configs run where the user says that the bundle is trusted.
"""

from __future__ import annotations

import difflib
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from monai_dpmm_ad.bundle.folder import METADATA, MODEL, is_fitted, read_state, template
from monai_dpmm_ad.bundle.formats import INFERENCE, read_settings
from monai_dpmm_ad.bundle.setting import refuse_expressions
from monai_dpmm_ad.bundle.settings import SETTINGS, complete_settings
from monai_dpmm_ad.errors import CheckpointError

__all__ = ["load_network", "load_workflow"]


def load_workflow(
    bundle_root: str | os.PathLike[str],
    configs: Sequence[str],
    kind: str,
    own_logging: bool = True,
    trust_bundle: bool = False,
    **overrides: Any,
) -> Any:
    """Load configs as MONAI's ``ConfigWorkflow``, the same that ``python -m monai.bundle run`` runs.

    Args:
        bundle_root: folder of the bundle.
        configs: names in ``configs/`` without the suffix; later ones overlay earlier ones.
        kind: ``train`` or ``inference``.
        own_logging: whether the configs' ``logging.conf`` replaces the logging of this process.
        trust_bundle: run the bundle's own configs, which are code, in place of this package's with its settings.
        overrides: settings by name, and values of other config ids.

    Returns:
        The workflow, not yet initialised.

    Raises:
        CheckpointError: when the folder is no bundle, must be fitted first, or has a setting that is unknown or cannot
            have its value.
        ValueError: an unknown setting or id, a value that a setting cannot have, or one that could be read as an
            expression of the config, which would run code.
    """
    from monai.bundle import ConfigWorkflow

    root = Path(bundle_root).absolute()
    if not (root / INFERENCE).is_file():
        raise CheckpointError(
            f"{root}: is no bundle of this package, {root / INFERENCE} is missing. Make one with fit."
        )
    if kind == "inference" and not is_fitted(root):
        raise CheckpointError(f"{root}: has no fitted model, {MODEL} is missing. Make one with fit.")
    for name, value in overrides.items():
        refuse_expressions(name, value)
    folder = (root if trust_bundle else template()) / "configs"
    files = [folder / f"{name}.json" for name in configs]
    changes = {name: value for name, value in overrides.items() if name not in SETTINGS}
    _check_ids(changes, files)
    given = {name: value for name, value in overrides.items() if name in SETTINGS}
    complete_settings(given, "fit" if kind == "train" else "run")  # only a check: the config completes them itself
    if kind == "inference" and not trust_bundle:
        changes["settings"] = {**read_settings(root), **given}
    else:
        changes |= {f"settings#{name}": value for name, value in given.items()}
    if kind == "inference":
        read_state(root / MODEL)  # a damaged file is named before anything else is done
    return ConfigWorkflow(
        config_file=[str(file) for file in files],
        meta_file=str(folder / METADATA.name),
        logging_file=str(folder / "logging.conf") if own_logging else False,
        workflow_type=kind,
        bundle_root=str(root),
        **changes,
    )


def _check_ids(changes: Mapping[str, Any], files: Sequence[Path]) -> None:
    """Refuse what no config has: MONAI would add it, and nothing would change."""
    known = {id for file in files for id in json.loads(file.read_text(encoding="utf-8"))}
    for name in changes:
        if name.replace("::", "#").split("#")[0] not in known:
            nearest = difflib.get_close_matches(name, [*SETTINGS, *known], n=1)
            hint = f" Did you mean `{nearest[0]}`?" if nearest else ""
            raise ValueError(f"`{name}` is neither a setting nor an id of {', '.join(f.name for f in files)}.{hint}")


def load_network(workflow: Any, bundle_root: str | os.PathLike[str]) -> Any:
    """Get the network of an initialised inference workflow with the fitted state, on the workflow's device."""
    network = workflow.parser.get_parsed_content("network")
    network.load_state_dict(torch.load(Path(bundle_root) / MODEL, map_location="cpu", weights_only=True))
    return network.eval()
