# Copyright 2026 monai_dpmm_ad contributors. Licensed under the Apache License, Version 2.0.
"""Fit a bundle of several sequences: a bundle of each, then what they say together."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from monai_dpmm_ad.bundle.folder import MODEL, create_bundle, is_fitted, read_state
from monai_dpmm_ad.bundle.formats import read_settings
from monai_dpmm_ad.bundle.request import covers_scans, is_same_request, record_request
from monai_dpmm_ad.bundle.workflow import load_workflow
from monai_dpmm_ad.data.dataset import ScanFailure, read_failures
from monai_dpmm_ad.network import SequenceNet

__all__ = ["fit_sequences", "refuse_sequences"]


def fit_sequences(
    bundle_root: str | os.PathLike[str],
    network: SequenceNet,
    settings: Mapping[str, Any],
    dataset_dir: Any,
    validation_dir: Any,
    device: Any,
    sites: Sequence[str] = (),
) -> list[ScanFailure]:
    """Fit a bundle of each sequence in ``fit/NAME`` of the bundle's folder, and take over what they have learnt.

    One that is fitted already, by the same settings on the same scans, is not fitted again. The first sequence decides
    whether and how scans are judged by place.

    Args:
        bundle_root: folder of the bundle of all.
        network: gets the fitted networks and their scales.
        settings: of the fit.
        dataset_dir: where the healthy scans are.
        validation_dir: where the held-out ones are; None splits.
        device: where to compute.
        sites: names of the scans' sites, which all sequences have alike.

    Returns:
        The scans of which a sequence could not be read.

    Example:
        >>> from monai_dpmm_ad.commands.example import make_example_sequences
        >>> folder = make_example_sequences()  # `scans.json`, and `bundle`, fitted on them
        >>> from monai_dpmm_ad import load_workflow
        >>> options = {"dataset_dir": [str(folder / "scans.json")], **read_settings(folder / "bundle")}
        >>> sorted(path.name for path in (folder / "bundle" / "fit").iterdir() if is_fitted(path))
        ['FLAIR', 'T1']
    """
    values = {name: value for name, value in settings.items() if name != "sequences"}
    values["sites"] = list(sites) or None
    network.know_sites(sites)
    failures: list[ScanFailure] = []
    for number, name in enumerate(network.names):
        root = Path(bundle_root) / "fit" / name
        request = {
            **values,
            "dataset_dir": dataset_dir,
            "validation_dir": validation_dir,
            "sequence": name,
            "among": list(network.names),
        }
        failures += _fit_one(root, request, str(device))
        decided = read_settings(root)
        values |= {key: decided[key] for key in ("normative", "frame", "asymmetry", "intensity_tail")}
        fitted = network[number]
        if decided["normative"] == "off":
            fitted.forget_place()
        elif fitted.normative is not None:
            fitted.normative.frame = decided["frame"]
            fitted.normative.asymmetry = fitted.normative.asymmetry if decided["asymmetry"] == "on" else None
        fitted.load_state_dict(read_state(root / MODEL))
    network.set_scales()
    return list(dict.fromkeys(failures))


def _fit_one(root: Path, request: Mapping[str, Any], device: str) -> list[ScanFailure]:
    if is_same_request(root, request) and is_fitted(root):
        split = load_workflow(root, ["train"], "train", **request).parser.get_parsed_content("split")
        if covers_scans(root, [*split.train, *split.held_out]):
            return read_failures(root)
    if root.exists() and (is_fitted(root) or not is_same_request(root, request)):
        shutil.rmtree(root)  # embedded on another grid, or of other scans
    create_bundle(root)
    record_request(root, request)
    with load_workflow(root, ["train"], "train", device=device, **request) as workflow:
        workflow.run()
    return list(workflow.failures)


def refuse_sequences(bundle_root: str | os.PathLike[str], what: str) -> None:
    """Refuse a fitted bundle of several sequences where only single images can be processed.

    Args:
        bundle_root: folder of the bundle; of one that is not fitted nothing is said.
        what: is asked for, for the message.

    Raises:
        ValueError: naming the bundle of a single sequence inside it, which one that was handed on does not have.
    """
    names = read_settings(bundle_root)["sequences"] if is_fitted(bundle_root) else None
    if names is not None:
        inside = Path(bundle_root) / "fit" / names[-1]
        way = f"Take the bundle of one sequence, {inside}" if is_fitted(inside) else f"Fit one of {names[-1]} alone"
        raise ValueError(
            f"`bundle` must be of single images for {what}, got one of the sequences {', '.join(names)}. {way}."
        )
