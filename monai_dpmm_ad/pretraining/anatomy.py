# Copyright 2026 monai_dpmm_ad contributors. Licensed under the Apache License, Version 2.0.
"""Label maps of heads to render from: read from a folder, or made from the template that nilearn carries."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from monai_dpmm_ad.errors import ScanError
from monai_dpmm_ad.utils.extras import import_extra

__all__ = ["CSF", "STRUCTURES", "Structure", "load_label_maps", "load_template_labels"]


@dataclass(frozen=True)
class Structure:
    """What is of one intensity.

    Args:
        name: for people.
        labels: its numbers in label maps (FreeSurfer's, and those of SynthSeg's maps beyond the brain).
        prior: typical intensity in T1, T2 and FLAIR, white matter of T1 being 1.
        brain: whether it stays when the skull is stripped.
    """

    name: str
    labels: tuple[int, ...]
    prior: tuple[float, float, float]
    brain: bool = True


#: Structure i has index i + 1 in the maps; 0 is air. White-matter lesions of the maps (25, 57, 77) become white matter:
#: what is rendered is healthy.
STRUCTURES: tuple[Structure, ...] = (
    Structure("cerebral white matter", (2, 41, 25, 57, 77, 78, 79), (1.00, 0.45, 0.60)),
    Structure("cerebral cortex", (3, 42, 137, 164), (0.70, 0.62, 0.78)),
    Structure("ventricles", (4, 43, 5, 44, 14, 15, 72), (0.25, 1.30, 0.18)),
    Structure("cerebellar white matter", (7, 46), (0.98, 0.45, 0.58)),
    Structure("cerebellar cortex", (8, 47), (0.68, 0.60, 0.74)),
    Structure("thalamus", (10, 49), (0.80, 0.52, 0.68)),
    Structure("caudate and accumbens", (11, 50, 26, 58), (0.72, 0.58, 0.74)),
    Structure("putamen", (12, 51), (0.78, 0.52, 0.70)),
    Structure("pallidum", (13, 52), (0.92, 0.36, 0.55)),
    Structure("brainstem", (16,), (0.92, 0.48, 0.60)),
    Structure("hippocampus and amygdala", (17, 53, 18, 54), (0.68, 0.62, 0.80)),
    Structure("ventral diencephalon", (28, 60), (0.90, 0.48, 0.62)),
    Structure("cerebrospinal fluid", (24,), (0.27, 1.20, 0.20)),
    Structure("choroid plexus and vessels", (30, 62, 31, 63, 136, 163), (0.55, 0.70, 0.65)),
    Structure("optic nerves", (85, 508, 530), (0.80, 0.50, 0.60), brain=False),
    Structure("arteries", (502,), (0.40, 0.20, 0.30), brain=False),
    Structure("eyes", (506,), (0.30, 1.20, 0.25), brain=False),
    Structure("muscle", (507,), (0.55, 0.35, 0.45), brain=False),
    Structure("mucosa", (509,), (0.55, 0.90, 0.80), brain=False),
    Structure("scalp", (511,), (1.10, 0.80, 0.70), brain=False),
    Structure("spinal cord", (512,), (0.90, 0.48, 0.60), brain=False),
    Structure("venous sinuses", (514,), (0.45, 0.25, 0.35), brain=False),
    Structure("bone", (515,), (0.15, 0.12, 0.12), brain=False),
    Structure("marrow", (516,), (0.80, 0.50, 0.45), brain=False),
)

#: Index of the fluid around the brain.
CSF = 1 + next(i for i, structure in enumerate(STRUCTURES) if structure.name == "cerebrospinal fluid")

_AXES = ("P", "L", "I")  # rows run to posterior, columns to left, slices to inferior, as the preprocessing has them
_SHARPNESS = 3  # power on the template's tissue probabilities: an average of many brains is blurred


def load_label_maps(folder: str | os.PathLike[str]) -> list[NDArray[np.uint8]]:
    """Read all label maps ``*.nii`` and ``*.nii.gz`` of a folder.

    Args:
        folder: holds maps of about 1 mm with the numbers of `STRUCTURES`; what is unknown becomes muscle.

    Returns:
        Indices of structures ``(P, L, I)``, cropped to the head.

    Raises:
        ScanError: when there is no folder, no map in it, or a map cannot be read or is not 3D.
    """
    import nibabel as nib

    paths = sorted(path for path in Path(folder).glob("*.nii*") if path.name.endswith((".nii", ".nii.gz")))
    if not paths:
        raise ScanError(folder, "no label map (*.nii, *.nii.gz) in it")
    maps = []
    for path in paths:
        try:
            image: Any = nib.load(path)
            labels = np.asarray(image.dataobj)
            if labels.ndim != 3 or not labels.any():
                raise ScanError(path, f"is no label map: its shape is {labels.shape} and it must show something")
            stored = nib.orientations.io_orientation(image.affine)
            turned = nib.orientations.ornt_transform(stored, nib.orientations.axcodes2ornt(_AXES))
            maps.append(_crop(_index(nib.orientations.apply_orientation(labels, turned))))
        except (OSError, EOFError, nib.filebasedimages.ImageFileError) as error:
            raise ScanError(path, str(error).splitlines()[0]) from error
    return maps


def load_template_labels(spacing: int = 1) -> list[NDArray[np.uint8]]:
    """Make one map from nilearn's MNI152 tissue maps: grey and white matter and fluid, a brain without skull.

    Args:
        spacing: voxel size in mm.
    """
    import_extra("nilearn", "demo")
    from nilearn import datasets

    loaders = (datasets.load_mni152_template, datasets.load_mni152_gm_template, datasets.load_mni152_wm_template)
    arrays = [np.asarray(load(resolution=spacing).dataobj, dtype=np.float32).clip(min=0) for load in loaders]
    t1, grey, white = arrays
    brain = ndimage.binary_fill_holes(ndimage.binary_opening(t1 > 0.05))
    parts = np.stack([white, grey, np.clip(1 - grey - white, 0, 1)]) ** _SHARPNESS
    indices = np.array([1, 2, CSF], dtype=np.uint8)[parts.argmax(0)] * brain
    # RAS to PLI
    return [_crop(indices.transpose(1, 0, 2)[::-1, ::-1, ::-1].astype(np.uint8))]


def _index(labels: NDArray[Any]) -> NDArray[np.uint8]:
    """Turn label numbers into indices of structures."""
    whole = np.rint(labels).astype(np.int64)
    unknown = 1 + next(i for i, structure in enumerate(STRUCTURES) if structure.name == "muscle")
    table = np.full(max(int(whole.max()), 1) + 1, unknown, dtype=np.uint8)
    table[0] = 0
    for index, structure in enumerate(STRUCTURES, 1):
        table[[label for label in structure.labels if label < len(table)]] = index
    return table[whole.clip(min=0)]


def _crop(indices: NDArray[np.uint8]) -> NDArray[np.uint8]:
    box = []
    for axis in range(3):
        found = np.flatnonzero(indices.any(tuple({0, 1, 2} - {axis})))
        box.append(slice(found[0], found[-1] + 1))
    return np.ascontiguousarray(indices[tuple(box)])
