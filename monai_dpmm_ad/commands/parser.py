# Copyright 2026 monai_dpmm_ad contributors. Licensed under the Apache License, Version 2.0.
"""What the command line understands: the commands and the options that each has of its own."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import Any

from monai_dpmm_ad import __version__
from monai_dpmm_ad.commands.config_file import read_options
from monai_dpmm_ad.commands.options import add_device, add_overwrite, add_run, add_settings, add_talk, add_trust

__all__ = ["make_parser", "parse_arguments"]

PATHS = "a folder of NIfTI or NRRD files, DICOM series or pictures, a BMAD-style tree, a datalist JSON, or single files"
NOTICE = "Research software, not a medical device."


def parse_arguments(arguments: Sequence[str] | None = None) -> dict[str, Any]:
    """Parse a command line, with the options of its ``--config`` file in front of its own.

    Args:
        arguments: without the program's name; None takes those of the process.

    Returns:
        ``command``, and what the user gave by the name of the function's argument.

    Raises:
        OSError: when the file cannot be read.
        ValueError: when it holds something else.
    """
    parser, commands = _make_parsers()
    before = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    before.add_argument("--config")
    known, words = before.parse_known_args(arguments)
    if known.config is not None and words and words[0] in commands:
        words[1:1] = read_options(known.config, commands[words[0]])
    options = vars(parser.parse_args(words))
    return {name: value for name, value in options.items() if value is not None}


def make_parser() -> argparse.ArgumentParser:
    """Make the parser; what it parses has the command's name as `command`; what the user did not give is None."""
    return _make_parsers()[0]


def _make_parsers() -> tuple[argparse.ArgumentParser, dict[str, argparse.ArgumentParser]]:
    """Make the parser, and those of the commands by name."""
    parser = argparse.ArgumentParser(
        prog="monai-dpmm-ad",
        description=f"Anomaly maps for medical images, learned from healthy scans. {NOTICE}",
        epilog="monai-dpmm-ad COMMAND --help tells of each one. To begin: monai-dpmm-ad demo --out demo",
    )
    parser.add_argument("--version", action="version", version=__version__)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    _add_demo(commands)
    _add_fit(commands)
    _add_infer(commands, "infer", "--images", "draw the anomaly maps of scans")
    _add_infer(commands, "evaluate", "--data", "draw maps and compare them with masks or classes")
    _add_compare(commands)
    _add_cluster(commands)
    _add_benchmark(commands)
    _add_export(commands)
    _add_pack(commands)
    _add_pretrain(commands)
    _add_label_app(commands)
    add_talk(_add_command(commands, "embedders", "list the embedders known by name, and which are on this disk", ""))
    return parser, dict(commands.choices)


def _add_command(commands: Any, name: str, description: str, needs: str) -> argparse.ArgumentParser:
    """Add a command; ``needs`` is what stands in its usage before the options."""
    parser: argparse.ArgumentParser = commands.add_parser(
        name,
        help=description,
        description=f"{description[0].upper()}{description[1:]}. {NOTICE}",
        usage=f"monai-dpmm-ad {name} {needs} [options]".replace("  ", " "),
        allow_abbrev=False,
    )
    parser.set_defaults(command=name)
    return parser


def _add_label_app(commands: Any) -> None:
    parser = _add_command(commands, "label-app", "install the MONAI Label app and print how its server is started", "")
    parser.add_argument("--out", metavar="DIR", help="folder of the app, and of its logs (default: label_app)")
    parser.add_argument(
        "--studies",
        metavar="PATH",
        help="folder of the studies, or a DICOM server's address (default: to be filled in)",
    )
    parser.add_argument("--bundle", metavar="BUNDLE", help="folder that fit wrote (default: to be filled in)")
    add_talk(parser)


def _add_demo(commands: Any) -> None:
    parser = _add_command(commands, "demo", "fit and evaluate a small cohort of phantoms with lesions", "--out DIR")
    parser.add_argument("--out", required=True, metavar="DIR", help="folder for cohort, bundle and results")
    parser.add_argument("--seed", type=int, metavar="N", help="of the cohort and the fit (default: 0)")
    add_device(parser)
    add_talk(parser)


def _add_fit(commands: Any) -> None:
    parser = _add_command(commands, "fit", "fit healthy scans into a bundle", "--images PATH ... --out BUNDLE")
    parser.add_argument("--images", nargs="+", required=True, metavar="PATH", help=f"healthy scans: {PATHS}")
    parser.add_argument(
        "--out", required=True, metavar="BUNDLE", help="folder of the bundle; the same command continues"
    )
    parser.add_argument(
        "--held-out",
        nargs="+",
        metavar="PATH",
        help="healthy scans for validation and calibration (default: those that the data name, else a fifth of the "
        "subjects)",
    )
    parser.add_argument(
        "--update",
        metavar="BUNDLE",
        help="fitted bundle to go on from: the images are added to what it knows (default: fit anew)",
    )
    parser.add_argument(
        "--mlflow",
        metavar="ADDRESS",
        help="log the fit to this MLflow server, or to a file as sqlite:///runs.db (default: not to MLflow)",
    )
    add_device(parser)
    add_settings(parser, "fit")
    add_talk(parser)


def _add_infer(commands: Any, name: str, source: str, description: str) -> None:
    parser = _add_command(commands, name, description, f"--bundle BUNDLE {source} PATH ... --out DIR")
    parser.add_argument("--bundle", required=True, metavar="BUNDLE", help="folder that fit wrote")
    parser.add_argument(source, nargs="+", required=True, metavar="PATH", help=f"scans: {PATHS}")
    parser.add_argument("--out", required=True, metavar="DIR", help="folder of the results; the same command continues")
    parser.add_argument("--no-report", dest="report", action="store_false", default=None, help="write no report.html")
    _add_bids(parser, "maps")
    add_run(parser, "infer")


def _add_bids(parser: argparse.ArgumentParser, what: str) -> None:
    text = f"write the {what} of BIDS files as BIDS derivatives too, in bids/"
    parser.add_argument("--bids", action="store_true", default=None, help=text)


def _add_compare(commands: Any) -> None:
    needs = "--bundle BUNDLE --before PATH ... --after PATH ... --out DIR"
    parser = _add_command(commands, "compare", "find what changed between two visits of the same people", needs)
    parser.add_argument("--bundle", required=True, metavar="BUNDLE", help="folder that fit wrote")
    visits = "a scan, or folders paired by subject (default: those of --table)"
    parser.add_argument("--before", nargs="+", metavar="PATH", help=f"first visits: {visits}")
    parser.add_argument("--after", nargs="+", metavar="PATH", help=f"second visits: {visits}")
    parser.add_argument("--table", metavar="FILE", help="CSV or TSV of pairs, columns before and after (default: none)")
    parser.add_argument(
        "--healthy",
        nargs="+",
        metavar="PATH",
        help="healthy scans that were not fitted, for p-values: two of a subject are two visits, else a second is "
        "simulated (default: no p-values)",
    )
    parser.add_argument(
        "--session",
        nargs=2,
        metavar=("BEFORE", "AFTER"),
        help="of a BIDS data set, which --before names, the sessions to compare (default: no choice)",
    )
    parser.add_argument("--out", required=True, metavar="DIR", help="folder of the results")
    _add_bids(parser, "changes")
    add_run(parser, "compare")


def _add_cluster(commands: Any) -> None:
    needs = "--bundle BUNDLE --images PATH ... --out DIR"
    parser = _add_command(commands, "cluster", "group anomalous scans, or single flagged regions, by kind", needs)
    parser.add_argument("--bundle", required=True, metavar="BUNDLE", help="folder that fit wrote")
    parser.add_argument("--images", nargs="+", required=True, metavar="PATH", help=f"scans: {PATHS}")
    parser.add_argument("--out", required=True, metavar="DIR", help="folder of the results")
    parser.add_argument(
        "--items", metavar="{images,regions}", help="what is grouped: scans or flagged regions (default: images)"
    )
    parser.add_argument(
        "--num-clusters", type=int, metavar="N", help="number of groups (default: chosen by silhouette)"
    )
    parser.add_argument("--linkage", metavar="{ward,average,complete,single}", help="how groups join (default: ward)")
    parser.add_argument(
        "--weights",
        metavar="{detector,unsupervised,semi-supervised,uniform}",
        help="how patches are weighed (default: detector)",
    )
    parser.add_argument(
        "--tau",
        type=float,
        metavar="NUMBER",
        help="of the weights, in standard deviations of the scores (default: 1.0)",
    )
    parser.add_argument(
        "--normals",
        nargs="+",
        metavar="PATH",
        help="normal scans for semi-supervised weights (default: what the bundle was fitted on)",
    )
    parser.add_argument(
        "--types", metavar="FILE", help="known kinds, as CSV: file, type (default: types.csv beside the data)"
    )
    parser.add_argument("--max-patches", type=int, metavar="N", help="most patches of an item (default: 2000)")
    parser.add_argument("--seed", type=int, metavar="N", help="of the choice of patches (default: 0)")
    add_run(parser, "cluster")


def _add_benchmark(commands: Any) -> None:
    needs = "--data BMAD_ROOT --dataset NAME ... --out DIR"
    parser = _add_command(commands, "benchmark", "fit and evaluate detectors on the data sets of BMAD", needs)
    parser.add_argument("--data", required=True, metavar="BMAD_ROOT", help="folder of Brain_AD, Liver_AD, …")
    parser.add_argument(
        "--dataset",
        dest="datasets",
        nargs="+",
        required=True,
        metavar="NAME",
        help="brats2021, liver, resc, oct2017, chest, histopathology",
    )
    parser.add_argument("--out", required=True, metavar="DIR", help="folder of the results; the same command continues")
    parser.add_argument(
        "--detectors", nargs="+", metavar="NAME", help="dpmm, himatch, memory_bank, ogae (default: all)"
    )
    parser.add_argument("--seeds", nargs="+", type=int, metavar="N", help="of the fits (default: 0)")
    parser.add_argument("--keep-maps", action="store_true", default=None, help="keep the maps of the test images")
    add_device(parser)
    add_settings(parser, "benchmark")
    add_talk(parser)


def _add_export(commands: Any) -> None:
    description = "write a bundle's network as one ONNX or TorchScript graph"
    parser = _add_command(commands, "export", description, "--bundle BUNDLE --out FILE")
    parser.add_argument("--bundle", required=True, metavar="BUNDLE", help="folder that fit wrote")
    parser.add_argument("--out", required=True, metavar="FILE", help="the graph")
    parser.add_argument(
        "--format", dest="graph_format", metavar="{onnx,torchscript}", help="kind of the graph (default: onnx)"
    )
    parser.add_argument(
        "--shape", type=int, nargs=2, metavar=("H", "W"), help="pixels of the slices (default: the bundle's image size)"
    )
    add_overwrite(parser)
    add_trust(parser)
    add_talk(parser)


def _add_pack(commands: Any) -> None:
    description = "write a bundle as one file to hand on, without names of scans"
    parser = _add_command(commands, "pack", description, "BUNDLE --out NAME.zip")
    parser.add_argument("bundle", metavar="BUNDLE", help="folder that fit wrote")
    where = parser.add_mutually_exclusive_group(required=True)
    where.add_argument("--out", metavar="NAME.zip", help="the file (default: none, where --hub is given)")
    where.add_argument(
        "--hub", metavar="OWNER/NAME", help="push it to this repository of the Hugging Face Hub (default: to none)"
    )
    parser.add_argument(
        "--public", action="store_true", default=None, help="a repository that is made may be seen by everybody"
    )
    add_overwrite(parser)
    add_talk(parser)
    parser = _add_command(commands, "unpack", "take in a bundle that pack wrote", "NAME.zip --out BUNDLE")
    parser.add_argument("archive", metavar="NAME.zip", help="the file")
    parser.add_argument("--out", required=True, metavar="BUNDLE", help="folder of the bundle, new or empty")
    add_talk(parser)


def _add_pretrain(commands: Any) -> None:
    description = "train an embedder of your own on slices without labels"
    parser = _add_command(commands, "pretrain", description, "--images PATH ... --out DIR")
    parser.add_argument("--images", nargs="+", required=True, metavar="PATH", help=f"taken to show no lesion: {PATHS}")
    parser.add_argument(
        "--out", required=True, metavar="DIR", help="folder that fit --embedder takes; the same command continues"
    )
    parser.add_argument(
        "--mixed", nargs="+", metavar="PATH", help="scans that may show lesions, learned from as well (default: none)"
    )
    parser.add_argument(
        "--initial", metavar="DIR", help="weights to begin with, of the same architecture (default: random ones)"
    )
    parser.add_argument(
        "--label-maps", metavar="DIR", help="label maps of heads to render slices from (default: nilearn's)"
    )
    parser.add_argument(
        "--synthetic-share",
        type=float,
        metavar="NUMBER",
        help="share of steps with rendered heads; 0 for another organ (default: 0.4)",
    )
    parser.add_argument("--steps", type=int, metavar="N", help="optimiser steps (default: 1400)")
    parser.add_argument("--checkpoint-every", type=int, metavar="N", help="steps between checkpoints (default: 100)")
    parser.add_argument("--batch-size", type=int, metavar="N", help="slices in a step, of each process (default: 24)")
    parser.add_argument("--patch-size", type=int, metavar="N", help="side of a patch in pixels (default: 8)")
    parser.add_argument("--seed", type=int, metavar="N", help="of everything random (default: 0)")
    add_overwrite(parser)
    add_device(parser)
    add_talk(parser)
