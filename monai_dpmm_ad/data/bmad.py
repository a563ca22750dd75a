# Copyright 2026 monai_dpmm_ad contributors. Licensed under the Apache License, Version 2.0.
"""Read BMAD-style trees, in the layouts in which the benchmark's six data sets are published.

    train|valid|test / good|Ungood / (img), label|anomaly_mask      the class first; images may lie in the class folder
    train|valid|test / img / good|Ungood, label / Ungood            the kind first, as in the liver archive
    Test / test / good|Ungood, test_label / Ungood                  the same, as in the RESC archive

A single folder around the sections (``Brain_AD/BraTS2021_slice``) is looked into; upper and lower case do not matter.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from monai_dpmm_ad.data.paths import IMAGE_SUFFIXES, has_suffix, scan_stem
from monai_dpmm_ad.data.types import Item
from monai_dpmm_ad.errors import ScanError

__all__ = ["SECTIONS", "canonical_section", "count_sections", "find_tree", "read_tree"]

SECTIONS = {
    "train": ("train", "training"),
    "valid": ("valid", "validation", "val"),
    "test": ("test", "testing"),
}


def canonical_section(name: str) -> str:
    """Return ``train``, ``valid`` or ``test`` for any word that means it; other names in lower case."""
    return next((key for key, synonyms in SECTIONS.items() if name.lower() in synonyms), name.lower())


_CLASSES = {"good": 0, "ungood": 1}
_MASK_FOLDERS = ("label", "anomaly_mask")


@dataclass(frozen=True)
class _ClassFolder:
    """Where one class of a section lies: its images, and the folders that may hold their masks."""

    images: Path
    masks: tuple[Path, ...]
    abnormal: int


def find_tree(root: Path) -> dict[str, Path]:
    """Find the sections of a BMAD-style tree.

    Args:
        root: the tree, one of its sections, or a folder that holds nothing but the tree.

    Returns:
        Folders by their canonical names, empty when this is no such tree. A folder that is itself one section is taken
        whatever section is asked for: its key is empty.
    """
    if _class_folders(root):
        return {"": root}
    folders = _folders_in(root)
    found = {canonical_section(folder.name): folder for folder in folders}
    sections = {name: folder for name, folder in found.items() if name in SECTIONS and _class_folders(folder)}
    if not sections and len(folders) == 1:
        inner = find_tree(folders[0])
        return {} if "" in inner else inner
    return sections


def read_tree(root: Path, sections: dict[str, Path], section: str | None) -> list[Item]:
    """List the images of a tree, with their classes and masks.

    Args:
        root: named in errors.
        sections: from `find_tree`.
        section: the one to read, None for all.

    Raises:
        ScanError: when there is no such section, or no image.
    """
    if section is not None and "" not in sections:
        if canonical_section(section) not in sections:
            raise ScanError(root, f"has no section '{section}', only {', '.join(sections)}")
        sections = {section: sections[canonical_section(section)]}
    items = [item for folder in sections.values() for part in _class_folders(folder) for item in _read_class(part)]
    if not items:
        raise ScanError(root, "holds no images in its good and Ungood folders")
    return items


def count_sections(sections: dict[str, Path], section: str | None) -> dict[str, int]:
    """Count the images of the sections that were not asked for."""
    if section is None or "" in sections:
        return {}
    others = {name: folder for name, folder in sections.items() if name != canonical_section(section)}
    return {
        name: sum(len(_images_in(part.images)) for part in _class_folders(folder)) for name, folder in others.items()
    }


def _class_folders(section: Path) -> list[_ClassFolder]:
    children = _folders_in(section)
    found = [child for child in children if child.name.lower() in _CLASSES]
    if found:
        return [
            _ClassFolder(
                child / "img" if (child / "img").is_dir() else child,
                tuple(child / name for name in _MASK_FOLDERS),
                _CLASSES[child.name.lower()],
            )
            for child in found
        ]
    kinds = [child for child in children if any(inner.name.lower() in _CLASSES for inner in _folders_in(child))]
    masks = [kind for kind in kinds if kind.name.lower() in _MASK_FOLDERS or kind.name.lower().endswith("_label")]
    return [
        _ClassFolder(inner, tuple(mask / inner.name for mask in masks), _CLASSES[inner.name.lower()])
        for kind in kinds
        if kind not in masks and kind.name.lower() in ("img", section.name.lower())
        for inner in _folders_in(kind)
        if inner.name.lower() in _CLASSES
    ]


def _read_class(folder: _ClassFolder) -> list[Item]:
    masks = {scan_stem(file): file for path in folder.masks if path.is_dir() for file in _images_in(path)}
    items: list[Item] = []
    for file in _images_in(folder.images):
        item: Item = {"image": str(file), "abnormal": folder.abnormal}
        if scan_stem(file) in masks:
            item["label"] = str(masks[scan_stem(file)])
        items.append(item)
    return items


def _folders_in(folder: Path) -> list[Path]:
    return sorted(child for child in folder.iterdir() if child.is_dir() and child.name[0] not in "._")


def _images_in(folder: Path) -> list[Path]:
    return sorted(file for file in folder.iterdir() if has_suffix(file, IMAGE_SUFFIXES) and file.name[0] != ".")
