# Copyright 2026 monai_dpmm_ad contributors. Licensed under the Apache License, Version 2.0.
"""The data sets of BMAD: their folders' names, and what has been published on them."""

from __future__ import annotations

import re
from pathlib import Path

from monai_dpmm_ad.errors import unknown_option

__all__ = ["DATASETS", "PUBLISHED", "find_dataset"]

#: Names on the command line, and the names that their folders have in the archives and in derived releases.
DATASETS: dict[str, tuple[str, ...]] = {
    "brats2021": ("brain", "brats2021_slice"),
    "liver": ("hist_diy", "btcv_lits"),
    "resc": ("retina_resc",),
    "oct2017": ("retina_oct2017",),
    "chest": ("chest_rsna", "rsna"),
    "histopathology": ("camelyon16_256", "camelyon16", "his"),
}

_BMAD = "BMAD paper, Bao et al., CVPR workshops 2024"
_DPMM = "Schulthess and Konukoglu, MICCAI 2025, ViT-S/14"
_SAR = "spatial autoregressive CNN on DINOv3-S, 2026"
_HIMATCH = "Huo et al. 2026"

#: data set → (system, source, metrics in per cent); none of them was run by us
PUBLISHED: dict[str, tuple[tuple[str, str, dict[str, float]], ...]] = {
    "brats2021": (
        ("PatchCore", _BMAD, {"image_auroc": 91.65, "pixel_auroc": 96.97, "aupro": 85.68}),
        ("RD4AD", _BMAD, {"image_auroc": 89.45, "pixel_auroc": 96.45}),
        ("CFA", _BMAD, {"pixel_auroc": 96.33}),
        ("DPMM", _DPMM, {"pixel_auroc": 96.21, "dice_fpr10": 31.6}),
        ("SAR-CNN", _SAR, {"pixel_auroc": 98.35, "pixel_aupr": 72.4}),
    ),
    "liver": (
        ("PatchCore", _BMAD, {"image_auroc": 60.28, "pixel_auroc": 96.43}),
        ("RD4AD", _BMAD, {"pixel_auroc": 96.01}),
        ("CFA", _BMAD, {"pixel_auroc": 97.24, "aupro": 92.75}),
        ("DPMM", _DPMM, {"pixel_auroc": 95.46, "dice_fpr10": 6.2}),
        ("HiMatch-AD", _HIMATCH, {"pixel_auroc": 98.92}),
    ),
    "resc": (
        ("PatchCore", _BMAD, {"image_auroc": 91.55, "pixel_auroc": 96.48}),
        ("RD4AD", _BMAD, {"pixel_auroc": 96.18}),
        ("CFA", _BMAD, {"pixel_auroc": 91.10}),
        ("DPMM", _DPMM, {"image_auroc": 86.94, "dice_fpr10": 38.0}),
        ("HiMatch-AD", _HIMATCH, {"pixel_auroc": 97.01}),
    ),
}


def find_dataset(root: Path, name: str) -> Path:
    """Find a data set below the folder of all, or take that folder itself where it is the data set.

    Args:
        root: holds ``Brain_AD``, ``Liver_AD``, …, with or without the suffix, in upper or lower case.
        name: one of `DATASETS`, or the name of another folder in ``root`` that is laid out alike.

    Raises:
        ValueError: when there is no such folder.
    """
    if not root.is_dir():
        raise ValueError(f"`data` must be a folder, got {root}. Give the folder that holds Brain_AD, Liver_AD, ….")
    known = {name.lower(), *DATASETS.get(name, ())}
    folders = [folder for folder in sorted(root.iterdir()) if folder.is_dir()]
    for folder in (*folders, root):
        if _plain(folder.name) in known or folder.name.lower() in known:
            return folder
    found = ", ".join(folder.name for folder in folders) or "no folder"
    if name not in DATASETS:
        raise unknown_option("dataset", name, [*DATASETS, *(folder.name for folder in folders)])
    raise ValueError(f"`data` must hold {name} ({', '.join(DATASETS[name])}), got {found} in {root}.")


def _plain(name: str) -> str:
    """``3918150265_Brain-AD`` → ``brain``: as archives are unpacked by hand or by a downloader."""
    plain = re.sub(r"^[0-9a-f]{10}_", "", name.lower().replace("-", "_").replace(" ", "_"))
    return plain.removesuffix("_ad")
