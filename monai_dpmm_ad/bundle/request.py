# Copyright 2026 monai_dpmm_ad contributors. Licensed under the Apache License, Version 2.0.
"""Whether a fit was asked for before and is done: the same command, killed at its very end, then has nothing to do."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from monai_dpmm_ad import __version__
from monai_dpmm_ad.bundle.provenance import load_provenance
from monai_dpmm_ad.data.content import hash_scans
from monai_dpmm_ad.data.dataset import read_failures
from monai_dpmm_ad.errors import CheckpointError
from monai_dpmm_ad.utils.files import read_json, write_json

__all__ = ["FILE", "covers_scans", "is_same_request", "record_request"]

#: In the bundle's folder: the digest of what the fit was asked for, which tells no path.
FILE = Path("fit") / "request.json"


def record_request(bundle_root: str | os.PathLike[str], request: Mapping[str, Any]) -> None:
    """Write down what a fit is asked for, before it begins.

    Args:
        bundle_root: folder of the bundle.
        request: all that the fit depends on but the content of the scans, plain JSON.
    """
    write_json(Path(bundle_root) / FILE, {"sha256": _digest(request)})


def is_same_request(bundle_root: str | os.PathLike[str], request: Mapping[str, Any]) -> bool:
    """Whether the last fit of a bundle was asked for the same, by the same version."""
    try:
        return bool(read_json(Path(bundle_root) / FILE)["sha256"] == _digest(request))
    except (ValueError, KeyError, TypeError):
        return False


def covers_scans(bundle_root: str | os.PathLike[str], items: Sequence[Mapping[str, Any]]) -> bool:
    """Whether these scans, by content, are those of a bundle's last fit, but for those that failed.

    Args:
        bundle_root: folder of the bundle.
        items: of a datalist, fitted and held out.
    """
    try:
        scans = load_provenance(bundle_root)["scans"]
    except CheckpointError:
        return False
    last = max((scan["fit"] for scan in scans), default=0)
    failed = {failure.name for failure in read_failures(bundle_root)}
    items = [item for item in items if item["name"] not in failed]
    now = {(item["name"], digest) for item, digest in zip(items, hash_scans(items), strict=True)}
    then = {(scan["name"], scan["sha256"]) for scan in scans}
    return now <= then and now >= {(scan["name"], scan["sha256"]) for scan in scans if scan["fit"] == last}


def _digest(request: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps([__version__, dict(request)], sort_keys=True).encode()).hexdigest()
