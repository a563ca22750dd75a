# Copyright 2026 monai_dpmm_ad contributors. Licensed under the Apache License, Version 2.0.
"""Find in what is handed on the names and paths of the scans behind it."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from monai_dpmm_ad.bundle.folder import template
from monai_dpmm_ad.bundle.formats import INFERENCE, read_settings
from monai_dpmm_ad.bundle.provenance import load_provenance
from monai_dpmm_ad.bundle.settings import SETTINGS
from monai_dpmm_ad.errors import CheckpointError

__all__ = ["check_private"]

#: What somebody may have written into; the configs are the package's own but for their settings.
_WRITTEN = ("LICENSE", "docs/README.md", "docs/data_license.txt", "configs/metadata.json")
#: Shorter names, such as numbers, stand in any text.
_LEAST = 3


def check_private(folder: Path, bundle: Path) -> None:
    """Check that nothing that was written into a folder names a scan of a bundle.

    What the package's template says too is passed over, and what stands between the marks of the card: a scan may be
    called like a word of them.

    Args:
        folder: what is handed on.
        bundle: has the provenance; without one nothing is known and nothing checked.

    Raises:
        ValueError: saying where, but not which scan.
    """
    pattern = _find_secrets(bundle)
    for place, text in _list_written(folder):
        if pattern is not None and pattern.search(text):
            raise ValueError(f"`bundle` must not name its scans, but {place} does. Change that.")


def _find_secrets(bundle: Path) -> re.Pattern[str] | None:
    """The names of a bundle's scans as whole words, their files, and the folders above, but for the topmost two."""
    try:
        scans = load_provenance(bundle)["scans"]
    except CheckpointError:
        return None
    images = [path for scan in scans for key in ("image", "label") for path in _to_list(scan.get(key))]
    places = {str(place) for path in images for place in (Path(path), *list(Path(path).parents)[:-2])}
    names = {str(scan["name"]) for scan in scans if len(str(scan["name"])) >= _LEAST}
    secrets = [*map(re.escape, places), *(rf"(?<!\w){re.escape(name)}(?!\w)" for name in names)]
    return re.compile("|".join(secrets)) if secrets else None


def _to_list(value: object) -> list[str]:
    return [value] if isinstance(value, str) else [str(part) for part in value] if isinstance(value, list) else []


def _list_written(folder: Path) -> Iterator[tuple[str, str]]:
    """Where something was written that is not the template's, and what."""
    for name in _WRITTEN:
        known = {line.strip(" ,") for line in (template() / name).read_text(encoding="utf-8").splitlines()}
        inside = False
        lines = (folder / name).read_text(encoding="utf-8", errors="replace").splitlines()
        for number, line in enumerate(lines, 1):
            if re.fullmatch(r"<!-- /?\w+ -->", line):
                inside = "/" not in line
            elif not inside and line.strip(" ,") not in known:
                yield f"line {number} of {name}", line
    for name, value in read_settings(folder).items():
        if value != SETTINGS[name].default:
            yield f"the setting {name} in {INFERENCE}", str(value)
