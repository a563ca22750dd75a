# Copyright 2026 monai_dpmm_ad contributors. Licensed under the Apache License, Version 2.0.
"""What does guidance by a one-class SVM buy, and what does it cost?

    python benchmarks/ogae.py [--mnist-c DIR] [--gammas scale 0.1] [--guidance 10] [--epochs 60] [--seeds 2]

The MNIST-C protocol (Mu and Gilmer 2019; Pinon and Lartizien 2025): autoencoder and one-class SVM are fitted
on clean images; each corruption of the test images is told from the clean ones. ``--mnist-c`` is the published folder
(``identity/train_images.npy``, ``identity/test_images.npy``, ``fog/test_images.npy``, …); without it, scikit-learn's
8×8 digits with corruptions made here. The cost is that of a step at batch 512 (256 per half) of a convolutional
autoencoder at 28×28, beside its own step. Prints two tables and a JSON line.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage
from sklearn.datasets import load_digits
from sklearn.metrics import roc_auc_score

from monai_dpmm_ad.detectors import OCSVMGuidedDetector

Images = NDArray[np.float32]

SYSTEMS = {"plain AE + OCSVM": None, "compactor": "compactor", "expander": "expander", "both": "both"}
BATCH, SIDE, LATENT = 512, 28, 32


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--mnist-c", type=Path, metavar="DIR")
    parser.add_argument("--limit", type=int, default=6000, help="clean training images of MNIST-C that are fitted")
    parser.add_argument("--gammas", nargs="+", default=["scale", "0.1"], help="scale, auto or numbers")
    parser.add_argument("--guidance", type=float, default=10.0)
    parser.add_argument("--epochs", type=int, default=60)
    parser.add_argument("--seeds", type=int, default=2)
    arguments = parser.parse_args()
    train, clean, corrupted = load_mnist_c(arguments) if arguments.mnist_c else corrupt_digits()
    table: dict[str, dict[str, float]] = {}
    for gamma in arguments.gammas:
        for name, mode in SYSTEMS.items():
            options: dict[str, Any] = {"guidance": arguments.guidance, "mode": mode} if mode else {"guidance": 0.0}
            runs = [
                run(train, clean, corrupted, arguments.epochs, seed, gamma=gamma, **options)
                for seed in range(arguments.seeds)
            ]
            row = {key: float(np.mean([found[key] for found in runs])) for key in runs[0]}
            means = [float(np.mean(list(found.values()))) for found in runs]
            table[f"{name}, γ {gamma}"] = {**row, "mean": float(np.mean(means)), "sd": float(np.std(means))}
    show(table)
    cost = measure_cost()
    print(f"\nstep at batch {BATCH}, {SIDE}×{SIDE}: CPU ms, times the autoencoder's own")
    for name, (milliseconds, ratio) in cost.items():
        print(f"{name:20s}{milliseconds:8.1f}{ratio:8.2f}")
    print(
        json.dumps({"auroc": table, "cost": cost, "settings": {**vars(arguments), "mnist_c": str(arguments.mnist_c)}})
    )


def load_mnist_c(arguments: argparse.Namespace) -> tuple[Images, Images, dict[str, Images]]:
    """Clean training and test images, and test images by corruption."""

    def read(path: Path, limit: int | None = None) -> Images:
        return np.load(path, allow_pickle=False)[:limit].astype(np.float32).reshape(-1, SIDE, SIDE) / 255

    folder: Path = arguments.mnist_c
    kinds = sorted(path.parent.name for path in folder.glob("*/test_images.npy") if path.parent.name != "identity")
    if not kinds or not (folder / "identity" / "train_images.npy").is_file():
        raise SystemExit(f"{folder}: must hold identity/train_images.npy and KIND/test_images.npy as MNIST-C does")
    corrupted = {kind: read(folder / kind / "test_images.npy") for kind in kinds}
    identity = folder / "identity"
    return read(identity / "train_images.npy", arguments.limit), read(identity / "test_images.npy"), corrupted


def corrupt_digits(seed: int = 0) -> tuple[Images, Images, dict[str, Images]]:
    """scikit-learn's digits: two thirds to fit, a third to test, clean and corrupted."""
    images = load_digits().images.astype(np.float32) / 16
    random = np.random.default_rng(seed)
    images = images[random.permutation(len(images))]
    clean = images[1200:]
    corrupted = {name: np.clip(change(clean, random), 0, 1).astype(np.float32) for name, change in CORRUPTIONS.items()}
    return images[:1200], clean, corrupted


def _warp(images: Images, matrix: list[list[float]]) -> Images:
    centre = (np.array(images.shape[1:]) - 1) / 2
    offset = centre - np.array(matrix) @ centre
    return np.stack([ndimage.affine_transform(image, matrix, offset, order=1) for image in images])


def _translate(images: Images, random: np.random.Generator) -> Images:
    shifts = random.choice([-2, -1, 1, 2], size=(len(images), 2))
    return np.stack([ndimage.shift(image, shift, order=0) for image, shift in zip(images, shifts, strict=True)])


def _stripe(images: Images, random: np.random.Generator) -> Images:
    changed = images.copy()
    changed[:, 3] = 1 - changed[:, 3]
    return changed


def _dot(images: Images, random: np.random.Generator) -> Images:
    changed = images.copy()
    for image in changed:
        image[random.integers(8), ::2] = 1
    return changed


_COS, _SIN = float(np.cos(0.6)), float(np.sin(0.6))
CORRUPTIONS: dict[str, Callable[[Images, np.random.Generator], Images]] = {
    "shot_noise": lambda x, r: r.poisson(x * 8) / 8,
    "impulse_noise": lambda x, r: np.where(r.random(x.shape) < 0.08, r.integers(0, 2, x.shape), x),
    "blur": lambda x, r: ndimage.gaussian_filter(x, (0, 1, 1)),
    "motion_blur": lambda x, r: ndimage.uniform_filter1d(x, 4, axis=2),
    "shear": lambda x, r: _warp(x, [[1, 0], [0.6, 1]]),
    "scale": lambda x, r: _warp(x, [[1.6, 0], [0, 1.6]]),
    "rotate": lambda x, r: _warp(x, [[_COS, -_SIN], [_SIN, _COS]]),
    "brightness": lambda x, r: 0.5 + 0.5 * x,
    "translate": _translate,
    "stripe": _stripe,
    "dotted_line": _dot,
}


def run(
    train: Images, clean: Images, corrupted: dict[str, Images], epochs: int, seed: int, **options: Any
) -> dict[str, float]:
    """Fit on clean images; AUROC of each corruption against the clean test images."""
    detector = OCSVMGuidedDetector(train[0].size, architecture="conv", latent_dim=LATENT, seed=seed, **options)
    rows = {"patches": torch.from_numpy(train.reshape(len(train), 1, -1))}
    detector.initialize(rows, len(train))
    generator = torch.Generator().manual_seed(seed)
    for _ in range(epochs):
        order = torch.randperm(len(train), generator=generator)
        detector.fit_batch({"patches": rows["patches"][order]}, len(train))
    detector.finish_epoch(lambda: rows)

    @torch.no_grad()
    def score(images: Images) -> NDArray[np.float32]:
        patches = torch.from_numpy(images.reshape(len(images), 1, -1))
        return detector.score(detector.features({"patches": patches})).numpy()

    normal = score(clean)
    found = {name: score(images) for name, images in corrupted.items()}
    return {
        name: float(roc_auc_score(np.repeat([0, 1], [len(normal), len(values)]), np.concatenate([normal, values])))
        for name, values in found.items()
    }


def show(table: dict[str, dict[str, float]]) -> None:
    """Print a line for each system."""
    columns = list(next(iter(table.values())))
    print(f"{'AUROC':28s}" + "".join(f"{name[:9]:>10s}" for name in columns))
    for system, row in table.items():
        print(f"{system:28s}" + "".join(f"{row[name]:10.3f}" for name in columns))


def measure_cost(repeats: int = 9) -> dict[str, tuple[float, float]]:
    """Median CPU milliseconds of a step of each system, taken in turns, and its ratio to the plain one's."""
    rows = {"patches": torch.rand(BATCH, 1, SIDE * SIDE, generator=torch.Generator().manual_seed(0))}
    detectors = {}
    for name, mode in SYSTEMS.items():
        options: dict[str, Any] = {"mode": mode} if mode else {"guidance": 0.0}
        detectors[name] = OCSVMGuidedDetector(SIDE * SIDE, architecture="conv", latent_dim=LATENT, **options)
        detectors[name].initialize(rows, BATCH)
        detectors[name].fit_batch(rows, BATCH)
    times: dict[str, list[float]] = {name: [] for name in SYSTEMS}
    for _ in range(repeats):
        for name, detector in detectors.items():
            start = time.process_time()
            detector.fit_batch(rows, BATCH)
            times[name].append(time.process_time() - start)
    plain = float(np.median(times["plain AE + OCSVM"]))
    return {name: (1000 * float(np.median(t)), float(np.median(t)) / plain) for name, t in times.items()}


if __name__ == "__main__":
    main()
