# Copyright 2026 monai_dpmm_ad contributors. Licensed under the Apache License, Version 2.0.
"""The data sets of `benchmarks/embedders.py`: slices to fit and slices to score, the same for every embedder.

``valid`` and ``test`` share no slice, head or label map: choose on ``valid``, look at ``test`` once. Of the ixi heads
those that `normative_cohort.py` tests on are ``test`` here; of the label maps the last four were never trained on, two
of them are ``valid``.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import torch
from scipy import ndimage
from torch import Generator, Tensor
from torch.nn import functional as F

from monai_dpmm_ad.data import resolve_datalist
from monai_dpmm_ad.data.phantoms import insert_lesion_2d, insert_lesions, write_cohort
from monai_dpmm_ad.pretraining.anatomy import load_label_maps
from monai_dpmm_ad.pretraining.contrasts import draw_contrasts
from monai_dpmm_ad.pretraining.renderer import Renderer
from monai_dpmm_ad.pretraining.views import augment_intensity
from monai_dpmm_ad.transforms.pipeline import preprocess_scan, preprocess_slices

COHORT_SEED = 902  # neither the demo's own nor the one that weights are chosen on
VENTRICLES = (4, 11, 49, 50, 51, 52)  # of the ixi labels
IXI_TEST = 35  # heads that `normative_cohort.py` tests on
UNSEEN_MAPS = 4  # the last label maps
NUM_SEEN_MAPS = 8  # that the mixture is fitted to


@dataclass
class Slice:
    """One slice ``(1, 1, H, W)`` in [0, 1], with what is known of it."""

    name: str
    image: Tensor
    mask: Tensor | None = None
    abnormal: int | None = None
    kind: str = ""


def read_pictures(path: Path, count: int, seed: int = 0) -> list[Slice]:
    """Read ``count`` random slices of a folder, preprocessed as for fitting; ``kind`` is the name before its number."""
    items = resolve_datalist(path)
    order = np.random.default_rng(seed).permutation(len(items))[:count]
    chain = preprocess_slices()
    return [
        Slice(
            items[i]["name"],
            torch.as_tensor(chain(items[i])[0]["image"])[None],
            kind=Path(items[i]["image"]).stem.rsplit("_", 1)[0],
        )
        for i in sorted(order)
    ]


def read_volume(item: dict[str, Any], every: int, keep: Callable[[int], bool] = lambda index: True) -> list[Slice]:
    """Read every n-th axial slice of a preprocessed volume with its label."""
    samples = preprocess_slices(min_foreground=0.3)({"name": Path(item["image"]).stem, **item})
    chosen = [s for s in samples if s["slice_index"] % every == 0 and keep(s["slice_index"])]
    return [
        Slice(
            f"{item['image']}:{s['slice_index']}",
            torch.as_tensor(s["image"])[None],
            torch.as_tensor(s["label"])[None] > 0 if "label" in s else None,
        )
        for s in chosen
    ]


def load_brain(options: argparse.Namespace) -> tuple[list[Slice], list[Slice]]:
    """Tumour-free slices to fit; slices without and with a tumour to score."""
    root = options.data / "brain_mri_2d"
    tests = []
    for folder, abnormal in (("good", 0), ("Ungood", 1)):
        for part in read_pictures(root / options.split / folder / "img", options.num_test):
            part.abnormal = abnormal
            tests.append(part)
    return read_pictures(root / "train" / "good" / "img", options.num_fit), tests


def load_inserted(options: argparse.Namespace) -> tuple[list[Slice], list[Slice]]:
    """The same slices to fit; lesions inserted into tumour-free slices of one source."""
    root = options.data / "brain_mri_2d"
    rng = np.random.default_rng(11)
    tests = read_pictures(root / options.split / "good" / "img", options.num_test)
    for part in tests:
        image = F.interpolate(part.image, scale_factor=224 / max(part.image.shape[-2:]), mode="bilinear")
        inside = F.interpolate((part.image > 0).float(), image.shape[-2:], mode="nearest") > 0
        image = torch.where(inside, image.clamp(min=1e-3), 0.0)
        marked, mask = insert_lesion_2d(image[0, 0].numpy(), inside[0, 0].numpy(), rng)
        part.image = torch.from_numpy(np.clip(marked, 0, 1))[None, None].float()
        part.mask = torch.from_numpy(mask)[None, None]
    return read_pictures(root / "train" / "good" / "img", options.num_fit), tests


def load_sclerosis(options: argparse.Namespace) -> tuple[list[Slice], list[Slice]]:
    """FLAIR of patient 07 to fit, without what its mask touches; slices 40 to 139 of patient 19 to score."""
    fit, test = (
        {
            "image": str(options.data / "ms_mri_3d" / patient / "FLAIR.nii.gz"),
            "label": str(options.data / "ms_mri_3d" / patient / "lesions.nii.gz"),
        }
        for patient in ("patient07", "patient19")
    )
    scan = preprocess_scan()({"image": test["image"], "name": "patient19"})["image"]
    to_file = np.linalg.inv(nib.load(test["image"]).affine) @ np.asarray(scan.affine)

    def keep(index: int) -> bool:
        return 40 <= round(float((to_file @ [0, 0, index, 1])[2])) <= 139

    return read_volume(fit, 2), read_volume(test, options.every, keep)


def load_cohort(options: argparse.Namespace) -> tuple[list[Slice], list[Slice]]:
    """Phantoms: healthy ones to fit, ones with lesions to score."""
    path = options.out / "cohort" / "datalist.json"
    if not path.is_file():
        write_cohort(path.parent, num_train=6, num_valid=0, num_test_healthy=0, num_test_abnormal=4, seed=COHORT_SEED)
    fit = [part for item in resolve_datalist(path, section="training") for part in read_volume(item, 3)]
    tests = [part for item in resolve_datalist(path, section="test") for part in read_volume(item, 2)]
    return fit, tests


def load_ixi(options: argparse.Namespace) -> tuple[list[Slice], list[Slice]]:
    """Real healthy brains to fit; others with implants to score: small ones in one half, a large one in the other."""
    names = sorted(path.name for path in (options.data / "ixi_t1_2mm" / "t1").glob("*.nii.gz"))
    order = [names[i] for i in np.random.default_rng(14).permutation(len(names))]
    test, rest = order[:IXI_TEST], order[IXI_TEST:]
    scored = (test if options.split == "test" else rest)[: options.num_heads]
    fit = [part for name in rest[-2 * options.num_heads :] for part in _read_brain(options, name, None)]
    kinds = [("small", (1, 3), (6.0, 14.0)), ("large", (1, 1), (20.0, 40.0))]
    tests = [part for i, name in enumerate(scored) for part in _read_brain(options, name, kinds[i % 2])]
    return fit, tests


def _read_brain(options: argparse.Namespace, name: str, kind: tuple[str, Any, Any] | None) -> list[Slice]:
    """Axial slices of a brain that is cut out of its head, with implants of a kind."""
    folder = options.data / "ixi_t1_2mm"
    out = options.out / "ixi" / ("healthy" if kind is None else kind[0])
    item = {"image": out / name, "label": out / "masks" / name}
    if not item["label"].is_file():
        item["label"].parent.mkdir(parents=True, exist_ok=True)
        image = nib.load(folder / "t1" / name)
        labels = np.asarray(nib.load(folder / "labels" / name).dataobj).round().astype(int)
        closed = ndimage.binary_closing(np.pad(labels > 0, 4), iterations=3)[4:-4, 4:-4, 4:-4]
        values = np.asarray(image.dataobj, dtype=np.float32).clip(min=1) * ndimage.binary_fill_holes(closed)
        mask = np.zeros(values.shape, bool)
        if kind is not None:
            rng = np.random.default_rng(int("".join(filter(str.isdigit, name.split(".")[0]))))
            tissue = (labels > 0) & ~np.isin(labels, VENTRICLES)
            sizes = {"count": kind[1], "diameter": kind[2], "contrast": (0.25, 0.5)}
            values, mask = insert_lesions(values, tissue, (2.0, 2.0, 2.0), rng, **sizes)
        nib.save(nib.Nifti1Image(values, image.affine), item["image"])
        nib.save(nib.Nifti1Image(mask.astype(np.uint8), image.affine), item["label"])
    paths = {key: str(path) for key, path in item.items()}
    parts = read_volume(paths if kind is not None else {"image": paths["image"]}, 4)
    for part in parts:
        part.kind = "" if kind is None else kind[0]
    return parts


@cache
def _make_renderers(folder: Path, split: str) -> tuple[Renderer, Renderer]:
    """Renderers of some maps that were trained on, and of half of those that were not."""
    maps = load_label_maps(folder)
    half = UNSEEN_MAPS // 2
    unseen = maps[-UNSEEN_MAPS:][:half] if split == "valid" else maps[-half:]
    return Renderer(maps[:NUM_SEEN_MAPS], 224), Renderer(unseen, 224)


def load_rendered(options: argparse.Namespace, sequence: str) -> tuple[list[Slice], list[Slice]]:
    """Axial brain slices of one sequence, rendered from maps that were trained on to fit, from unseen ones to score."""
    seen, unseen = _make_renderers(options.data / "head_labels", options.split)
    generator = Generator().manual_seed(21)
    contrast = draw_contrasts(1, generator, sequence)

    def render(renderer: Renderer, count: int) -> list[Tensor]:
        planes = renderer.draw_planes(count, generator, plane=0, stripped=True)
        images = augment_intensity(renderer.render(planes, contrast, generator), generator)
        return [image[None, :, : int(h), : int(w)] for image, (h, w) in zip(images, planes.frames, strict=True)]

    fit = [Slice(f"{sequence} {i}", image) for i, image in enumerate(render(seen, options.num_fit))]
    tests, rng = [], np.random.default_rng(12)
    for index, image in enumerate(render(unseen, options.num_test)):
        marked, mask = insert_lesion_2d(image[0, 0].numpy(), image[0, 0].numpy() > 0, rng)
        marked = torch.from_numpy(np.clip(marked, 0, 1))[None, None].float()
        tests.append(Slice(f"{sequence} lesion {index}", marked, torch.from_numpy(mask)[None, None]))
    return fit, tests


def load_chest(options: argparse.Namespace) -> tuple[list[Slice], list[Slice]]:
    """Healthy chests to fit; healthy ones and ones with pneumonia to score. There are no ill ones in ``valid``."""
    root, tests = options.data / "chest_xray", []
    for folder, abnormal in (("good", 0), ("Ungood", 1)):
        for part in read_pictures(root / "test" / folder / "img", options.num_test):
            part.abnormal, part.kind = abnormal, ""
            tests.append(part)
    return read_pictures(root / "train" / "good" / "img", options.num_fit), tests


DATA_SETS: dict[str, Callable[[argparse.Namespace], tuple[list[Slice], list[Slice]]]] = {
    "brain_mri_2d": load_brain,
    "inserted": load_inserted,
    "ixi": load_ixi,
    "rendered T1": lambda options: load_rendered(options, "T1"),
    "rendered T2": lambda options: load_rendered(options, "T2"),
    "rendered FLAIR": lambda options: load_rendered(options, "FLAIR"),
    "ms_patient19": load_sclerosis,
    "cohort": load_cohort,
    "chest_xray": load_chest,
}
