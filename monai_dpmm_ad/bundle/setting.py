# Copyright 2026 monai_dpmm_ad contributors. Licensed under the Apache License, Version 2.0.
"""What one setting of a bundle is: its type, what it may be, who decides it, how the command line asks for it."""

from __future__ import annotations

import difflib
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from monai_dpmm_ad.errors import unknown_option

__all__ = ["ROLES", "Setting", "find_nearest", "refuse_expressions", "unknown_setting"]

#: Who decides a setting: the fit for good, so that the bundle keeps it (model); the fit alone (fit); each run of a
#: fitted bundle (run); the fit and each run anew (both).
ROLES = ("model", "fit", "run", "both")

_NAMES = {int: "a whole number", float: "a number", str: "a text", bool: "true or false", dict: "a dictionary"}


@dataclass(frozen=True)
class Setting:
    """One setting, declared once; parser, configs, checks and lists follow from it.

    Args:
        name: in ``settings`` of a config, as argument of a command, and with dashes as option of the command line.
        default: its value where nobody gives one; None makes it optional.
        help: what it is, in the words of the command line; default and choices are added to it.
        role: one of :data:`ROLES`.
        kind: type of the value, or of each value of a list.
        many: whether it is a list of one value or more.
        optional: whether it may be None although its default is not.
        choices: the values that it may have; empty for any.
        words: texts that it may be in place of values of its kind.
        interval: where its numbers lie, such as ``(0, 1]``.
        commands: which commands have an option for it.
        option: name of that option where it is another than the setting's; of a switch it says what it changes.
        metavar: what stands for the value in the help.
        unset: what holds where nothing is given and the default is None, in the words of the help.
        embeds: whether it changes what is embedded, so that a store of embeddings is another with another value.
        fixed: whether an update of a bundle must keep it.
        outputs: whether it changes what a run writes, so that a scan is done again where it has changed.
    """

    name: str
    default: Any
    help: str
    role: str
    kind: type = str
    many: bool = False
    optional: bool = False
    choices: tuple[Any, ...] = ()
    words: tuple[str, ...] = ()
    interval: str = ""
    commands: tuple[str, ...] = ()
    option: str = ""
    metavar: str | None = None
    unset: str = ""
    embeds: bool = False
    fixed: bool = False
    outputs: bool = True

    def check(self, value: Any) -> Any:
        """Check a value.

        Args:
            value: as a user or a file gives it.

        Returns:
            The value; a tuple as a list, as JSON has it.

        Raises:
            ValueError: a wrong type, what lies out of range or is none of the choices, and anything that MONAI would
                run in a config.
        """
        refuse_expressions(self.name, value)
        if value is None and (self.optional or self.default is None):
            return None
        if isinstance(value, str) and value in self.words:
            return value
        if not self.many:
            return self._check_one(value)
        if self.kind is str and isinstance(value, str):
            value = [value]
        if not isinstance(value, (list, tuple)) or not value:
            raise ValueError(f"`{self.name}` must be a list of {self._describe()}, got {value!r}.")
        return [self._check_one(item) for item in value]

    def _check_one(self, value: Any) -> Any:
        if not self._is_kind(value):
            raise ValueError(f"`{self.name}` must be {self._describe()}, got {value!r}.")
        if self.choices and value not in self.choices:
            raise unknown_option(self.name, value, map(str, self.choices))
        if self.interval and not _lies_in(self.interval, value):
            raise ValueError(f"`{self.name}` must lie in {self.interval}, got {value}.")
        return value

    def _is_kind(self, value: Any) -> bool:
        if self.kind is float:
            return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
        if self.kind is dict:
            return isinstance(value, Mapping)
        return isinstance(value, self.kind) and (self.kind is bool or not isinstance(value, bool))

    def _describe(self) -> str:
        what = _NAMES[self.kind] + (f" in {self.interval}" if self.interval else "")
        return " or ".join([what, *self.words, *(["None"] if self.optional or self.default is None else [])])


def _lies_in(interval: str, value: float) -> bool:
    low, high = (float(end) for end in interval[1:-1].split(","))
    above = value > low if interval[0] == "(" else value >= low
    return above and (value < high if interval[-1] == ")" else value <= high)


def refuse_expressions(name: str, value: Any) -> None:
    """Refuse what MONAI would run in a config: expressions and references at any depth, and keys such as ``_target_``.

    Args:
        name: of the value, for the error.
        value: meant to be plain: numbers, texts, lists, dictionaries.

    Raises:
        ValueError: naming what would run.
    """
    if isinstance(value, str) and value.startswith(("$", "@", "%")):
        raise ValueError(f"`{name}` must not begin with {value[0]}, got '{value}'. Write ./{value} for a path.")
    if isinstance(value, Mapping):
        for key, item in value.items():
            if not str(key).isidentifier() or str(key).startswith("_"):
                raise ValueError(f"`{name}` must have plain names as keys, got '{key}'.")
            refuse_expressions(name, item)
    elif isinstance(value, (list, tuple)):
        for item in value:
            refuse_expressions(name, item)


def find_nearest(name: str, settings: Iterable[Setting], others: Iterable[str] = ()) -> str | None:
    """Find the setting, or another name, that was meant: by its name or by its option's of the command line.

    Args:
        name: that was given.
        settings: that there are.
        others: names that there are beside them.

    Example:
        >>> find_nearest("min_region", [Setting("min_region_volume", 0.0, "", "run", option="min-region")])
        'min_region_volume'
    """
    names = {other: other for other in others}
    for setting in settings:
        names |= {option: setting.name for option in (setting.name, setting.option.replace("-", "_")) if option}
    nearest = difflib.get_close_matches(name.removeprefix("no_"), names, n=1)
    return names[nearest[0]] if nearest else None


def unknown_setting(name: str, known: Sequence[Setting], way: str) -> ValueError:
    """Say that there is no such setting, and what was meant.

    Args:
        name: that was given.
        known: settings that there are.
        way: ``fit`` or ``run``.
    """
    nearest = find_nearest(name, known)
    hint = f"Did you mean `{nearest}`?" if nearest else f"There are {', '.join(setting.name for setting in known)}."
    return ValueError(f"`{name}` is no setting of a {way}. {hint}")
