# Copyright 2026 monai_dpmm_ad contributors. Licensed under the Apache License, Version 2.0.
"""Find in what is handed on the names and paths of the scans behind it."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from monai_dpmm_ad.bundle.folder import template
from monai_dpmm_ad.bundle.provenance import load_provenance
from monai_dpmm_ad.errors import CheckpointError

__all__ = ["check_private"]

_TEXTS = (".json", ".md", ".txt", ".conf", "")
#: Shorter names, such as numbers, stand in any text.
_LEAST = 3


def check_private(folder: Path, bundle: Path) -> None:
    """Check that no text of a folder names a scan of a bundle.

    Lines that the package's own template has are passed over, and so is what the bundle's card is made of: a scan may
    be called like a word of them.

    Args:
        folder: what is handed on.
        bundle: has the provenance; without one nothing is known and nothing checked.

    Raises:
        ValueError: naming the file and the line's number, not the scan.
    """
    try:
        scans = load_provenance(bundle)["scans"]
    except CheckpointError:
        return
    images = [path for scan in scans for key in ("image", "label") for path in _listed(scan.get(key))]
    places = {str(parent) for path in images for parent in [Path(path), *list(Path(path).parents)[:-2]]}
    names = {str(scan["name"]) for scan in scans if len(str(scan["name"])) >= _LEAST}
    wanted = [*(re.escape(place) for place in places), *(rf"(?<!\w){re.escape(name)}(?!\w)" for name in names)]
    if not wanted:
        return
    pattern = re.compile("|".join(sorted(wanted, key=len, reverse=True)))
    for path in sorted(folder.rglob("*")):
        if path.is_file() and path.suffix in _TEXTS:
            for number, line in _own_lines(path, template() / path.relative_to(folder)):
                if pattern.search(line):
                    raise ValueError(
                        f"`bundle` must not name its scans, but line {number} of {path.relative_to(folder)} does. "
                        "Change that line."
                    )


def _listed(value: object) -> list[str]:
    return [value] if isinstance(value, str) else [str(part) for part in value] if isinstance(value, list) else []


def _own_lines(path: Path, original: Path) -> Iterator[tuple[int, str]]:
    """The lines of a text that are its author's: neither the template's nor between the marks of the card."""
    known = set(original.read_text(encoding="utf-8").splitlines()) if original.is_file() else set()
    inside = False
    for number, line in enumerate(path.read_text(encoding="utf-8", errors="replace").splitlines(), 1):
        if re.fullmatch(r"<!-- /?\w+ -->", line):
            inside = "/" not in line
        elif not inside and line not in known:
            yield number, line
