# Copyright 2026 monai_dpmm_ad contributors. Licensed under the Apache License, Version 2.0.
"""What a cohort costs in time, disk and money: arithmetic on measured rates, nothing is run.

    python benchmarks/cohort_cost.py --model ViT-S/14
    python benchmarks/cohort_cost.py --model compact --core-hour 0.03

Rates of one CPU core are those that ``benchmarks/inference.py`` (forward passes, the rest of a volume, size of its
outputs) and ``benchmarks/mixture.py`` (a pass of the mixture) printed for docs/scale.md and docs/mixture.md; give your
own where you have them. No GPU has run this: its rate is the arithmetic of a ViT at a share of the chip's peak, both of
which are arguments. Prices are assumptions. Prints a table and a JSON line.
"""

from __future__ import annotations

import argparse
import json

from monai_dpmm_ad.embedding.compact import COMPACT, compact_path

VOLUMES = (1_000, 10_000, 100_000)
#: of each backbone: core seconds of a slice's forward pass and of the rest of a volume, judging it by place included
SECONDS = {"ViT-S/14": (0.170, 4.8), "compact": (0.0202, 4.4)}
#: depth, width, tokens of a slice at 448
VIT_S = (12, 384, 1025)
_SIZE = 224  # of a slice that `compact` sees
_VALIDATED = 16  # slices of a held-out scan that a fit validates on


def main() -> None:
    """Print the table."""
    options = _parse()
    rates = compute_rates(options)
    print(f"A volume of {options.slices} slices, {options.model}:")
    for name, value in rates.items():
        print(f"  {name:34s} {value:10.3g}")
    rows = [estimate(options, rates, volumes) for volumes in VOLUMES]
    names = list(rows[0])
    print("| " + " | ".join(names) + " |\n|" + " --- |" * len(names))
    for row in rows:
        print("| " + " | ".join(f"{value:,.0f}" if value >= 10 else f"{value:.2g}" for value in row.values()) + " |")
    print(json.dumps({"model": options.model, "rates": rates, "rows": rows}))


def compute_rates(options: argparse.Namespace) -> dict[str, float]:
    """Core and GPU seconds, and bytes, of one volume."""
    of_slice, of_rest = SECONDS[options.model]
    forward = options.slices * (of_slice if options.forward is None else options.forward)
    other = of_rest if options.other is None else options.other
    depth, width, tokens = VIT_S if options.model != COMPACT else read_shape()
    flops = options.slices * count_flops(depth, width, tokens)
    stored = options.patches * options.fraction * options.slices
    return {
        "core s, forward passes": forward,
        "core s, everything else": other,
        "core s, mixture": stored * options.epochs / options.mixture_rate,
        "GPU s, forward passes (assumed)": flops / (options.gpu_tflops * 1e12 * options.gpu_share),
        "MiB, embedding store": stored * (2 * width + 16) / 2**20,
        "MiB, maps and mask": options.output_mib,
    }


def read_shape() -> tuple[int, int, int]:
    """Depth, width and tokens of a slice of the backbone that ships."""
    config = json.loads((compact_path() / "config.json").read_text(encoding="utf-8"))
    return config["num_hidden_layers"], config["hidden_size"], (_SIZE // config["patch_size"]) ** 2 + 1


def count_flops(depth: int, width: int, tokens: int) -> float:
    """Floating-point operations of a ViT's forward pass: 24·T·D² of the layers and 4·T²·D of attention, per block."""
    return depth * (24.0 * tokens * width**2 + 4.0 * tokens**2 * width)


def estimate(options: argparse.Namespace, rates: dict[str, float], volumes: int) -> dict[str, float]:
    """Time, money and disk of a cohort."""
    other, mixture = rates["core s, everything else"], rates["core s, mixture"]
    forward, on_gpu = rates["core s, forward passes"], rates["GPU s, forward passes (assumed)"]
    # As many slices of a fitted scan are embedded as one plane has; some of three planes of a new one are mapped.
    # Held-out scans are mapped, and validate the fit on a few slices.
    infer = volumes * (options.mapped * forward + other) / 3600
    embedded = 1 - options.held_out * (1 - _VALIDATED / options.slices)
    fit = volumes * (embedded * forward + other + mixture) / 3600 + options.held_out * infer
    # Beside a GPU its cores read, preprocess and write while it computes: the slower of the two decides.
    gpu_infer = volumes * max(options.mapped * on_gpu, other / options.gpu_cores) / 3600
    gpu_fit = volumes * (max(embedded * on_gpu, other / options.gpu_cores) + mixture / options.gpu_cores) / 3600
    gpu_fit += options.held_out * gpu_infer
    gib = volumes * (rates["MiB, embedding store"] + rates["MiB, maps and mask"]) / 1024
    return {
        "volumes": volumes,
        "fit, core hours": fit,
        f"fit, hours on {options.cores} cores": fit / options.cores,
        "fit, $ on CPUs": fit * options.core_hour,
        "infer, core hours": infer,
        "infer, $ on CPUs": infer * options.core_hour,
        "fit, GPU hours": gpu_fit,
        "infer, GPU hours": gpu_infer,
        "fit, $ on a GPU": gpu_fit * options.gpu_hour,
        "store, GiB": volumes * rates["MiB, embedding store"] / 1024,
        "outputs, GiB": volumes * rates["MiB, maps and mask"] / 1024,
        "disk, $ a month": gib * options.disk,
    }


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--model", choices=list(SECONDS), default="ViT-S/14")
    parser.add_argument("--slices", type=int, default=150, help="with foreground, of a volume")
    parser.add_argument("--mapped", type=float, default=0.84, help="share that maps look at, in three planes")
    parser.add_argument("--forward", type=float, help="core seconds of a slice's forward pass")
    parser.add_argument("--other", type=float, help="core seconds of a volume beside the forward passes")
    parser.add_argument("--patches", type=float, default=400, help="with foreground, of a slice")
    parser.add_argument("--fraction", type=float, default=0.25, help="of them that is fitted")
    parser.add_argument("--held-out", type=float, default=0.2, help="share of the volumes that is held out")
    parser.add_argument("--epochs", type=float, default=10, help="passes over the store")
    parser.add_argument("--mixture-rate", type=float, default=121_000, help="embeddings a core second, K = 500")
    parser.add_argument("--output-mib", type=float, default=8.3, help="maps and mask of a volume")
    parser.add_argument("--cores", type=int, default=64)
    parser.add_argument("--gpu-cores", type=int, default=16)
    parser.add_argument("--gpu-tflops", type=float, default=312, help="peak in bfloat16 (an A100's)")
    parser.add_argument("--gpu-share", type=float, default=0.3, help="of the peak that the passes reach")
    parser.add_argument("--core-hour", type=float, default=0.04, help="$")
    parser.add_argument("--gpu-hour", type=float, default=3.0, help="$, with its cores")
    parser.add_argument("--disk", type=float, default=0.02, help="$ of a GiB in a month")
    return parser.parse_args()


if __name__ == "__main__":
    main()
