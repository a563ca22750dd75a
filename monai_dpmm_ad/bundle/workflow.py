# Copyright 2026 monai_dpmm_ad contributors. Licensed under the Apache License, Version 2.0.
"""Run one of the configs of a bundle, and load its network."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from monai_dpmm_ad.bundle.folder import METADATA, MODEL, SETTINGS, is_fitted, read_state, template
from monai_dpmm_ad.bundle.trust import check_configs, refuse_expressions
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
    """Load configs of a bundle as MONAI's ``ConfigWorkflow``, the same that ``python -m monai.bundle run`` runs.

    Args:
        bundle_root: folder of the bundle.
        configs: names in ``configs/`` without the suffix; later ones overlay earlier ones.
        kind: ``train`` or ``inference``.
        own_logging: whether the bundle's ``logging.conf`` replaces the logging of this process.
        trust_bundle: run the bundle's configs even where they are not this package's own. A config is code.
        overrides: values of config ids.

    Returns:
        The workflow, not yet initialised.

    Raises:
        CheckpointError: when the folder is no bundle, must be fitted first, or has configs that are not this package's
            own and is not trusted.
        ValueError: when an override could be read as an expression of the config, which would run code.
    """
    for name, value in overrides.items():
        refuse_expressions(name, value)
    from monai.bundle import ConfigWorkflow

    root = Path(bundle_root)
    files = [root / "configs" / f"{name}.json" for name in configs]
    missing = [str(file) for file in files if not file.is_file()]
    if missing:
        raise CheckpointError(f"{root}: is no bundle of this package, {missing[0]} is missing. Make one with fit.")
    if kind == "inference" and not is_fitted(root):
        raise CheckpointError(f"{root}: has no fitted model, {MODEL} is missing. Make one with fit.")
    if not trust_bundle:
        check_configs(root, template(), SETTINGS)
    if kind == "inference":
        read_state(root / MODEL)  # a damaged file is named before anything else is done
    return ConfigWorkflow(
        config_file=[str(file) for file in files],
        meta_file=str(root / METADATA),
        logging_file=str(root / "configs" / "logging.conf") if own_logging else False,
        workflow_type=kind,
        bundle_root=str(root),
        **overrides,
    )


def load_network(workflow: Any, bundle_root: str | os.PathLike[str]) -> Any:
    """Get the network of an initialised inference workflow with the fitted state, on the workflow's device."""
    network = workflow.parser.get_parsed_content("network")
    network.load_state_dict(read_state(Path(bundle_root) / MODEL) or {})
    return network.eval()
