# Copyright 2026 monai_dpmm_ad contributors. Licensed under the Apache License, Version 2.0.
"""How much the figures move with the seed: the paper's procedure, scikit-learn's mixture, and ours.

    python benchmarks/stability.py --data ../shared/data [--seeds 5] [--only inserted brain ms ixi] [--out FOLDER]
        [--vary data start order] [--methods paper sklearn diagonal "diagonal, cosine" "diagonal, averaged" rotated]

A seed draws the patches that are fitted (``data``), every start and, of ours, the order; ``--vary`` keeps the others.
``inserted``: tumour-free slices of brain_mri_2d with lesions inserted; ``brain``: the same fit, image level, on
classes of different sources; ``ms``: FLAIR of patient 07 fitted, patient 19 scored; ``ixi``: axial slices of healthy
T1 heads, lesions inserted into those of other heads. ``paper`` is online MAP-EM with cosine distance, a plain
implementation; ``sklearn`` its variational mixture with diagonal covariance; ``averaged`` the mean log density of three
mixtures with a start and an order of their own. Prints mean and standard deviation over seeds, in points, and a JSON
line. Every finished method and seed is a line of ``stability.jsonl`` in ``--out``: the same command goes on from there.
"""

from __future__ import annotations

import argparse
import json
import statistics
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from embedder_data import Slice
from mixture_detection import Encoded, fit_mixture, load, measure_images, measure_pixels, read_slices, stack
from mixture_peers import OnlineMAPEM
from torch import Tensor
from torch.nn import functional as F

from monai_dpmm_ad.data.phantoms import insert_lesion_2d
from monai_dpmm_ad.detectors import DPMMDetector
from monai_dpmm_ad.embedding import create_embedder
from monai_dpmm_ad.mixture.initialise import compute_data_scale
from monai_dpmm_ad.network import AnomalyNet
from monai_dpmm_ad.ops.distances import nearest_cosine_distance
from monai_dpmm_ad.ops.kmeans import fit_kmeans
from monai_dpmm_ad.transforms.pipeline import preprocess_slices
from monai_dpmm_ad.utils.progress import quiet_warnings

DRAWS = ("data", "start", "order")
DATA_SETS = ("inserted", "brain", "ms", "ixi")
METHODS = ("paper", "sklearn", "diagonal", "diagonal, cosine", "diagonal, averaged", "rotated")
AVERAGED = 3
MAX_ITERATIONS = 20  # of scikit-learn's: it takes as long as three passes of the plain procedure
MIN_WEIGHT = 1e-6
Scorer = Callable[[Tensor], Tensor]


def fit_paper(x: Tensor, components: int, seed: int) -> Scorer:
    """Online MAP-EM from k-means++, three passes; 1 − max cos over components that hold anything."""
    centres = fit_kmeans(x[:10_000], components, torch.Generator().manual_seed(seed)).centres
    oracle = OnlineMAPEM(centres, compute_data_scale(x).variance.float())
    for _ in range(3):
        oracle.fit(x.split(512))
    means = oracle.first / (oracle.counts + 1e-10)[:, None]
    active = means[oracle.counts / oracle.counts.sum() > MIN_WEIGHT]
    return lambda rows: nearest_cosine_distance(rows, active)


def fit_sklearn(x: Tensor, components: int, seed: int) -> Scorer:
    """scikit-learn's variational mixture; minus its log density."""
    from sklearn.mixture import BayesianGaussianMixture

    peer = BayesianGaussianMixture(
        n_components=components, covariance_type="diag", max_iter=MAX_ITERATIONS, random_state=seed
    ).fit(x.double().numpy())
    return lambda rows: torch.from_numpy(-peer.score_samples(rows.double().numpy())).float()


def fit_method(method: str, x: Tensor, components: int, start: int, order: int) -> Scorer:
    """Fit one of ``METHODS`` to x (n, D)."""
    if method == "paper":
        return fit_paper(x, components, start)
    if method == "sklearn":
        return fit_sklearn(x, components, start)
    family, _, kind = method.partition(", ")
    if kind == "averaged":
        draws = [(AVERAGED * start + number, AVERAGED * order + number) for number in range(AVERAGED)]
        mixtures = [fit_mixture(x, components, family, start, shuffle=order) for start, order in draws]
        return lambda rows: -torch.stack([mixture.log_prob(rows) for mixture in mixtures]).mean(0)
    mixture = fit_mixture(x, components, family, start, shuffle=order)
    return mixture.cosine_distance if kind == "cosine" else lambda rows: -mixture.log_prob(rows)


def load_ixi(options: argparse.Namespace, network: AnomalyNet) -> tuple[Tensor, list[Encoded]]:
    """Patches of every sixth axial slice of some heads, and slices of other heads with a lesion inserted."""
    files = sorted((options.data / "ixi_t1_2mm" / "t1").glob("*.nii.gz"))[: 2 * options.num_heads]
    rng = np.random.default_rng(13)
    slices: list[list[Slice]] = [[], []]
    for number, file in enumerate(files):
        samples = preprocess_slices(min_foreground=0.3)({"name": file.name, "image": str(file)})
        for sample in samples[::6]:
            part = Slice(f"{file.name}:{sample['slice_index']}", torch.as_tensor(sample["image"])[None])
            if number % 2:
                inside = part.image[0, 0] > 0
                marked, mask = insert_lesion_2d(part.image[0, 0].numpy(), inside.numpy(), rng)
                part.image = torch.from_numpy(np.clip(marked, 0, 1))[None, None].float()
                part.mask = torch.from_numpy(mask)[None, None]
            slices[number % 2].append(part)
    return stack(read_slices(slices[0], network))[0], read_slices(slices[1], network)


def measure(name: str, options: argparse.Namespace, done: dict[str, dict[str, float]]) -> None:
    """Run every method with every seed on one data set, but for those that are done."""
    embedder = create_embedder(options.embedder)
    image_size = options.image_size if name == "ms" else 224
    network = AnomalyNet(embedder, DPMMDetector(embedder.embed_dim, num_components=2), image_size).eval()
    if name == "ixi":
        tokens, slices = load_ixi(options, network)
    else:
        (tokens, _), slices = load(name, options, network)
    for seed in range(options.seeds):
        data, start, order = (seed if draw in options.vary else 0 for draw in DRAWS)
        chosen = torch.randperm(len(tokens), generator=torch.Generator().manual_seed(data))[: options.num_patches]
        for method in options.methods:
            key = f"{name}|{label_method(method, options.vary)}|{seed}"
            if key in done:
                continue
            score = fit_method(method, F.normalize(tokens[chosen], dim=1), options.components, start, order)
            if name == "brain":
                found = measure_images(lambda x, _, s=score: s(x), slices)
            else:
                found = measure_pixels(lambda x, _, s=score: s(x), slices, embedder.patch_size, image_size)
            done[key] = found
            print(key, {figure: round(value, 4) for figure, value in found.items()}, flush=True)
            if options.out:
                with (options.out / "stability.jsonl").open("a", encoding="utf-8") as file:
                    file.write(json.dumps({"key": key, "figures": found}) + "\n")


def label_method(method: str, vary: list[str]) -> str:
    """A method, and what a seed draws where that is not everything."""
    return method if set(vary) == set(DRAWS) else f"{method} ({' and '.join(vary)})"


def print_tables(done: dict[str, dict[str, float]]) -> None:
    """Mean and standard deviation over seeds, in points."""
    methods = dict.fromkeys(key.split("|")[1] for key in done)
    for name in DATA_SETS:
        rows = {m: [v for k, v in done.items() if k.rsplit("|", 1)[0] == f"{name}|{m}"] for m in methods}
        figures = next((list(found[0]) for found in rows.values() if found), [])
        if figures:
            print(f"\n{name:24} " + " ".join(f"{figure:>22}" for figure in figures))
        for method, found in rows.items():
            if len(found) > 1:
                columns = [[100.0 * part[figure] for part in found] for figure in figures]
                cells = [f"{statistics.mean(c):.2f} ± {statistics.stdev(c):.2f}" for c in columns]
                print(f"{method:24} " + " ".join(f"{cell:>22}" for cell in cells))


def main() -> None:
    """Run the data sets and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("--embedder", default="compact")
    parser.add_argument("--out", type=Path, help="folder that keeps embeddings of the MS scans and what is done")
    parser.add_argument("--image-size", type=int, default=448, help="for the MS scans; the others use 224")
    parser.add_argument("--components", type=int, default=128)
    parser.add_argument("--num-patches", type=int, default=20_000)
    parser.add_argument("--every", type=int, default=1, help="fit every n-th slice of patient 07")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--vary", nargs="+", choices=DRAWS, default=list(DRAWS), help="what a seed draws")
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS))
    parser.add_argument("--split", default="valid", choices=("valid", "test"))
    parser.add_argument("--num-fit", type=int, default=120)
    parser.add_argument("--num-test", type=int, default=40)
    parser.add_argument("--num-heads", type=int, default=8, help="of ixi to fit, and as many to score")
    parser.add_argument("--only", nargs="+", choices=DATA_SETS, default=list(DATA_SETS))
    options = parser.parse_args()
    warnings.filterwarnings("ignore")
    quiet_warnings()
    done: dict[str, dict[str, float]] = {}
    if options.out:
        options.out.mkdir(parents=True, exist_ok=True)
        file = options.out / "stability.jsonl"
        lines = file.read_text(encoding="utf-8").splitlines() if file.exists() else []
        done = {line["key"]: line["figures"] for line in map(json.loads, lines)}
    for name in options.only:
        measure(name, options, done)
    print_tables(done)
    print(json.dumps(done))


if __name__ == "__main__":
    main()
