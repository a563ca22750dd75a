# Copyright 2026 monai_dpmm_ad contributors. Licensed under the Apache License, Version 2.0.
"""What location, other likelihoods and other weights of the mixture buy in detection, beside the plain mixture.

    python benchmarks/mixture_detection.py --data ../shared/data [--image-size 448] [--seeds 3] [--out runs/mixture]

``ms``: FLAIR of patient 07 is fitted without the patches that its mask touches; patient 19 is scored inside the brain
on axial slices 40 to 139. ``inserted``: tumour-free slices of brain_mri_2d's training split are fitted, lesions
inserted into those of ``--split`` are scored, at 224. ``brain``: the same fit, image level, on ``--split``'s own
classes, which come from different sources. Embeddings of the MS scans are kept in ``--out``, by the backbone's digest,
so that a run that was cut off goes on from there. Prints tables and a JSON line.
"""

from __future__ import annotations

import argparse
import json
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import nibabel as nib
import numpy as np
import torch
from embedder_data import Slice, load_brain, load_inserted
from factor_analysers import FactorAnalysers
from sklearn.metrics import roc_auc_score
from torch import Tensor

from monai_dpmm_ad.detectors import DPMMDetector
from monai_dpmm_ad.embedding import create_embedder
from monai_dpmm_ad.metrics import AnomalyMetrics
from monai_dpmm_ad.mixture import DirichletProcessMixture
from monai_dpmm_ad.network import AnomalyNet
from monai_dpmm_ad.network.upsampling import upsample_scores
from monai_dpmm_ad.ops.pooling import pool_image_score
from monai_dpmm_ad.transforms.pipeline import preprocess_scan, preprocess_slices
from monai_dpmm_ad.utils.files import replace_file
from monai_dpmm_ad.utils.progress import quiet_warnings

SLICES = range(40, 140)
BATCH = 2048
Score = Callable[[Tensor, Tensor], Tensor]


class Encoded(NamedTuple):
    """One slice: unit tokens (h, w, D), location (h, w, 3), valid and touched (h, w), and its pixels."""

    tokens: Tensor
    location: Tensor
    valid: Tensor
    touched: Tensor
    image: Tensor
    mask: Tensor | None
    abnormal: int | None


@torch.no_grad()
def encode(network: AnomalyNet, part: Slice, position: float) -> Encoded:
    """Embed one slice as the bundle's network does."""
    encoded = network.encode(part.image, torch.tensor([position]))
    tokens = torch.nn.functional.normalize(encoded.embeddings.patches[0, -1].float(), dim=-1)
    valid = encoded.foreground[0] >= network.min_foreground
    touched = torch.zeros_like(valid)
    if part.mask is not None:
        touched = torch.nn.functional.adaptive_max_pool2d(part.mask.float(), tuple(valid.shape))[0, 0] > 0
    mask = None if part.mask is None else part.mask[0, 0]
    return Encoded(tokens, encoded.location[0], valid, touched, part.image[0, 0], mask, part.abnormal)


def read_patient(folder: Path, network: AnomalyNet, keep: Callable[[int], bool]) -> list[Encoded]:
    """Embed axial slices of a patient's FLAIR; ``keep`` chooses by the slice's number in the file."""
    item = {"name": folder.name, "image": str(folder / "FLAIR.nii.gz"), "label": str(folder / "lesions.nii.gz")}
    scan = preprocess_scan()({"image": item["image"], "name": folder.name})["image"]
    to_file = np.linalg.inv(nib.load(item["image"]).affine) @ np.asarray(scan.affine)
    found = []
    for sample in preprocess_slices()(item):
        number = round(float((to_file @ [0, 0, sample["slice_index"], 1])[2]))
        if keep(number):
            image, label = (torch.as_tensor(sample[key])[None] for key in ("image", "label"))
            found.append(encode(network, Slice(f"{folder.name}:{number}", image, label > 0), sample["position"]))
    return found


def read_slices(parts: list[Slice], network: AnomalyNet) -> list[Encoded]:
    """Embed single slices, whose position is unknown."""
    return [encode(network, part, 0.5) for part in parts]


def remember(path: Path | None, make: Callable[[], list[Encoded]]) -> list[Encoded]:
    """Read slices from a file, having made and written them if there is none."""
    if path is None:
        return make()
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        rows = [tuple(part) for part in make()]
        replace_file(path, lambda temporary: torch.save(rows, temporary))
    return [Encoded(*row) for row in torch.load(path, weights_only=True)]


def stack(slices: list[Encoded]) -> tuple[Tensor, Tensor]:
    """Tokens (n, D) and locations (n, 3) of all valid patches that no mask touches."""
    chosen = [part.valid & ~part.touched for part in slices]
    pairs = zip(slices, chosen, strict=True)
    rows = [(part.tokens[keep], part.location[keep]) for part, keep in pairs]
    return torch.cat([tokens for tokens, _ in rows]), torch.cat([location for _, location in rows])


def fit_mixture(
    x: Tensor,
    components: int,
    covariance: str,
    seed: int,
    epochs: int = 3,
    most: int | None = None,
    shuffle: int | None = None,
) -> DirichletProcessMixture:
    """Fit to shuffled rows, as the bundle's trainer does; the truncation may grow up to ``most``.

    ``seed`` draws the start, and the order too unless ``shuffle`` does.
    """
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(seed if shuffle is None else shuffle))
    mixture = DirichletProcessMixture(components, x.shape[1], covariance, seed=seed, max_components=most)
    batch = 4 * BATCH if covariance == "full" else BATCH
    return mixture.fit(x[order].split(batch), max_epochs=epochs)


def append(tokens: Tensor, location: Tensor, weight: float) -> Tensor:
    """Coordinates beside the embedding, as the detector does it."""
    detector = DPMMDetector(tokens.shape[1], num_components=2, location_weight=weight)
    return detector.features({"patches": tokens[:, None], "location": location})


class LocatedWeights:
    """Component weights that depend on location: π_k(l) ∝ π_k N(l; m_k, S_k), the moments of each one's patches."""

    def __init__(self, mixture: DirichletProcessMixture, tokens: Tensor, location: Tensor, least: float = 0.05) -> None:
        self.mixture = mixture
        sums, count = 0.0, 0.0
        for x, place in zip(tokens.split(8192), location.split(8192), strict=True):
            resp = mixture.responsibilities(x).double()
            place = place.double()
            sums = sums + resp.T @ torch.cat([place, place.square()], 1)
            count = count + resp.sum(0)
        mean, square = (sums / (count[:, None] + 1e-9)).split(3, 1)
        variance = (square - mean.square()).clamp(min=0.0) + least**2
        self.gate = torch.distributions.Independent(
            torch.distributions.Normal(mean.float(), variance.sqrt().float()), 1
        )
        self.log_weights = (mixture.posterior.counts / mixture.posterior.counts.sum()).clamp(min=1e-12).log().float()

    def score(self, tokens: Tensor, location: Tensor) -> Tensor:
        """−log Σ_k π_k(l) p(y | k), (n,)."""
        found = []
        for x, place in zip(tokens.split(8192), location.split(8192), strict=True):
            # log p(k | y) + log p(y) − log π_k is log p(y | k)
            resp = self.mixture.responsibilities(x).clamp(min=1e-30).log()
            density = resp + self.mixture.log_prob(x)[:, None] - self.log_weights
            gate = (self.gate.log_prob(place[:, None]) + self.log_weights).log_softmax(1)
            found.append(-(density + gate).logsumexp(1))
        return torch.cat(found)


def measure_pixels(score: Score, slices: list[Encoded], patch_size: int, image_size: int) -> dict[str, float]:
    """Pixel figures inside the head."""
    grids = [score(part.tokens.flatten(0, 1), part.location.flatten(0, 1)).view(part.valid.shape) for part in slices]
    least = min(float(grid[part.valid].min()) for grid, part in zip(grids, slices, strict=True) if part.valid.any())
    metrics = AnomalyMetrics(froc=False)
    for number, (part, grid) in enumerate(zip(slices, grids, strict=True)):
        shape = (part.image.shape[0], part.image.shape[1])
        size = patch_size * max(shape) / image_size
        drawn = upsample_scores((grid - least).clamp(min=0)[None].float(), part.valid[None], shape, patch_size=size)
        inside = part.image > 0
        metrics.update(str(number), drawn[0, 0] * inside, part.mask & inside, inside)
    found = metrics.compute(bootstrap=0)
    keys = ("pixel_auroc", "pixel_aupr", "aupro", "best_dice")
    return {key: float(found[f"{key}_foreground"]) for key in keys}


def measure_images(score: Score, slices: list[Encoded]) -> dict[str, float]:
    """Image AUROC by the mean and by the top 1 % of patch scores."""
    grids = [score(part.tokens.flatten(0, 1), part.location.flatten(0, 1)).view(part.valid.shape) for part in slices]
    pairs = list(zip(grids, slices, strict=True))
    classes = [part.abnormal for part in slices]
    pooled = {
        name: [float(pool_image_score(grid[None], part.valid[None], name)) for grid, part in pairs]
        for name in ("mean", "top1pct")
    }
    return {f"image_auroc {name}": float(roc_auc_score(classes, values)) for name, values in pooled.items()}


def make_scores(
    tokens: Tensor, location: Tensor, options: argparse.Namespace, seed: int, located: bool
) -> dict[str, Score]:
    """All variants, fitted to the same patches."""
    components = options.components
    scores: dict[str, Score] = {}
    for covariance in options.covariances:
        plain = fit_mixture(tokens, components, covariance, seed, options.epochs)
        scores[covariance] = lambda x, _, m=plain: -m.log_prob(x)
        scores[f"{covariance}, cosine"] = lambda x, _, m=plain: m.cosine_distance(x)
    for weight in options.weights if located else ():
        beside = fit_mixture(append(tokens, location, weight), components, "diagonal", seed, options.epochs)
        scores[f"location × {weight}"] = lambda x, at, m=beside, w=weight: -m.log_prob(append(x, at, w))
    if options.max_components:
        for covariance in ("rotated", "diagonal"):
            grown = fit_mixture(tokens, components, covariance, seed, options.epochs, options.max_components)
            scores[f"{covariance}, grown to {grown.num_components}"] = lambda x, _, m=grown: -m.log_prob(x)
    if located:
        scores["weights by location"] = LocatedWeights(plain, tokens, location).score
    for rank in options.ranks:
        factors = FactorAnalysers(plain, tokens, rank)
        scores[f"factors, rank {rank}"] = lambda x, _, f=factors: -f.log_prob(x)
    if options.full:
        full = fit_mixture(tokens, components, "full", seed, options.epochs)
        scores["full"] = lambda x, _: -full.log_prob(x)
    return scores


def load(name: str, options: argparse.Namespace, network: AnomalyNet) -> tuple[tuple[Tensor, Tensor], list[Encoded]]:
    """Patches to fit and slices to score."""
    digest = network.embedder.digest()[:8]

    def place(part: str) -> Path | None:
        return options.out and options.out / f"{part}-{network.image_size}-{digest}.pt"

    if name == "ms":
        folder = options.data / "ms_mri_3d"
        fit, test = folder / "patient07", folder / "patient19"
        every = options.every
        to_fit = remember(place(f"{fit.name}-{every}"), lambda: read_patient(fit, network, lambda i: i % every == 0))
        return stack(to_fit), remember(place(test.name), lambda: read_patient(test, network, lambda i: i in SLICES))
    loader = load_brain if name == "brain" else load_inserted
    fit_parts, test_parts = loader(options)
    return stack(read_slices(fit_parts, network)), read_slices(test_parts, network)


def main() -> None:
    """Run the data sets and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("--embedder", default="compact")
    parser.add_argument("--out", type=Path, help="folder that keeps the embeddings of the MS scans")
    parser.add_argument("--image-size", type=int, default=448, help="for the MS scans; the 2D slices use 224")
    parser.add_argument("--components", type=int, default=256)
    families = ["spherical", "vmf", "rotated", "diagonal"]
    parser.add_argument("--covariances", nargs="+", choices=families, default=families, help="the last has factors")
    parser.add_argument("--max-components", type=int, help="rows of mixtures that grow up to so many components")
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--weights", type=float, nargs="*", default=[0.1, 0.3, 1.0])
    parser.add_argument("--ranks", type=int, nargs="*", default=[8])
    parser.add_argument("--full", action="store_true", help="full covariance too")
    parser.add_argument("--num-patches", type=int, default=60_000, help="random share of the patches that is fitted")
    parser.add_argument("--every", type=int, default=1, help="fit every n-th slice of patient 07")
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--split", default="valid", choices=("valid", "test"))
    parser.add_argument("--num-fit", type=int, default=200)
    parser.add_argument("--num-test", type=int, default=60)
    parser.add_argument("--only", nargs="+", choices=("ms", "inserted", "brain"), default=["ms", "inserted", "brain"])
    options = parser.parse_args()
    warnings.filterwarnings("ignore")
    quiet_warnings()
    results: dict[str, dict[str, list[dict[str, float]]]] = {}
    for name in options.only:
        image_size = options.image_size if name == "ms" else 224
        embedder = create_embedder(options.embedder)
        network = AnomalyNet(embedder, DPMMDetector(embedder.embed_dim, num_components=2), image_size).eval()
        (tokens, location), slices = load(name, options, network)
        print(f"\n{name}: {len(tokens)} patches to fit, {len(slices)} slices to score", flush=True)
        results[name] = {}
        for seed in range(options.seeds):
            chosen = torch.randperm(len(tokens), generator=torch.Generator().manual_seed(seed))[: options.num_patches]
            for variant, score in make_scores(tokens[chosen], location[chosen], options, seed, name == "ms").items():
                if name == "brain":
                    figures = measure_images(score, slices)
                else:
                    figures = measure_pixels(score, slices, embedder.patch_size, image_size)
                results[name].setdefault(variant, []).append(figures)
                text = "  ".join(f"{key} {value:.3f}" for key, value in figures.items())
                print(f"{name:9} seed {seed} {variant:22} {text}", flush=True)
    print(json.dumps(results))


if __name__ == "__main__":
    main()
