# Copyright 2026 monai_dpmm_ad contributors. Licensed under the Apache License, Version 2.0.
"""Options that several commands have; those of settings follow from their declarations."""

from __future__ import annotations

import argparse
import json
from typing import Any

from monai_dpmm_ad.bundle.setting import Setting
from monai_dpmm_ad.bundle.settings import SETTINGS

__all__ = ["add_device", "add_overwrite", "add_run", "add_settings", "add_talk", "add_trust"]

#: Who decides a setting → heading of its options.
_GROUPS = {
    "model": "what the bundle is made of, and keeps",
    "fit": "how it is fitted",
    "run": "what is written",
    "both": "which files are read, and how",
}
_METAVARS = {int: "N", float: "NUMBER", str: "TEXT", dict: "NAME=VALUE"}


def add_settings(parser: argparse.ArgumentParser, command: str) -> None:
    """Add an option for each setting that the command takes, under the headings of who decides it."""
    for role, heading in _GROUPS.items():
        settings = [setting for setting in SETTINGS.values() if setting.role == role and command in setting.commands]
        if settings:
            group = parser.add_argument_group(heading)
        for setting in settings:
            name, arguments = _option(setting, "" if command in ("fit", "benchmark") else "the bundle's own, else ")
            group.add_argument(f"--{name}", dest=setting.name, default=None, **arguments)


def _option(setting: Setting, unless: str) -> tuple[str, dict[str, Any]]:
    """Name and arguments of a setting's option; ``unless`` says what else its default may be."""
    name = setting.option or setting.name.replace("_", "-")
    if setting.kind is bool:
        if setting.default:
            return f"no-{name}", {"action": "store_false", "help": f"write no {setting.help}"}
        return name, {"action": "store_true", "help": setting.help}
    choices = "{" + ",".join(map(str, setting.choices)) + "}" if setting.choices else None
    metavar = setting.metavar or choices or _METAVARS[setting.kind]
    arguments: dict[str, Any] = {"help": _help(setting, unless), "metavar": metavar}
    if setting.kind is dict:
        return name, {**arguments, "action": "append", "type": _parse_option}
    return name, {**arguments, "type": setting.kind, "nargs": "+" if setting.many else None}


def _help(setting: Setting, unless: str) -> str:
    default = setting.default
    if default in (None, {}):
        return f"{setting.help} (default: {setting.unset})"
    shown = " ".join(map(str, default)) if isinstance(default, list) else default
    return f"{setting.help} (default: {unless}{shown})"


def add_run(parser: argparse.ArgumentParser, command: str) -> None:
    """Add what every command has that runs a bundle over scans, at the end of its help."""
    add_overwrite(parser)
    add_trust(parser)
    add_device(parser)
    add_settings(parser, command)
    add_talk(parser)


def add_device(parser: argparse.ArgumentParser) -> None:
    """Add the option that says where to compute."""
    parser.add_argument("--device", metavar="{cuda,cpu}", help="where to compute (default: cuda where there is one)")


def add_overwrite(parser: argparse.ArgumentParser) -> None:
    """Add the option that lets other files be replaced."""
    parser.add_argument(
        "--overwrite",
        action="store_true",
        default=None,
        help="replace files that this program did not write, and other scans' results of the same name",
    )


def add_trust(parser: argparse.ArgumentParser) -> None:
    """Add the option that lets a bundle run its own configs."""
    parser.add_argument(
        "--trust-bundle",
        action="store_true",
        default=None,
        help="run the bundle's own configs, which are code, in place of this package's with the bundle's settings",
    )


def add_talk(parser: argparse.ArgumentParser) -> None:
    """Add what every command has, at the end of its help."""
    group = parser.add_argument_group("what is said")
    how_much = group.add_mutually_exclusive_group()
    how_much.add_argument("--quiet", action="store_true", default=None, help="print warnings and errors only")
    how_much.add_argument(
        "--verbose", action="store_true", default=None, help="print what MONAI and Ignite log as well"
    )
    group.add_argument("--log-file", metavar="FILE", help="add all that is said to this file, with the time")
    group.add_argument(
        "--config", metavar="FILE", help="YAML with the same names as these options, which win over it: image-size: 224"
    )
    group.add_argument("--debug", action="store_true", default=None, help="show the traceback of an error")


def _parse_option(text: str) -> tuple[str, Any]:
    """Read NAME=VALUE; a value that is no JSON is a string."""
    name, found, value = text.partition("=")
    if not name or not found:
        raise argparse.ArgumentTypeError(f"must be NAME=VALUE, got '{text}'")
    try:
        return name, json.loads(value)
    except json.JSONDecodeError:
        return name, value
