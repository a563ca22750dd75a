# Copyright 2026 monai_dpmm_ad contributors. Licensed under the Apache License, Version 2.0.
"""Brain phantoms with lesions and exact masks, for the demo, for tests and for choosing methods.

Every subject is the MNI152 brain with its own shape, tissue contrast, bias field, blur and noise. The *hard* cohort
bends the template and lets grids, orientations and lesions of any size differ; the *demo*'s is one study of thick
slices, whose ventricles and sulci differ too, with lesions that one can see.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from monai_dpmm_ad.data.anatomies import draw_anatomy
from monai_dpmm_ad.data.synthetic_lesions import insert_lesion_2d, insert_lesions
from monai_dpmm_ad.errors import unknown_option
from monai_dpmm_ad.utils.extras import import_extra
from monai_dpmm_ad.utils.files import replace_file, write_json

__all__ = ["MODALITIES", "SIZES", "STYLES", "insert_lesion_2d", "insert_lesions", "write_cohort"]

#: Mean and spread over subjects of the intensity of grey matter, white matter and fluid (white matter of T1 = 1), and
#: the range of the factor on the template's own texture (negative where the contrast is inverted against T1).
MODALITIES: dict[str, tuple[tuple[tuple[float, float], ...], tuple[float, float]]] = {
    "T1": (((0.70, 0.03), (1.00, 0.03), (0.27, 0.05)), (0.6, 1.1)),
    "FLAIR": (((0.82, 0.04), (0.66, 0.03), (0.20, 0.04)), (-0.5, -0.2)),
}
#: ``hard``: many grids, lesions of 3 to 20 mm; ``demo``: one grid of thick slices, more varied brains, lesions of 8 to
#: 30 mm, some of them subtle.
STYLES = ("hard", "demo")
#: ``full`` is the whole brain, ``small`` a slab of 32 mm through the ventricles, for tests.
SIZES = ("full", "small")

_SLAB_MM = (0.0, 32.0)  # MNI z of the slab's lowest and highest slice
# Orientation, voxel size relative to `spacing` along x, y, z, and tilt of the scanner's frame in degrees.
_GRIDS: tuple[tuple[str, tuple[float, float, float], float], ...] = (
    ("RAS", (1.0, 1.0, 1.0), 0.0),
    ("LPS", (1.0, 1.0, 1.0), 0.0),
    ("LAS", (0.9, 0.9, 1.2), 0.0),
    ("PIR", (1.1, 1.0, 1.0), 0.0),
    ("LPS", (1.0, 1.0, 1.0), 9.0),
    ("RSA", (1.0, 1.1, 1.0), -6.0),
)
_DEMO_GRID = ("LPS", (1.0, 1.0, 2.0), 0.0)
_DEMO_LESIONS: dict[str, Any] = {"count": (1, 2), "diameter": (8.0, 30.0), "contrast": (0.15, 0.5)}
_MARGIN_MM = 14.0  # room around the brain for the deformation
_LARGEST_INT16 = 32767


def write_cohort(
    out_dir: str | os.PathLike[str],
    *,
    num_train: int = 10,
    num_valid: int = 4,
    num_test_healthy: int = 4,
    num_test_abnormal: int = 4,
    modality: str = "T1",
    spacing: float = 2.0,
    seed: int = 0,
    size: str = "full",
    style: str = "hard",
    progress: Callable[[int, int], None] | None = None,
) -> Path:
    """Write a cohort of brain phantoms as NIfTI files with a Decathlon-style datalist.

    The sections are ``training`` and ``validation`` (healthy, no labels) and ``test``, where every scan has a label,
    all zero for the healthy ones. Subject *i* of a section depends on *i*, ``seed``, ``modality``, ``spacing`` and
    ``style`` only, so that a larger cohort contains the smaller one, and the same call writes the same bytes.

    Args:
        out_dir: folder to write into, made if need be.
        num_train: healthy subjects to fit on.
        num_valid: healthy subjects to calibrate on.
        num_test_healthy: healthy test subjects.
        num_test_abnormal: test subjects with one to four lesions each.
        modality: tissue contrast, one of ``MODALITIES``.
        spacing: voxel size, a whole number of mm; some subjects' voxels differ from it by up to 20 %.
        seed: seed of all randomness.
        size: one of ``SIZES``.
        style: one of ``STYLES``.
        progress: called with the number of scans written and their total after each scan.

    Returns:
        The path of ``datalist.json``; paths in it are relative to its folder.

    Raises:
        ValueError: on an unknown modality, size or style, a negative count or a fractional spacing.

    Example:
        >>> import json, tempfile
        >>> sizes = {"num_train": 1, "num_valid": 1, "num_test_healthy": 1, "num_test_abnormal": 1}
        >>> datalist = write_cohort(tempfile.mkdtemp(), spacing=8, size="small", **sizes)
        >>> [item["image"] for item in json.loads(datalist.read_text())["test"]]
        ['imagesTs/test_healthy_000.nii.gz', 'imagesTs/test_abnormal_000.nii.gz']
    """
    if modality not in MODALITIES:
        raise unknown_option("modality", modality, MODALITIES)
    if size not in SIZES:
        raise unknown_option("size", size, SIZES)
    if style not in STYLES:
        raise unknown_option("style", style, STYLES)
    if spacing < 1 or int(spacing) != spacing:
        raise ValueError(f"`spacing` must be a whole number of millimetres, got {spacing}. Give 1, 2, 3 or 4.")
    counts = {"train": num_train, "valid": num_valid, "test_healthy": num_test_healthy}
    counts["test_abnormal"] = num_test_abnormal
    for name, count in counts.items():
        if count < 0:
            raise ValueError(f"`num_{name}` must not be negative, got {count}. Give 0 to leave the group out.")
    template = _load_template(float(spacing), size)
    root = Path(out_dir)
    total = sum(counts.values())
    sections: dict[str, list[dict[str, Any]]] = {"training": [], "validation": [], "test": []}
    layout = (("train", "training", "Tr"), ("valid", "validation", "Val"), ("test_healthy", "test", "Ts"))
    for group, (name, section, suffix) in enumerate((*layout, ("test_abnormal", "test", "Ts"))):
        for index in range(counts[name]):
            rng = np.random.default_rng([seed, group, index])
            grid = _DEMO_GRID if style == "demo" else _GRIDS[index % len(_GRIDS)]
            image, mask, affine = _make_subject(template, rng, modality, float(spacing), group == 3, size, grid, style)
            item = {"image": f"images{suffix}/{name}_{index:03d}.nii.gz", "name": f"{name}_{index:03d}"}
            _write_nifti(root / item["image"], _quantise(image, rng), affine, grid[0])
            if section == "test":
                item["label"] = f"labels{suffix}/{name}_{index:03d}.nii.gz"
                _write_nifti(root / item["label"], mask.astype(np.uint8), affine, grid[0])
            sections[section].append({**item, "abnormal": int(group == 3)})
            if progress is not None:
                progress(sum(map(len, sections.values())), total)
    return _write_datalist(root, sections, modality)


def _load_template(spacing: float, size: str) -> tuple[NDArray[np.float32], NDArray[np.float64]]:
    """Load ``(4, X, Y, Z)`` grey matter, white matter, fluid, texture on a grid of ``spacing`` mm, and its affine."""
    import_extra("nilearn", "demo")
    from nilearn import datasets

    loaders = (datasets.load_mni152_template, datasets.load_mni152_gm_template, datasets.load_mni152_wm_template)
    images = [load(resolution=int(spacing)) for load in loaders]
    t1, grey, white = (np.asarray(image.dataobj, dtype=np.float32).clip(min=0) for image in images)
    affine = np.array(images[0].affine, dtype=np.float64)  # a copy: nilearn caches its images
    brain = ndimage.binary_fill_holes(ndimage.binary_opening(t1 > 0.05))
    fluid = np.clip(1 - grey - white, 0, 1)
    parts = np.stack([grey, white, fluid]) ** 3  # an average of many brains is blurred: sharpen towards one brain
    parts *= brain / np.maximum(parts.sum(0), 1e-6)
    means = (parts * t1).sum((1, 2, 3)) / parts.sum((1, 2, 3))
    texture = (t1 - np.einsum("cxyz,c->xyz", parts, means)) * brain
    maps = np.concatenate([parts, texture[None]]).astype(np.float32)
    voxels = [np.flatnonzero(brain.any(tuple({0, 1, 2} - {axis}))) for axis in range(3)]
    low, high = np.array([v[0] for v in voxels]), np.array([v[-1] + 1 for v in voxels])
    if size == "small":
        low[2], high[2] = (round((z - affine[2, 3]) / spacing) for z in _SLAB_MM)
    margin = round(_MARGIN_MM / spacing)
    low, high = np.maximum(low - margin, 0), np.minimum(high + margin, brain.shape)
    affine[:3, 3] += low * spacing
    return np.ascontiguousarray(maps[:, low[0] : high[0], low[1] : high[1], low[2] : high[2]]), affine


def _make_subject(
    template: tuple[NDArray[np.float32], NDArray[np.float64]],
    rng: np.random.Generator,
    modality: str,
    spacing: float,
    abnormal: bool,
    size: str,
    grid: tuple[str, tuple[float, float, float], float],
    style: str,
) -> tuple[NDArray[np.float32], NDArray[np.bool_], NDArray[np.float64]]:
    """Make one subject's image (white matter of T1 near 1, background exactly 0), lesion mask and affine."""
    vary = _vary if style == "demo" else _deform
    maps, affine, step = vary(template, rng, spacing, size, relative=grid[1])
    tissue_means, texture_range = MODALITIES[modality]
    means = np.array([rng.normal(mean, spread) for mean, spread in tissue_means], dtype=np.float32)
    brain = maps[:3].sum(0) > 0.5
    image = np.einsum("cxyz,c->xyz", maps[:3], means) + rng.uniform(*texture_range) * maps[3]
    image, mask = image.clip(min=0.02).astype(np.float32), np.zeros(brain.shape, dtype=bool)
    if abnormal:
        lesions = _DEMO_LESIONS if style == "demo" else {}
        image, mask = insert_lesions(image, brain & (maps[:2].sum(0) > 0.5), step, rng, **lesions)
    image = _acquire(image, rng, spacing)
    tilt = np.deg2rad(grid[2])
    turn = np.eye(4)
    turn[1:3, 1:3] = [[np.cos(tilt), -np.sin(tilt)], [np.sin(tilt), np.cos(tilt)]]
    return np.where(brain, image, 0).astype(np.float32), mask, turn @ affine


def _deform(
    template: tuple[NDArray[np.float32], NDArray[np.float64]],
    rng: np.random.Generator,
    spacing: float,
    size: str,
    relative: tuple[float, float, float],
) -> tuple[NDArray[np.float32], NDArray[np.float64], tuple[float, ...]]:
    """Give the template a subject's anatomy and voxel grid.

    Returns:
        The maps ``(4, X, Y, Z)``, their affine, and the voxel size in mm along the three axes.
    """
    import torch
    from monai.transforms import Rand3DElastic

    sigma, shift = rng.uniform(10, 14) / spacing, rng.uniform(1.5, 3.0) / spacing  # voxels
    # Uniform noise on [-1, 1] has standard deviation 3^(-1/2); a 3D Gaussian filter divides it by (2 sqrt(pi) s)^(3/2).
    magnitude = shift * 3**0.5 * (2 * np.pi**0.5 * sigma) ** 1.5
    elastic = Rand3DElastic(
        sigma_range=(sigma, sigma),
        magnitude_range=(magnitude, magnitude),
        prob=1.0,
        rotate_range=0.06,
        shear_range=0.03,
        scale_range=0.06,
        translate_range=3 / spacing,
        padding_mode="zeros",
    ).set_random_state(int(rng.integers(2**31)))
    maps = torch.from_numpy(np.asarray(elastic(torch.from_numpy(template[0])), dtype=np.float32))
    affine = template[1].copy()
    if size == "small":
        low, high = (round((z - affine[2, 3]) / spacing) for z in _SLAB_MM)
        maps = maps[..., low:high]
        affine[2, 3] += low * spacing
    old = np.array(maps.shape[1:])
    new = np.maximum(np.round((old - 1) / np.array(relative)).astype(int) + 1, 2)
    if (old != new).any():
        # First and last voxel centres stay where they are: the origin of the affine too.
        maps = torch.nn.functional.interpolate(maps[None], tuple(map(int, new)), mode="trilinear", align_corners=True)[
            0
        ]
    step = spacing * (old - 1) / (new - 1)
    affine[:3, :3] = np.diag(step)
    return np.asarray(maps, dtype=np.float32), affine, tuple(map(float, step))


def _vary(
    template: tuple[NDArray[np.float32], NDArray[np.float64]],
    rng: np.random.Generator,
    spacing: float,
    size: str,
    relative: tuple[float, float, float],
) -> tuple[NDArray[np.float32], NDArray[np.float64], tuple[float, ...]]:
    """The same as `_deform`, with ventricles and sulci of the subject's own."""
    step = (spacing * relative[0], spacing * relative[1], spacing * relative[2])
    maps, affine = draw_anatomy(template[0], spacing, step, rng), template[1].copy()
    affine[:3, :3] = np.diag(step)
    if size == "small":
        low, high = (round((z - affine[2, 3]) / step[2]) for z in _SLAB_MM)
        maps = maps[..., low:high]
        affine[2, 3] += low * step[2]
    return maps, affine, step


def _acquire(image: NDArray[np.float32], rng: np.random.Generator, spacing: float) -> NDArray[np.float32]:
    """Blur, shade and add noise as a scanner does."""
    from monai.transforms import Compose, RandBiasField, RandGaussianSmooth, RandRicianNoise

    blur = (0.5 / spacing, 1.2 / spacing)
    noise = float(rng.uniform(0.008, 0.025))
    scanner = Compose(
        [
            RandGaussianSmooth(sigma_x=blur, sigma_y=blur, sigma_z=blur, prob=1.0),
            RandBiasField(degree=3, coeff_range=(-0.07, 0.07), prob=1.0),
            RandRicianNoise(std=noise, sample_std=False, prob=1.0),
        ]
    ).set_random_state(int(rng.integers(2**31)))
    return np.asarray(scanner(image[None])[0], dtype=np.float32)


def _quantise(image: NDArray[np.float32], rng: np.random.Generator) -> NDArray[Any]:
    """Scale to a scanner's arbitrary units, as float32 or int16; only the background is zero."""
    scaled = image * rng.uniform(300, 1200)
    if rng.random() < 0.3:
        return scaled.astype(np.float32)
    return np.where(image > 0, np.clip(np.rint(scaled), 1, _LARGEST_INT16), 0).astype(np.int16)


def _write_nifti(path: Path, data: NDArray[Any], affine: NDArray[np.float64], orientation: str) -> None:
    """Write an array with axes x, y, z (RAS) in the given orientation, atomically."""
    import nibabel as nib
    from nibabel import orientations

    stored = orientations.axcodes2ornt(tuple(orientation))
    image = nib.Nifti1Image(
        orientations.apply_orientation(data, stored), affine @ orientations.inv_ornt_aff(stored, data.shape)
    )
    image.header.set_xyzt_units("mm")
    replace_file(path, lambda temporary: nib.save(image, temporary))


def _write_datalist(root: Path, sections: dict[str, list[dict[str, Any]]], modality: str) -> Path:
    content = {
        "name": "monai_dpmm_ad phantoms",
        "description": "MNI152 brain phantoms; the abnormal ones have lesions",
        "modality": {"0": modality},
        "labels": {"0": "background", "1": "lesion"},
        "numTraining": len(sections["training"]),
        "numValidation": len(sections["validation"]),
        "numTest": len(sections["test"]),
        **sections,
    }
    path = root / "datalist.json"
    write_json(path, content)
    return path
