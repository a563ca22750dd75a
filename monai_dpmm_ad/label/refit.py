# Copyright 2026 monai_dpmm_ad contributors. Licensed under the Apache License, Version 2.0.
"""Fit a bundle anew on scans that readers marked as normal, and put it in the place of the old one."""

from __future__ import annotations

import os
import shutil
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from monai_dpmm_ad.bundle import is_fitted, names_of, pick_settings, read_settings, write_settings
from monai_dpmm_ad.commands import fit
from monai_dpmm_ad.data.dataset import ScanFailure
from monai_dpmm_ad.errors import CheckpointError
from monai_dpmm_ad.utils.files import exchange_folders

__all__ = ["MIN_SCANS", "Refit", "refit_bundle"]

#: One to fit and one to calibrate on: a bundle whose thresholds come from the scans it was fitted on promises nothing.
MIN_SCANS = 2


@dataclass(frozen=True)
class Refit:
    """What a refit did.

    Args:
        bundle: folder of the new bundle, where the old one was.
        previous: folder of the old one.
        failures: scans that could not be used.
    """

    bundle: Path
    previous: Path
    failures: list[ScanFailure]


def refit_bundle(bundle: str | os.PathLike[str], images: Sequence[str], **overrides: Any) -> Refit:
    """Fit with the settings of a bundle on other scans, and exchange the two.

    The new bundle is complete before it is seen: readers of ``bundle`` find the old one or the new one, never none and
    never half of one. When anything fails the old one stays.

    Args:
        bundle: folder of a fitted bundle.
        images: normal scans.
        overrides: settings by name, and values of other ids in ``configs/train.json``.

    Raises:
        CheckpointError: when the folder holds no fitted bundle.
        ValueError: fewer scans than :data:`MIN_SCANS`.
    """
    root = Path(bundle).resolve()
    if not is_fitted(root):
        raise CheckpointError(f"{root}: holds no fitted bundle. Make one with fit.")
    if len(images) < MIN_SCANS:
        raise ValueError(f"`images` must be at least {MIN_SCANS} normal scans, got {len(images)}. Mark more as normal.")
    old = read_settings(root)
    settings = pick_settings(old, "model")
    work = Path(tempfile.mkdtemp(prefix=f".{root.name}-refit-", dir=root.parent))
    try:
        outcome = fit(images, work / root.name, own_logging=False, **{**settings, **overrides})
        fresh = work / root.name
        # What no fit decides, a user may have set by hand.
        write_settings(fresh, {name: old[name] for name in names_of("run", "both")})
        previous = _free_name(root)
        exchange_folders(fresh, root)
        os.rename(fresh, previous)
    finally:
        shutil.rmtree(work, ignore_errors=True)
    return Refit(root, previous, outcome.failures)


def _free_name(root: Path) -> Path:
    """A name beside the bundle for the one that is replaced."""
    stem = f"{root.name}-until-{time.strftime('%Y%m%dT%H%M%S')}"
    names = (f"{stem}{suffix}" for suffix in ("", *(f"-{number}" for number in range(2, 1000))))
    return next(root.with_name(name) for name in names if not root.with_name(name).exists())
