# Copyright 2026 monai_dpmm_ad contributors. Licensed under the Apache License, Version 2.0.
"""Small trees of pictures that are laid out as BMAD's data sets."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from monai_dpmm_ad.data.phantoms import insert_lesion_2d

__all__ = ["write_bmad"]


def _write_slice(root: Path, folder: str, number: int, mask_folder: str | None = None) -> None:
    """Write an ellipse of two tissues, with a lesion and its mask where ``mask_folder`` is given."""
    rng = np.random.default_rng([number, len(folder)])
    y, x = np.mgrid[-1:1:64j, -1:1:64j]
    inside = (x / 0.8) ** 2 + (y / 0.9) ** 2 < 1
    image = np.where((x / 0.4) ** 2 + (y / 0.5) ** 2 < 1, 0.7, 0.5) * inside + 0.02 * rng.normal(size=x.shape) * inside
    mask = np.zeros_like(inside)
    if mask_folder is not None:
        image, mask = insert_lesion_2d(image, inside, rng)
    for place, values in ((folder, np.clip(image, 0, 1) * inside), (mask_folder, mask)):
        if place is not None:
            (root / place).mkdir(parents=True, exist_ok=True)
            Image.fromarray((255 * values).astype(np.uint8)).save(root / place / f"{number:03d}.png")


def write_bmad(root: Path) -> Path:
    """Write Brain in the archive's layout, RESC in that of the few-shot releases; names as they are published."""
    for wrapper, train, image, mask in (
        ("Brain_AD/BraTS2021_slice", "train/good", "img", "label"),
        ("Retina_RESC_AD", "train/good/img", "img", "anomaly_mask"),
    ):
        for number in range(4):
            _write_slice(root / wrapper, train, number)
        for section, count in (("valid", 3), ("test", 2)):
            for number in range(count):
                _write_slice(root / wrapper, f"{section}/good/{image}", number)
                _write_slice(root / wrapper, f"{section}/Ungood/{image}", 50 + number, f"{section}/Ungood/{mask}")
    return root
