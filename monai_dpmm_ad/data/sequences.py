# Copyright 2026 monai_dpmm_ad contributors. Licensed under the Apache License, Version 2.0.
"""Several sequences of one visit (T1, T2, FLAIR, …) as one scan of a datalist.

A scan of several sequences has ``sequences``: name → ``{"image": path}``, with ``channel`` where the file holds
several, or None where the scan lacks that sequence. Its own ``image`` is that of the first sequence that it has: on
that grid lie its mask and its results.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from monai_dpmm_ad.data.bids import read_entities
from monai_dpmm_ad.data.gate import LeftOut
from monai_dpmm_ad.data.paths import scan_stem
from monai_dpmm_ad.data.subjects import first_file
from monai_dpmm_ad.data.types import Item
from monai_dpmm_ad.errors import ScanError

__all__ = [
    "MOST_SEQUENCES",
    "arrange_sequences",
    "check_names",
    "group_by_suffix",
    "image_files",
    "join_searches",
    "list_entry",
    "list_sequences",
    "make_scan",
    "take_sequence",
]

#: Each subset of the sequences has a calibration of its own: of four there are fifteen.
MOST_SEQUENCES = 4
Search = tuple[list[Item], list[LeftOut], dict[str, int]]
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")


def check_names(names: Sequence[str]) -> tuple[str, ...]:
    """Check the names of the sequences of a bundle.

    Raises:
        ValueError: names that are no plain words, that come twice, or too many or too few.
    """
    for name in names:
        if not _NAME.fullmatch(name):
            raise ValueError(f"`sequences` must be plain words as T1w or FLAIR, got {name!r}.")
    if len(set(names)) < len(names) or not 2 <= len(names) <= MOST_SEQUENCES:
        raise ValueError(
            f"`sequences` must name 2 to {MOST_SEQUENCES} sequences, each once, got {', '.join(names) or 'none'}."
        )
    return tuple(names)


def make_scan(item: Item, images: Sequence[Any], names: Sequence[str]) -> Item:
    """Make a scan of several files, of which None stands for one that is missing.

    Args:
        item: what else is known of it.
        images: a path, or those of a DICOM series, for each name.
        names: of the sequences.
    """
    parts = {name: image and {"image": image} for name, image in zip(names, images, strict=True)}
    first = next(part for part in parts.values() if part)
    return {**item, "image": first["image"], "sequences": parts}


def list_sequences(items: Sequence[Item]) -> list[str]:
    """The sequences that the scans of a datalist have, in the order in which they come."""
    there = {name for item in items for name, part in item.get("sequences", {}).items() if part}
    return [
        name for name in dict.fromkeys(name for item in items for name in item.get("sequences", {})) if name in there
    ]


def image_files(item: Mapping[str, Any]) -> Any:
    """The image of a scan, or those of all of its sequences."""
    parts = [part for part in item.get("sequences", {}).values() if part]
    if not parts:
        return item["image"]
    images = [part["image"] for part in parts]
    files = [file for image in images for file in ([image] if isinstance(image, str) else image)]
    return list(dict.fromkeys(files))


def list_entry(item: Mapping[str, Any]) -> dict[str, Any]:
    """What a datalist file says of the images of a scan: ``image`` and, of several sequences, ``channels``."""
    parts = item.get("sequences")
    if not parts:
        return {"image": item["image"]}
    if any(part and "channel" in part for part in parts.values()):
        return {"image": item["image"], "channels": list(parts)}
    return {"image": [part and part["image"] for part in parts.values()], "channels": list(parts)}


def arrange_sequences(item: Item, names: Sequence[str] | None) -> Item:
    """Bring a scan's sequences into the order of a bundle's; those that were not fitted are left out.

    Args:
        item: of a datalist. A single image is the sequence whose name its file's name ends in.
        names: of the bundle; None for a bundle of single images.

    Raises:
        ScanError: a scan with none of the sequences, or with several where a single image is asked for.
    """
    given = {name: part for name, part in item.get("sequences", {}).items() if part}
    rest = {key: value for key, value in item.items() if key != "sequences"}
    if names is None:
        if len(given) > 1 or any("channel" in part for part in given.values()):
            raise ScanError(
                first_file(item),
                f"is a scan of the sequences {_join(given)}, but a single image is asked for: list one image of it, or "
                "fit a bundle with `sequences`",
            )
        return rest
    if not given:
        name = _name_of(item, names)
        given = {} if name is None else {name: {"image": item["image"]}}
    arranged = {name: given.get(name) for name in names}
    present = [part for part in arranged.values() if part]
    if not present:
        what = f"has {_join(given)} alone" if given else "does not say which sequence it is"
        raise ScanError(
            first_file(item),
            f"{what}: none of the sequences {_join(names)} that were fitted; name files as …_{names[0]}, or list their "
            "names in `channels`",
        )
    return {**rest, "image": present[0]["image"], "sequences": arranged}


def take_sequence(item: Item, name: str) -> Item | None:
    """Take one sequence of an arranged scan as a scan of its own, on the grid of the first one (``onto``).

    Returns:
        None where the scan has no such sequence.
    """
    parts = [part for part in item["sequences"].values() if part]
    part = item["sequences"][name]
    if part is None:
        return None
    rest = {key: value for key, value in item.items() if key != "sequences"}
    return {**rest, **part, **({} if part == parts[0] else {"onto": parts[0]})}


def group_by_suffix(items: Sequence[Item], suffixes: Sequence[str]) -> tuple[list[Item], list[ScanError]]:
    """Join the images of one visit whose names differ in their suffix alone; of BIDS names participant and session say.

    Args:
        items: a datalist; what has sequences already, or none of the suffixes, stays as it is.
        suffixes: names of the sequences, in order.

    Returns:
        The scans in the order of their first images, and visits with two images of a sequence.
    """
    groups: dict[Any, dict[str, list[Item]]] = defaultdict(lambda: defaultdict(list))
    for number, item in enumerate(items):
        suffix = None if item.get("sequences") else _name_of(item, suffixes)
        key = (number,) if suffix is None else _visit_of(first_file(item), suffix)
        groups[key][suffix or ""].append(item)
    joined, twice = [], []
    for key, group in groups.items():
        several = next((found for found in group.values() if len(found) > 1), None)
        if several is not None:
            first, second = (first_file(item) for item in several[:2])
            twice.append(ScanError(second, f"is of the same visit as {first.name}: choose one with --pattern"))
        elif "" in group:
            joined.append(group[""][0])
        else:
            parts = {suffix: group[suffix][0] for suffix in suffixes if suffix in group}
            rest = {name: value for part in reversed(parts.values()) for name, value in part.items()}
            images = [part["image"] for part in parts.values()]
            joined.append(make_scan({**rest, "name": key[-1]}, images, list(parts)))
    return joined, twice


def join_searches(
    search: Callable[..., Search], path: Path, section: str | None, kind: str, suffixes: Sequence[Any], pattern: Any
) -> Search:
    """Search a folder once for each suffix; some of them may be missing there.

    Args:
        search: called as ``search(path, section, kind, suffix, pattern)``.
        path: of the folder, as for the others.
        section: what is searched for.
        kind: as well.
        suffixes: one or several.
        pattern: what is searched for.

    Returns:
        The scans, what is none whatever the suffix, and what lies in other sections.
    """
    *others, last = suffixes
    if not others:
        return search(path, section, kind, last, pattern)
    results: list[Search] = []
    for suffix in suffixes:
        try:
            results.append(search(path, section, kind, suffix, pattern))
        except ScanError:
            if suffix == last and not results:
                raise
    items = [item for listed, _, _ in results for item in listed]
    taken = {str(first_file(item)) for item in items}
    left_out = {thing.path: thing for _, things, _ in results for thing in things if thing.path not in taken}
    return items, list(left_out.values()), results[0][2]


def _visit_of(path: Path, suffix: str) -> tuple[str, str]:
    """What tells a visit from others, and a name for it."""
    entities = read_entities(path)
    if entities is not None:
        visit = "_".join(f"{key}-{entities[key]}" for key in ("sub", "ses") if key in entities)
        folder = path.parents[3 if "ses" in entities else 2] if path.parent.name == "anat" else path.parent
        return str(folder), visit
    stem = scan_stem(path)
    name = stem[: -len(suffix.lstrip("_"))].rstrip("_") or path.absolute().parent.name
    return str(path.parent), name


def _name_of(item: Item, names: Sequence[str]) -> str | None:
    """The sequence that a file's name ends in; None where none does."""
    stem = scan_stem(first_file(item)).lower()
    words = {name: name.lower().lstrip("_") for name in names}
    found = [name for name, word in words.items() if stem == word or stem.endswith(f"_{word}")]
    return max(found, key=len, default=None)


def _join(names: Sequence[str] | Mapping[str, Any]) -> str:
    *first, last = names
    return f"{', '.join(first)} and {last}" if first else str(last)
