# Copyright 2026 monai_dpmm_ad contributors. Licensed under the Apache License, Version 2.0.
"""The cohort of `benchmarks/normative.py`: real healthy heads, with implants whose masks are known.

The cohort's 110 heads are parted once into 75 to fit, calibrate and *choose* on, and 35 to test; the seed deals the 75
into 50 fitted and 25 calibrated ones and draws the implants. So no method is chosen on a test head, whatever the seed.
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass
from pathlib import Path

import nibabel as nib
import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from monai_dpmm_ad.data.synthetic_lesions import insert_lesions
from monai_dpmm_ad.normative import NormativeMap, register
from monai_dpmm_ad.utils.files import replace_file

VENTRICLES = (4, 11, 49, 50, 51, 52)
NUM_TEST, NUM_FITTED, NUM_FOLDS = 35, 50, 3
#: lesions a scan and their diameter in mm
IMPLANTS = {"small": ((1, 3), (6.0, 14.0)), "large": ((1, 1), (20.0, 40.0))}
CONTRAST = (0.25, 0.5)


@dataclass(frozen=True)
class Deal:
    """Names of the heads by their part."""

    fitted: list[str]
    calibrated: list[str]
    test: list[str]
    seed: int

    def kind(self, name: str) -> str:
        """What a test head gets: a third stays healthy, a third gets each kind of implant, in turns of the seeds.

        Over three seeds each head plays each part: old brains score higher, and by chance one third is older.
        """
        return ("healthy", *IMPLANTS)[(self.test.index(name) + self.seed) % 3]


def deal(data: Path, seed: int, fold: int = 0) -> Deal:
    """Part the cohort; in the test parts of ``fold`` 0, 1 and 2 each head stands once, the last one is larger."""
    names = sorted(path.name.removesuffix(".nii.gz") for path in (data / "t1").glob("*.nii.gz"))
    order = [names[i] for i in np.random.default_rng(14).permutation(len(names))]
    test = order[fold * NUM_TEST : (fold + 1) * NUM_TEST if fold < NUM_FOLDS - 1 else None]
    rest = [name for name in order if name not in test]
    mixed = [rest[i] for i in np.random.default_rng([14, seed]).permutation(len(rest))]
    return Deal(sorted(mixed[:NUM_FITTED]), sorted(mixed[NUM_FITTED:]), test, seed)


def read_head(data: Path, name: str, brains: bool = True) -> tuple[nib.Nifti1Image, NDArray[np.bool_]]:
    """A head and its brain's tissue; the brain cut out unless ``brains`` is False."""
    image = nib.load(data / "t1" / f"{name}.nii.gz")
    labels = np.asarray(nib.load(data / "labels" / f"{name}.nii.gz").dataobj).round().astype(int)
    brain = ndimage.binary_fill_holes(ndimage.binary_closing(np.pad(labels > 0, 4), iterations=3)[4:-4, 4:-4, 4:-4])
    tissue = (labels > 0) & ~np.isin(labels, VENTRICLES)
    values = np.asarray(image.dataobj, dtype=np.float32)
    if brains:
        values = np.where(brain, np.maximum(values, 1.0), 0)
    return nib.Nifti1Image(values, image.affine), tissue


def write_scan(data: Path, out: Path, name: str, kind: str, seed: int, brains: bool = True) -> Path:
    """Write a head with its implants and their mask beside it; what is there already is left as it is.

    Args:
        data: the cohort.
        out: folder; the scan is ``out / kind / NAME.nii.gz``, the mask ``out / kind / masks / NAME.nii.gz``.
        name: of the head.
        kind: ``healthy`` or one of `IMPLANTS`.
        seed: of the implants.
        brains: cut the brain out.
    """
    path = out / kind / f"{name}.nii.gz"
    if path.exists():
        return path
    image, tissue = read_head(data, name, brains)
    values = np.asarray(image.dataobj)
    mask = np.zeros(values.shape, bool)
    if kind != "healthy":
        count, diameter = IMPLANTS[kind]
        rng = np.random.default_rng([seed, zlib.crc32(f"{kind} {name}".encode())])
        values, mask = insert_lesions(
            values, tissue, (2.0, 2.0, 2.0), rng, count=count, diameter=diameter, contrast=CONTRAST
        )
    save_array(mask, image.affine, out / kind / "masks" / path.name)
    save_array(values, image.affine, path)
    return path


def save_array(values: NDArray[np.generic], affine: NDArray[np.float64], path: Path) -> None:
    """Write a NIfTI file, masks as uint8 and all else as float32."""
    kind = np.uint8 if values.dtype == bool else np.float32
    replace_file(path, lambda temporary: nib.save(nib.Nifti1Image(values.astype(kind), affine), temporary))


def write_lesion_masks(
    data: Path, out: Path, name: str, seed: int, normative: NormativeMap, brains: bool = True
) -> Path:
    """Write a head darkened by 15 to 35 % where the mask of a real patient's lesions lies, as `write_scan` does.

    The masks are in MNI space; a patient's brain there is registered to the bundle's reference, and so is the head.
    """
    path = out / "masks" / f"{name}.nii.gz"
    if path.exists():
        return path
    image, tissue = read_head(data, name, brains)
    rng = np.random.default_rng([seed, zlib.crc32(f"masks {name}".encode())])
    masks = sorted((data.parent / "ms_lesion_masks").glob("*.nii.gz"))
    lesions = nib.load(masks[int(rng.integers(len(masks)))])
    template = nib.load(data.parent / "ms_mri_3d" / "patient07" / "T1.nii.gz")
    to_mni, to_reference = _register(template, normative), _register(image, normative)
    index = np.linalg.inv(lesions.affine) @ np.linalg.inv(to_mni) @ to_reference @ image.affine
    share = ndimage.affine_transform(
        np.asarray(lesions.dataobj, dtype=np.float32), index[:3, :3], index[:3, 3], output_shape=image.shape, order=1
    )
    mask = (share > 0.5) & tissue
    values = np.asarray(image.dataobj, dtype=np.float32)
    values[mask] *= 1 - rng.uniform(0.15, 0.35)
    save_array(mask, image.affine, out / "masks" / "masks" / path.name)
    save_array(values, image.affine, path)
    return path


def _register(image: nib.Nifti1Image, normative: NormativeMap) -> NDArray[np.float64]:
    """The affine part of a scan's way to the reference."""
    values = np.maximum(np.asarray(image.dataobj, dtype=np.float32), 0)
    return register(values / np.median(values[values > 0]), np.asarray(image.affine), normative.reference).matrix
