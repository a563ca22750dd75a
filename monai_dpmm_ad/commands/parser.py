# Copyright 2026 monai_dpmm_ad contributors. Licensed under the Apache License, Version 2.0.
"""What the command line understands."""

from __future__ import annotations

import argparse
import json
from typing import Any

from monai_dpmm_ad import __version__

__all__ = ["make_parser"]

PATHS = "a folder of NIfTI files, DICOM series or pictures, a BMAD-style tree, a datalist JSON, or single files"
NOTICE = "Research software, not a medical device."


def make_parser() -> argparse.ArgumentParser:
    """Make the parser; what it parses has the command's name as `command`, and only what the user gave beside it."""
    parser = argparse.ArgumentParser(prog="monai-dpmm-ad", description=f"Anomaly maps for medical images. {NOTICE}")
    parser.add_argument("--version", action="version", version=__version__)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    _add_demo(commands)
    _add_fit(commands)
    _add_infer(commands, "infer", "--images", "draw the anomaly maps of scans")
    _add_infer(commands, "evaluate", "--data", "draw maps and compare them with masks or classes")
    _add_cluster(commands)
    _add_benchmark(commands)
    _add_export(commands)
    _add_pretrain(commands)
    return parser


def _add_command(commands: Any, name: str, description: str) -> argparse.ArgumentParser:
    parser = commands.add_parser(name, help=description, description=f"{description.capitalize()}. {NOTICE}")
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")
    parser.set_defaults(command=name)
    return parser


def _add_demo(commands: Any) -> None:
    parser = _add_command(commands, "demo", "fit and evaluate a small cohort of phantoms with lesions")
    parser.add_argument("--out", required=True, metavar="DIR", help="folder for cohort, bundle and results")
    parser.add_argument("--seed", type=int, help="of the cohort and the fit (default 0)")


def _add_fit(commands: Any) -> None:
    parser = _add_command(commands, "fit", "fit normal scans into a bundle")
    parser.add_argument("--images", nargs="+", required=True, metavar="PATH", help=f"normal scans: {PATHS}")
    parser.add_argument("--held-out", nargs="+", metavar="PATH", help="healthy scans for validation and calibration")
    parser.add_argument("--out", required=True, metavar="BUNDLE", help="folder of the bundle")
    parser.add_argument(
        "--update", metavar="BUNDLE", help="fitted bundle to go on from: the images are added to what it knows"
    )
    parser.add_argument("--embedder", dest="embedder_name", help="compact, a Hugging Face id or a local folder")
    parser.add_argument("--image-size", type=int, help="longer side of what the embedder sees, in pixels")
    parser.add_argument("--detector", dest="detector_name", metavar="NAME", help="dpmm (default), …: see the docs")
    parser.add_argument(
        "--detector-option",
        dest="detector_options",
        action="append",
        type=_parse_option,
        metavar="NAME=VALUE",
        help="argument of the detector, the value as in JSON; may be given several times",
    )
    parser.add_argument(
        "--stages",
        type=int,
        nargs="+",
        metavar="BLOCK",
        help="blocks of the embedder whose outputs are used, from 0 (default: the last; himatch: one of each quarter)",
    )
    parser.add_argument("--num-components", type=int, help="largest number of mixture components")
    parser.add_argument("--covariance", help="diagonal or spherical, …")
    parser.add_argument("--score", help="log_density, cosine, euclidean or mahalanobis")
    parser.add_argument("--pooling", help="how patch scores become a scan's score: mean, top1pct or max")
    parser.add_argument("--location-weight", type=float, help="weight of the patch's location beside its embedding")
    parser.add_argument("--intensity", help="median, white_matter, percentile or ct_window")
    parser.add_argument(
        "--intensity-tail",
        help="bright, dark or both: how unusual a pixel's own intensity is counts as well (default none)",
    )
    parser.add_argument("--intensity-weight", type=float, help="weight of that term (default 1)")
    parser.add_argument("--upsampling", help="how patch scores become pixels: guided, bilinear or nearest")
    parser.add_argument(
        "--num-shifts", type=int, help="n: average n×n sub-patch shifts of the grid, at n² times the cost"
    )
    parser.add_argument("--regions", metavar="ATLAS", help="integer volume in the scans' space: thresholds per region")
    parser.add_argument(
        "--num-regions", type=int, help="highest label, where each scan of a datalist has own `regions`"
    )
    parser.add_argument("--axes", nargs="+", help="axial, coronal, sagittal; several are fused")
    parser.add_argument("--exclude-label", choices=("none", "patches", "slices"), help="what a label mask leaves out")
    parser.add_argument(
        "--patch-fraction", type=float, help="random share of each slice's patches that is fitted (default 0.25)"
    )
    parser.add_argument("--patch-mask", help="none, or pca: only patches on the object's side of the first component")
    parser.add_argument(
        "--rotations", type=float, nargs="+", metavar="DEGREES", help="angles at which each slice is fitted (default 0)"
    )
    parser.add_argument("--max-epochs", type=int, help="largest number of passes over the embeddings")
    parser.add_argument("--seed", type=int, help="of everything random (default 0)")
    parser.add_argument("--device", help="cuda or cpu (default: cuda where there is one)")
    _add_choice(parser)


def _add_infer(commands: Any, name: str, source: str, description: str) -> None:
    parser = _add_command(commands, name, description)
    parser.add_argument("--bundle", required=True, metavar="BUNDLE", help="folder that fit wrote")
    parser.add_argument(source, nargs="+", required=True, metavar="PATH", help=f"scans: {PATHS}")
    parser.add_argument("--out", required=True, metavar="DIR", help="folder of the results")
    parser.add_argument("--rate", dest="false_positive_rate", type=float, help="false-positive rate of the mask")
    parser.add_argument("--regions", metavar="ATLAS", help="integer volume in the scans' space, as given to fit")
    parser.add_argument(
        "--no-percentile", dest="save_percentile", action="store_false", default=None, help="write no percentile maps"
    )
    parser.add_argument("--min-lesion", dest="min_lesion_volume", type=float, help="smallest lesion in mm³")
    parser.add_argument("--batch-size", type=int, help="slices in one forward pass")
    parser.add_argument("--section", help="section of a datalist or BMAD tree (default test)")
    parser.add_argument(
        "--dicom",
        action="store_true",
        default=None,
        help="of DICOM series, write the mask as DICOM SEG and the map as parametric map as well",
    )
    _add_trust(parser)
    parser.add_argument("--no-report", dest="report", action="store_false", default=None, help="write no report.html")
    parser.add_argument("--device", help="cuda or cpu (default: cuda where there is one)")
    parser.add_argument(
        "--own-format",
        action="store_true",
        default=None,
        help="write maps and masks in the scan's own format as well (NRRD, MetaImage, FreeSurfer's, Analyze, TIFF)",
    )
    _add_choice(parser)


def _add_choice(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--suffix", help="of the files in folders only those whose names end in it: T1w, FLAIR, …")
    parser.add_argument("--pattern", help="of the files in folders only those whose names match: '*_run-1_*'")


def _add_trust(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--trust-bundle",
        action="store_true",
        default=None,
        help="run the bundle's configs although they are not this package's own; they are code",
    )


def _add_cluster(commands: Any) -> None:
    parser = _add_command(commands, "cluster", "group anomalous scans, or single lesions, by kind")
    parser.add_argument("--bundle", required=True, metavar="BUNDLE", help="folder that fit wrote")
    parser.add_argument("--images", nargs="+", required=True, metavar="PATH", help=f"scans: {PATHS}")
    parser.add_argument("--out", required=True, metavar="DIR", help="folder of the results")
    parser.add_argument("--num-clusters", type=int, help="number of groups (default: chosen by silhouette)")
    parser.add_argument("--items", help="images (default) or lesions, the connected components of the mask")
    parser.add_argument("--weights", help="of patches: detector (default), unsupervised, semi-supervised or uniform")
    parser.add_argument("--tau", type=float, help="of the weights, in standard deviations of the patch scores")
    parser.add_argument("--linkage", help="ward (default), average, complete or single")
    parser.add_argument("--normals", nargs="+", metavar="PATH", help="normal scans for semi-supervised weights")
    parser.add_argument("--types", metavar="FILE", help="CSV: file, type (default: types.csv beside the data)")
    parser.add_argument("--max-patches", type=int, help="largest number of patches of an item (default 2000)")
    parser.add_argument("--rate", dest="false_positive_rate", type=float, help="false-positive rate of the mask")
    parser.add_argument("--min-lesion", dest="min_lesion_volume", type=float, help="smallest lesion in mm³")
    parser.add_argument("--batch-size", type=int, help="slices in one forward pass")
    parser.add_argument("--section", help="section of a datalist or BMAD tree (default test)")
    parser.add_argument("--seed", type=int, help="of the choice of patches (default 0)")
    _add_trust(parser)
    parser.add_argument("--device", help="cuda or cpu (default: cuda where there is one)")


def _add_benchmark(commands: Any) -> None:
    parser = _add_command(commands, "benchmark", "fit and evaluate detectors on the data sets of BMAD")
    parser.add_argument("--data", required=True, metavar="BMAD_ROOT", help="folder of Brain_AD, Liver_AD, …")
    parser.add_argument(
        "--dataset", dest="datasets", nargs="+", required=True, metavar="NAME", help="brats2021, liver, resc, …"
    )
    parser.add_argument("--out", required=True, metavar="DIR", help="folder of the results; the same command continues")
    parser.add_argument("--detectors", nargs="+", metavar="NAME", help="dpmm, … (default: all)")
    parser.add_argument("--seeds", nargs="+", type=int, help="of the fits (default 0)")
    parser.add_argument("--embedder", dest="embedder_name", help="compact, a Hugging Face id or a local folder")
    parser.add_argument("--image-size", type=int, help="longer side of what the embedder sees, in pixels (paper: 448)")
    parser.add_argument("--num-components", type=int, help="largest number of mixture components (paper: 500)")
    parser.add_argument("--score", help="of the mixture: log_density, cosine (the paper), euclidean or mahalanobis")
    parser.add_argument("--upsampling", help="how patch scores become pixels: guided, bilinear (the paper) or nearest")
    parser.add_argument("--pooling", help="how patch scores become an image's score: mean, top1pct or max")
    parser.add_argument("--max-epochs", type=int, help="largest number of passes over the embeddings")
    parser.add_argument("--keep-maps", action="store_true", default=None, help="keep the maps of the test images")
    parser.add_argument("--device", help="cuda or cpu (default: cuda where there is one)")


def _add_export(commands: Any) -> None:
    parser = _add_command(commands, "export", "write a bundle's network as one ONNX or TorchScript graph")
    parser.add_argument("--bundle", required=True, metavar="BUNDLE", help="folder that fit wrote")
    parser.add_argument("--out", required=True, metavar="FILE", help="the graph")
    parser.add_argument("--format", dest="graph_format", help="onnx (default) or torchscript")
    parser.add_argument(
        "--shape", type=int, nargs=2, metavar=("H", "W"), help="pixels of the slices (default: the bundle's image size)"
    )
    _add_trust(parser)


def _add_pretrain(commands: Any) -> None:
    parser = _add_command(commands, "pretrain", "train an embedder of your own on slices without labels")
    parser.add_argument("--images", nargs="+", required=True, metavar="PATH", help=f"taken to show no lesion: {PATHS}")
    parser.add_argument("--mixed", nargs="+", metavar="PATH", help="scans that may show lesions, learned from as well")
    parser.add_argument("--out", required=True, metavar="DIR", help="folder that fit --embedder takes")
    parser.add_argument("--initial", metavar="DIR", help="weights to begin with, of the same architecture")
    parser.add_argument("--steps", type=int, help="optimiser steps")
    parser.add_argument("--checkpoint-every", type=int, help="steps between checkpoints (default 100)")
    parser.add_argument("--batch-size", type=int, help="slices in a step, of each process")
    parser.add_argument("--patch-size", type=int, help="side of a patch in pixels")
    parser.add_argument("--seed", type=int, help="of everything random (default 0)")
    parser.add_argument("--device", help="cpu or cuda (default cpu)")


def _parse_option(text: str) -> tuple[str, Any]:
    """Read NAME=VALUE; a value that is no JSON is a string."""
    name, found, value = text.partition("=")
    if not name or not found:
        raise argparse.ArgumentTypeError(f"must be NAME=VALUE, got '{text}'")
    try:
        return name, json.loads(value)
    except json.JSONDecodeError:
        return name, value
