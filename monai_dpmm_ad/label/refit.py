# Copyright 2026 monai_dpmm_ad contributors. Licensed under the Apache License, Version 2.0.
"""Fit a bundle anew on scans that readers marked as normal, and put it in the place of the old one."""

from __future__ import annotations

import os
import shutil
import tempfile
import time
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from monai_dpmm_ad.bundle import MODEL, create_bundle, is_fitted, names_of, pick_settings, read_settings, write_settings
from monai_dpmm_ad.bundle.formats import OWN_EMBEDDER
from monai_dpmm_ad.bundle.provenance import count_fitted
from monai_dpmm_ad.bundle.update import read_update_settings, split_update
from monai_dpmm_ad.commands import fit
from monai_dpmm_ad.data.dataset import ScanFailure
from monai_dpmm_ad.errors import CheckpointError
from monai_dpmm_ad.utils.files import exchange_folders

__all__ = ["MIN_SCANS", "Refit", "Scans", "count_scans", "refit_bundle", "update_bundle"]

#: One to fit and one to calibrate on: a bundle whose thresholds come from the scans it was fitted on promises nothing.
MIN_SCANS = 2


@dataclass(frozen=True)
class Scans:
    """How many scans are behind a bundle.

    Args:
        fitted: those it has learnt.
        calibrating: those behind its thresholds and p-values.
        is_held_out: whether the latter were not fitted.
    """

    fitted: int
    calibrating: int
    is_held_out: bool


@dataclass(frozen=True)
class Refit:
    """What a refit or an update did.

    Args:
        bundle: folder of the new bundle, where the old one was.
        previous: folder of the old one.
        before: scans behind the old one.
        after: scans behind the new one.
        failures: scans that could not be used.
    """

    bundle: Path
    previous: Path
    before: Scans
    after: Scans
    failures: list[ScanFailure]


def update_bundle(
    bundle: str | os.PathLike[str], images: Sequence[str], force: bool = False, **overrides: Any
) -> Refit:
    """Add scans to what a bundle knows, and exchange the two as :func:`refit_bundle` does.

    Args:
        bundle: folder of a fitted bundle, with its provenance.
        images: normal scans; those that the bundle has seen are left out.
        force: even where fewer scans than before can calibrate.
        overrides: settings by name, and values of other ids in ``configs/train.json``.

    Raises:
        CheckpointError: when the folder holds no fitted bundle or nothing is known of its scans.
        ValueError: no new scan, or a calibration on fewer scans than before.
    """
    root = _fitted(bundle)
    before = count_scans(root)
    settings = read_update_settings(root, {})
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # said again by the fit
        split = split_update(root, images, None, settings.get("validation_fraction", 0.2), settings.get("seed", 0))
    calibrating = len(split.held_out) if split.is_held_out else 0
    if calibrating < before.calibrating and before.is_held_out and not force:
        raise ValueError(
            f"The thresholds would rest on {calibrating} held-out scans, today on {before.calibrating}: those are not "
            "where they were when the bundle was fitted. Mark more studies as normal, put the held-out scans back to "
            "their place, or train with force."
        )
    return _exchange(root, images, before, update=root, **overrides)


def refit_bundle(bundle: str | os.PathLike[str], images: Sequence[str], force: bool = False, **overrides: Any) -> Refit:
    """Fit with the settings of a bundle on other scans, and exchange the two.

    The new bundle is complete before it is seen: readers of ``bundle`` find the old one or the new one, never none and
    never half of one. When anything fails the old one stays.

    Args:
        bundle: folder of a fitted bundle.
        images: normal scans.
        force: even with fewer scans than are behind the bundle.
        overrides: settings by name, and values of other ids in ``configs/train.json``.

    Raises:
        CheckpointError: when the folder holds no fitted bundle.
        ValueError: fewer scans than :data:`MIN_SCANS`, or than before.
    """
    root = _fitted(bundle)
    if len(images) < MIN_SCANS:
        raise ValueError(f"`images` must be at least {MIN_SCANS} normal scans, got {len(images)}. Mark more as normal.")
    before = count_scans(root)
    behind = before.fitted + (before.calibrating if before.is_held_out else 0)
    if len(images) < behind and not force:
        raise ValueError(
            f"A refit would put {len(images)} scans in the place of the {behind} behind the bundle. "
            "Update it instead, mark more studies as normal, or train with force."
        )
    settings = pick_settings(read_settings(root), "model")
    return _exchange(root, images, before, **{**settings, **overrides})


def count_scans(root: Path) -> Scans:
    """Count the scans behind a bundle."""
    state = torch.load(root / MODEL, map_location="cpu", weights_only=True)
    held_out = bool(state["calibration.held_out"])
    return Scans(count_fitted(root), int(state["calibration.num_scans"]), held_out)


def _fitted(bundle: str | os.PathLike[str]) -> Path:
    root = Path(bundle).resolve()
    if not is_fitted(root):
        raise CheckpointError(f"{root}: holds no fitted bundle. Make one with fit.")
    return root


def _exchange(root: Path, images: Sequence[str], before: Scans, **options: Any) -> Refit:
    old = read_settings(root)
    work = Path(tempfile.mkdtemp(prefix=f".{root.name}-refit-", dir=root.parent))
    try:
        fresh = work / root.name
        if (root / OWN_EMBEDDER).is_dir():  # of a bundle that was handed on
            shutil.copytree(root / OWN_EMBEDDER, create_bundle(fresh) / OWN_EMBEDDER)
        outcome = fit(images, fresh, **options)
        # What no fit decides, a user may have set by hand.
        write_settings(fresh, {name: old[name] for name in names_of("run", "both")})
        after = count_scans(fresh)
        previous = _free_name(root)
        exchange_folders(fresh, root)
        os.rename(fresh, previous)
    finally:
        shutil.rmtree(work, ignore_errors=True)
    return Refit(root, previous, before, after, outcome.failures)


def _free_name(root: Path) -> Path:
    """A name beside the bundle for the one that is replaced."""
    stem = f"{root.name}-until-{time.strftime('%Y%m%dT%H%M%S')}"
    names = (f"{stem}{suffix}" for suffix in ("", *(f"-{number}" for number in range(2, 1000))))
    return next(root.with_name(name) for name in names if not root.with_name(name).exists())
