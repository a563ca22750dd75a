# Copyright 2026 monai_dpmm_ad contributors. Licensed under the Apache License, Version 2.0.
"""Options of a command from a YAML file, with the same names as on the command line."""

from __future__ import annotations

import argparse
import difflib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from monai_dpmm_ad.utils.files import PathLike

__all__ = ["read_options"]


def read_options(path: PathLike, parser: argparse.ArgumentParser) -> list[str]:
    """Read a command's options as the words that would give them on the command line.

    Every value is read as text: ``normative: off`` is the word and not YAML's false, ``1e-3`` is what it is on the
    command line.

    Args:
        path: of the file; ``NAME: VALUE``, a list for several values, ``true`` or ``false`` for a switch.
        parser: of the command.

    Raises:
        OSError: when the file cannot be read.
        ValueError: when it is no such file, or names an option that the command has not.
    """
    try:
        content = yaml.load(Path(path).read_text(encoding="utf-8"), Loader=yaml.BaseLoader)  # makes nothing but text
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ValueError(f"{path}: is no YAML, {' '.join(str(error).split())}") from error
    if content is None:
        return []
    if not isinstance(content, Mapping):
        raise ValueError(f"{path}: must hold lines of the form NAME: VALUE, with the names of options.")
    options = {option.removeprefix("--"): action for action in parser._actions for option in action.option_strings}
    words: list[str] = []
    for name, value in content.items():
        name = name.replace("_", "-")
        if name not in options or name == "config":
            nearest = difflib.get_close_matches(name, options, n=1)
            hint = f" Did you mean `{nearest[0]}`?" if nearest else ""
            raise ValueError(f"{path}: `{name}` is no option of {parser.prog}.{hint}")
        words += _write_option(path, name, value, is_switch=options[name].nargs == 0)
    return words


def _write_option(path: PathLike, name: str, value: Any, is_switch: bool) -> list[str]:
    if is_switch:
        if value not in ("true", "false"):
            raise ValueError(f"{path}: `{name}` must be true or false, got {value!r}.")
        return [f"--{name}"] if value == "true" else []
    if isinstance(value, Mapping):
        return [f"--{name}={key}={item}" for key, item in value.items()]
    if isinstance(value, list) and value and all(isinstance(item, str) for item in value):
        return [f"--{name}", *value]
    if not isinstance(value, str) or not value:
        raise ValueError(f"{path}: `{name}` must have a value or a list of values, got {value!r}.")
    return [f"--{name}={value}"]
