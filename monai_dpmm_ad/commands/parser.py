# Copyright 2026 monai_dpmm_ad contributors. Licensed under the Apache License, Version 2.0.
"""What the command line understands; the options of settings follow from their declarations."""

from __future__ import annotations

import argparse
import json
from typing import Any

from monai_dpmm_ad import __version__
from monai_dpmm_ad.bundle.setting import Setting
from monai_dpmm_ad.bundle.settings import SETTINGS

__all__ = ["make_parser"]

PATHS = "a folder of NIfTI or NRRD files, DICOM series or pictures, a BMAD-style tree, a datalist JSON, or single files"
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
    _add_compare(commands)
    _add_cluster(commands)
    _add_benchmark(commands)
    _add_export(commands)
    _add_pretrain(commands)
    _add_label_app(commands)
    _add_command(commands, "embedders", "list the embedders known by name, and which are on this disk")
    return parser


def _add_command(commands: Any, name: str, description: str) -> argparse.ArgumentParser:
    parser = commands.add_parser(name, help=description, description=f"{description.capitalize()}. {NOTICE}")
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")
    parser.set_defaults(command=name)
    return parser


def _add_label_app(commands: Any) -> None:
    parser = _add_command(commands, "label-app", "install the MONAI Label app and print how its server is started")
    parser.add_argument(
        "--out", default="label_app", metavar="DIR", help="folder of the app, and of its logs (default label_app)"
    )
    parser.add_argument("--studies", metavar="PATH", help="folder of the studies, or a DICOM server's address")
    parser.add_argument("--bundle", metavar="BUNDLE", help="folder that fit wrote")


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
    _add_settings(parser, "fit")
    _add_device(parser)


def _add_infer(commands: Any, name: str, source: str, description: str) -> None:
    parser = _add_command(commands, name, description)
    parser.add_argument("--bundle", required=True, metavar="BUNDLE", help="folder that fit wrote")
    parser.add_argument(source, nargs="+", required=True, metavar="PATH", help=f"scans: {PATHS}")
    parser.add_argument("--out", required=True, metavar="DIR", help="folder of the results")
    _add_settings(parser, "infer")
    _add_trust(parser)
    _add_overwrite(parser)
    parser.add_argument(
        "--bids",
        action="store_true",
        default=None,
        help="write the maps of BIDS files as BIDS derivatives as well, in bids/",
    )
    parser.add_argument("--no-report", dest="report", action="store_false", default=None, help="write no report.html")
    _add_device(parser)


def _add_compare(commands: Any) -> None:
    parser = _add_command(commands, "compare", "find what changed between two visits of the same people")
    parser.add_argument("--bundle", required=True, metavar="BUNDLE", help="folder that fit wrote")
    visits = "a scan, or folders paired by subject"
    parser.add_argument("--before", nargs="+", metavar="PATH", help=f"first visits: {visits}")
    parser.add_argument("--after", nargs="+", metavar="PATH", help=f"second visits: {visits}")
    parser.add_argument(
        "--table", metavar="FILE", help="CSV or TSV of pairs, columns before and after, in place of both"
    )
    parser.add_argument(
        "--healthy",
        nargs="+",
        metavar="PATH",
        help="healthy scans that were not fitted, for p-values; two of a subject "
        "are two visits, else second visits are simulated",
    )
    parser.add_argument("--out", required=True, metavar="DIR", help="folder of the results")
    _add_settings(parser, "compare")
    _add_trust(parser)
    _add_overwrite(parser)
    _add_device(parser)


def _add_settings(parser: argparse.ArgumentParser, command: str) -> None:
    """Add an option for each setting that the command takes."""
    for setting in SETTINGS.values():
        if command in setting.commands:
            name, arguments = _option(setting, "" if setting.role in ("model", "fit") else " or the bundle's own")
            parser.add_argument(f"--{name}", dest=setting.name, default=None, **arguments)


def _option(setting: Setting, unless: str) -> tuple[str, dict[str, Any]]:
    """Name and arguments of a setting's option; ``unless`` says what else its default may be."""
    name = setting.option or setting.name.replace("_", "-")
    if setting.kind is bool:
        if setting.default:
            return f"no-{name}", {"action": "store_false", "help": f"write no {setting.help}"}
        return name, {"action": "store_true", "help": setting.help}
    arguments: dict[str, Any] = {"help": _help(setting, unless), "metavar": setting.metavar}
    if setting.kind is dict:
        return name, {**arguments, "action": "append", "type": _parse_option}
    return name, {**arguments, "type": setting.kind, "nargs": "+" if setting.many else None}


def _help(setting: Setting, unless: str) -> str:
    default = setting.default
    shown = " ".join(map(str, default)) if isinstance(default, list) else default
    notes = [", ".join(map(str, setting.choices))] if setting.choices else []
    notes += [f"default {shown}{unless}"] if default not in (None, {}) else []
    return f"{setting.help} ({'; '.join(notes)})" if notes else setting.help


def _add_device(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--device", help="cuda or cpu (default: cuda where there is one)")


def _add_overwrite(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--overwrite",
        action="store_true",
        default=None,
        help="replace files that this program did not write, and other scans' results of the same name",
    )


def _add_trust(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--trust-bundle",
        action="store_true",
        default=None,
        help="run the bundle's own configs, which are code, in place of this package's with the bundle's settings",
    )


def _add_cluster(commands: Any) -> None:
    parser = _add_command(commands, "cluster", "group anomalous scans, or single flagged regions, by kind")
    parser.add_argument("--bundle", required=True, metavar="BUNDLE", help="folder that fit wrote")
    parser.add_argument("--images", nargs="+", required=True, metavar="PATH", help=f"scans: {PATHS}")
    parser.add_argument("--out", required=True, metavar="DIR", help="folder of the results")
    parser.add_argument("--num-clusters", type=int, help="number of groups (default: chosen by silhouette)")
    parser.add_argument("--items", help="images (default) or regions, the connected components of the mask")
    parser.add_argument("--weights", help="of patches: detector (default), unsupervised, semi-supervised or uniform")
    parser.add_argument("--tau", type=float, help="of the weights, in standard deviations of the patch scores")
    parser.add_argument("--linkage", help="ward (default), average, complete or single")
    parser.add_argument("--normals", nargs="+", metavar="PATH", help="normal scans for semi-supervised weights")
    parser.add_argument("--types", metavar="FILE", help="CSV: file, type (default: types.csv beside the data)")
    parser.add_argument("--max-patches", type=int, help="largest number of patches of an item (default 2000)")
    _add_settings(parser, "cluster")
    parser.add_argument("--seed", type=int, help="of the choice of patches (default 0)")
    _add_trust(parser)
    _add_overwrite(parser)
    _add_device(parser)


def _add_benchmark(commands: Any) -> None:
    parser = _add_command(commands, "benchmark", "fit and evaluate detectors on the data sets of BMAD")
    parser.add_argument("--data", required=True, metavar="BMAD_ROOT", help="folder of Brain_AD, Liver_AD, …")
    parser.add_argument(
        "--dataset", dest="datasets", nargs="+", required=True, metavar="NAME", help="brats2021, liver, resc, …"
    )
    parser.add_argument("--out", required=True, metavar="DIR", help="folder of the results; the same command continues")
    parser.add_argument("--detectors", nargs="+", metavar="NAME", help="dpmm, … (default: all)")
    parser.add_argument("--seeds", nargs="+", type=int, help="of the fits (default 0)")
    _add_settings(parser, "benchmark")
    parser.add_argument("--keep-maps", action="store_true", default=None, help="keep the maps of the test images")
    _add_device(parser)


def _add_export(commands: Any) -> None:
    parser = _add_command(commands, "export", "write a bundle's network as one ONNX or TorchScript graph")
    parser.add_argument("--bundle", required=True, metavar="BUNDLE", help="folder that fit wrote")
    parser.add_argument("--out", required=True, metavar="FILE", help="the graph")
    parser.add_argument("--format", dest="graph_format", help="onnx (default) or torchscript")
    parser.add_argument(
        "--shape", type=int, nargs=2, metavar=("H", "W"), help="pixels of the slices (default: the bundle's image size)"
    )
    _add_trust(parser)
    _add_overwrite(parser)


def _add_pretrain(commands: Any) -> None:
    parser = _add_command(commands, "pretrain", "train an embedder of your own on slices without labels")
    parser.add_argument("--images", nargs="+", required=True, metavar="PATH", help=f"taken to show no lesion: {PATHS}")
    parser.add_argument("--mixed", nargs="+", metavar="PATH", help="scans that may show lesions, learned from as well")
    parser.add_argument("--out", required=True, metavar="DIR", help="folder that fit --embedder takes")
    _add_overwrite(parser)
    parser.add_argument("--initial", metavar="DIR", help="weights to begin with, of the same architecture")
    parser.add_argument(
        "--label-maps", metavar="DIR", help="label maps of heads to render slices from (default: nilearn's)"
    )
    parser.add_argument("--synthetic-share", type=float, help="share of steps with rendered heads; 0 for another organ")
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
