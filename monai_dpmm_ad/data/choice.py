# Copyright 2026 monai_dpmm_ad contributors. Licensed under the Apache License, Version 2.0.
"""Choose among what was found: one kind of image of each subject, as BIDS trees hold several, and each file once."""

from __future__ import annotations

import fnmatch
import os
import re
import shlex
from collections import Counter, defaultdict
from collections.abc import Sequence
from pathlib import Path

from monai_dpmm_ad.data.gate import LeftOut
from monai_dpmm_ad.data.paths import scan_stem
from monai_dpmm_ad.data.subjects import first_file, name_subjects
from monai_dpmm_ad.data.types import Item
from monai_dpmm_ad.errors import ScanError

__all__ = ["SERIES_KIND", "check_one_kind", "check_one_series", "choose_items", "is_wanted", "take_once"]

#: What an item of a DICOM series carries until it is chosen: its description, else its folder if that names a sequence.
SERIES_KIND = "series_kind"

_BIDS = re.compile(r"^sub-[a-z0-9]+(?:_[a-z0-9]+-[a-z0-9+]+)*_([a-z0-9]+)$", re.IGNORECASE)
_MOST_KINDS = 24


def is_wanted(folder: Path, file: Path, pattern: str | None) -> bool:
    """Tell whether a file's name, or its path below the folder, matches a shell pattern; None matches all."""
    if pattern is None:
        return True
    inner = file.relative_to(folder).as_posix()
    return any(fnmatch.fnmatchcase(name.lower(), pattern.lower()) for name in (file.name, inner))


def choose_items(items: Sequence[Item], suffix: str | None) -> tuple[list[Item], list[LeftOut]]:
    """Take the images whose name ends in a suffix, the last word of a name in BIDS: ``T1w``, ``FLAIR``.

    Args:
        items: each with one file, or a DICOM series: of it description, folder or file may end so.
        suffix: None takes all.

    Returns:
        The chosen items and the others.
    """
    if suffix is None:
        return list(items), []
    wanted = suffix.lower().lstrip("_")
    chosen, left_out = [], []
    for item in items:
        path = first_file(item)
        names = [scan_stem(path)]
        reason = f"does not end in _{suffix}"
        if SERIES_KIND in item:
            folder = (path if path.is_dir() else path.parent).name
            names += [item[SERIES_KIND], folder]
            reason = f"is the series {item[SERIES_KIND] or folder}, not {suffix}"
        if any(f"_{name.lower()}".endswith(f"_{wanted}") for name in names):
            chosen.append(item)
        else:
            left_out.append(LeftOut(str(path), "other suffixes", reason, True))
    return chosen, left_out


def check_one_kind(folder: Path, items: Sequence[Item], suffix: str | None, pattern: str | None) -> None:
    """Refuse several kinds of image of each subject where nothing chooses among them.

    A kind is BIDS's suffix, else the last word of names whose last words recur in several folders.

    Raises:
        ScanError: with the list of what there is.
    """
    if suffix is not None or pattern is not None:
        return
    folders: dict[str, set[Path]] = defaultdict(set)
    counts: dict[str, int] = defaultdict(int)
    bids = True
    for item in items:
        path = Path(item["image"])
        match = _BIDS.match(scan_stem(path))
        bids &= match is not None
        kind = match.group(1) if match else scan_stem(path).rsplit("_", 1)[-1]
        folders[kind].add(path.parent)
        counts[kind] += 1
    if not 2 <= len(counts) <= _MOST_KINDS:
        return
    if not bids and (any(kind.isdigit() for kind in counts) or min(len(where) for where in folders.values()) < 2):
        return
    listed = ", ".join(f"{kind} ({count})" for kind, count in sorted(counts.items()))
    first = sorted(counts)[0]
    raise ScanError(
        folder,
        f"holds {len(counts)} kinds of image: {listed}; choose one with --suffix {first}, or by name with --pattern",
    )


def check_one_series(items: Sequence[Item]) -> None:
    """Refuse several kinds of DICOM series of each patient.

    Descriptions are free text, and scanners word them differently: kinds are those that lie beside others in two
    patients or more. Numbers are no kinds.

    Args:
        items: a datalist; what is no series is passed over.

    Raises:
        ScanError: with the list of what there is.
    """
    kinds: dict[str, set[str]] = defaultdict(set)
    counts: Counter[str] = Counter()
    series = [item for item in items if (kind := item.get(SERIES_KIND)) and not kind.isdigit()]
    for item, who in zip(series, name_subjects(series), strict=True):
        kind = item[SERIES_KIND].lower()
        kinds[who or str(first_file(item).parent)].add(kind)
        counts[kind] += 1
    beside = Counter(kind for found in kinds.values() if len(found) > 1 for kind in found)
    recurring = sorted(kind for kind, count in beside.items() if count > 1)
    if len(recurring) < 2:
        return
    listed = [f"{kind} ({counts[kind]})" for kind in recurring[:_MOST_KINDS]]
    others = len(series) - sum(counts[kind] for kind in recurring[:_MOST_KINDS])
    listed += [f"others ({others})"] if others else []
    raise ScanError(
        os.path.commonpath([first_file(item).absolute() for item in series]),
        f"holds {len(recurring)} kinds of series of each patient: {', '.join(listed)}; "
        f"choose one by its description or folder with --suffix {shlex.quote(recurring[0])}, or by its path with "
        "--pattern; --pattern '*' takes all",
    )


def take_once(items: Sequence[Item]) -> tuple[list[Item], list[LeftOut]]:
    """Take a scan that several paths lead to once, of a file and links to it the file.

    Returns:
        The items, and beside them the links and what says something else of a scan.
    """
    seen: dict[str, Item] = {}
    left_out = []
    for item in items:
        image = item["image"]
        key = "\n".join(map(os.path.realpath, [image] if isinstance(image, str) else image))
        first = seen.setdefault(key, item)
        if told := _list_others(item, first):
            reason = f"is listed again with another {' and '.join(told)}; the first entry is taken"
            left_out.append(LeftOut(str(first_file(item)), "further entries of a scan", reason))
        other = first["image"]
        if not (isinstance(image, str) and isinstance(other, str)) or os.path.abspath(image) == os.path.abspath(other):
            continue
        if not (os.path.islink(image) or os.path.islink(other)):
            continue
        link, file = (image, other) if os.path.islink(image) else (other, image)
        if file == image:
            seen[key] = item
        left_out.append(LeftOut(link, "links", f"is the same file as {file}"))
    return list(seen.values()), left_out


def _list_others(item: Item, first: Item) -> list[str]:
    """What an entry says that is lost where the first one of its scan is taken; what is read from a series is not."""
    said = {} if "series" in item else {name: item[name] for name in item if name not in ("image", "named")}
    return [name for name, value in said.items() if (value or name in first) and value != first.get(name)]
