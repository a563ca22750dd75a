# Copyright 2026 monai_dpmm_ad contributors. Licensed under the Apache License, Version 2.0.
"""Trees of nnU-Net and the Medical Segmentation Decathlon: ``imagesTr|Va|Ts`` with masks in ``labelsTr|Va|Ts``.

nnU-Net puts a channel's number behind a case's name (``CASE_0000``), its mask is named by the case. A list file beside
the folders (``datalist.json``, or a ``dataset.json`` with lists) is read in their place.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from monai_dpmm_ad.data.gate import LeftOut
from monai_dpmm_ad.data.json_file import read_datalist
from monai_dpmm_ad.data.paths import IMAGE_SUFFIXES, has_suffix, scan_stem
from monai_dpmm_ad.data.types import Item
from monai_dpmm_ad.errors import ScanError

__all__ = ["find_image_folders", "read_image_folders"]

_FOLDERS = {
    "train": ("tr", "train", "training"),
    "valid": ("va", "val", "valid", "validation"),
    "test": ("ts", "test", "testing"),
}
_CHANNEL = re.compile(r"_(\d{4})$")
_LISTS = ("datalist.json", "dataset.json")


def find_image_folders(root: Path) -> dict[str, Path]:
    """Find ``imagesTr`` and its like, by canonical section; empty where this is no such tree."""
    found = {}
    for child in sorted(root.iterdir()):
        name = child.name.lower()
        if child.is_dir() and name.startswith("images"):
            for section, endings in _FOLDERS.items():
                if name[len("images") :] in endings:
                    found[section] = child
    return found


def read_image_folders(
    root: Path, folders: dict[str, Path], section: str | None, suffix: str | None = None
) -> tuple[list[Item], list[LeftOut], dict[str, int]]:
    """List the cases of a tree with their masks.

    Args:
        root: the tree.
        folders: from `find_image_folders`.
        section: the one to read, None for all.
        suffix: of several channels the one to take, for example ``0000``.

    Returns:
        Items, the images of other channels, and how many images the sections hold that were not asked for.

    Raises:
        ScanError: when there is no such section, no image, or several channels and no choice among them.
    """
    listed = next((root / name for name in _LISTS if _has_lists(root / name)), None)
    if listed is not None:
        return read_datalist(listed, section), [], {}
    wanted = dict(folders)
    others: dict[str, int] = {}
    if section is not None:
        if section not in folders:
            raise ScanError(root, f"has no section '{section}', only {', '.join(folders)}")
        wanted = {section: folders[section]}
        others = {name: len(_images_in(folder)) for name, folder in folders.items() if name != section}
    items: list[Item] = []
    left_out: list[LeftOut] = []
    for folder in wanted.values():
        found, dropped = _read_folder(root, folder, suffix)
        items, left_out = items + found, left_out + dropped
    if not items:
        raise ScanError(root, "holds no images in its folders imagesTr, imagesVa or imagesTs")
    return items, left_out, others


def _read_folder(root: Path, folder: Path, suffix: str | None) -> tuple[list[Item], list[LeftOut]]:
    images = _images_in(folder)
    channels = {match.group(1) for image in images if (match := _CHANNEL.search(scan_stem(image)))}
    chosen = (suffix or "").lstrip("_")
    if len(channels) > 1 and chosen not in channels:
        names = _channel_names(root)
        listed = ", ".join(
            f"{channel} ({names[channel]})" if channel in names else channel for channel in sorted(channels)
        )
        raise ScanError(folder, f"holds {len(channels)} channels: {listed}; choose one with --suffix {min(channels)}")
    label_folder = root / folder.name.replace("images", "labels")
    masks = {scan_stem(file): file for file in _images_in(label_folder)} if label_folder.is_dir() else {}
    items, left_out = [], []
    for image in images:
        stem = scan_stem(image)
        match = _CHANNEL.search(stem)
        if len(channels) > 1 and match and match.group(1) != chosen:
            left_out.append(LeftOut(str(image), "other channels", f"is channel {match.group(1)}", True))
            continue
        item: Item = {"image": str(image)}
        case = stem[: match.start()] if match and stem not in masks else stem
        if case in masks:
            item["label"] = str(masks[case])
        items.append(item)
    return items, left_out


def _images_in(folder: Path) -> list[Path]:
    return sorted(file for file in folder.iterdir() if has_suffix(file, IMAGE_SUFFIXES) and file.name[0] != ".")


def _content(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8-sig"))
    except (OSError, ValueError, RecursionError):
        return {}
    return content if isinstance(content, dict) else {}


def _has_lists(path: Path) -> bool:
    return any(
        isinstance(value, list) and value and isinstance(value[0], (dict, str)) for value in _content(path).values()
    )


def _channel_names(root: Path) -> dict[str, str]:
    content = _content(root / "dataset.json")
    names = content.get("channel_names") or content.get("modality") or {}
    if not isinstance(names, dict):
        return {}
    return {f"{int(key):04d}": str(name) for key, name in names.items() if str(key).isdigit()}
