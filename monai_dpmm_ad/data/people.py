# Copyright 2026 monai_dpmm_ad contributors. Licensed under the Apache License, Version 2.0.
"""What tells people apart, and the group that each is in."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any

import numpy as np

from monai_dpmm_ad.data.sites import check_site, find_site, list_sites

__all__ = [
    "COVARIATES",
    "check_person",
    "find_columns",
    "find_group",
    "find_thirds",
    "name_groups",
    "read_value",
    "require_columns",
]

#: What can be known of a person.
COVARIATES = ("age", "sex", "site")
_LEAST_SPREAD = 1e-6
_UNKNOWN = ("", "n/a", "na", "nan", "none", "unknown")
_SEXES = {"m": "M", "male": "M", "f": "F", "female": "F", "o": None, "other": None}
_EXPECTED = {"sex": "M or F or n/a", "age": "years or n/a", "site": "a name of letters and digits or n/a"}


def check_person(told: Any) -> dict[str, float | str | None]:
    """Read what is told of a person: an object of ``age``, ``sex`` and ``site``, or JSON text of one; None is nothing.

    Other keys are the user's own, as other columns of a table are.

    Raises:
        ValueError: it is none, or a value means nothing.

    Example:
        >>> check_person({"age": 50, "sex": "male"})
        {'age': 50.0, 'sex': 'M'}
    """
    person = told
    with suppress(ValueError):
        person = json.loads(told) if isinstance(told, str) and told else told or {}
    if not isinstance(person, Mapping):
        raise ValueError(f"`covariates` must be an object of {', '.join(COVARIATES)}, got {str(told)[:80]!r}.")
    known = {str(name).lower(): value for name, value in person.items()}
    found = {}
    for column, value in ((name, known[name]) for name in COVARIATES if name in known):
        try:
            found[column] = read_value(column, value)
        except ValueError as error:
            raise ValueError(f"`covariates` must have as {column} {error}, got {str(value)[:80]!r}.") from error
    return found


def read_value(column: str, value: Any) -> float | str | None:
    """Read an age in years, a sex, M or F, or the name of a site; None where it is not known.

    Raises:
        ValueError: saying what is expected.
    """
    text = "" if value is None else str(value).strip()
    word = text.lower()
    if word in _UNKNOWN:
        return None
    try:
        if column == "sex":
            return _SEXES[word]
        if column == "site":
            return check_site(text)
        age = float(word.replace(",", "."))  # a comma can only be left in a cell where it does not divide them
        if 0 <= age <= 130 and "_" not in word:
            return age
    except (KeyError, ValueError):
        pass
    raise ValueError(_EXPECTED[column])


def find_columns(people: Sequence[Mapping[str, Any]]) -> tuple[str, ...]:
    """The columns that tell people apart.

    Example:
        >>> find_columns([{"age": 70.0, "sex": "F", "site": "north"}, {"age": 50.0, "sex": "F", "site": "north"}])
        ('age',)
    """
    ages = [person["age"] for person in people if person.get("age") is not None]
    sexes = {person["sex"] for person in people if person.get("sex") is not None}
    tell = {
        "age": bool(ages) and float(np.std(ages)) > _LEAST_SPREAD,
        "sex": len(sexes) > 1,
        "site": bool(list_sites(people)),
    }
    return tuple(name for name in COVARIATES if tell[name])


def require_columns(people: Sequence[Mapping[str, Any]]) -> tuple[str, ...]:
    """As :func:`find_columns`.

    Raises:
        ValueError: nobody's age, sex or site is known, or all are alike.
    """
    columns = find_columns(people)
    if not columns:
        raise ValueError(
            f"`covariates` must tell the fitted people apart, got {len(people)} of whom no two differ in a known age, "
            "sex or site. Fit without covariates."
        )
    return columns


def find_thirds(people: Sequence[Mapping[str, Any]]) -> tuple[float, float]:
    """The ages between thirds of people; 0 where nobody's is known."""
    ages = [person["age"] for person in people if person.get("age") is not None]
    low, high = np.quantile(ages, [1 / 3, 2 / 3]).tolist() if ages else (0.0, 0.0)
    return low, high


def find_group(by: str, person: Mapping[str, Any], edges: tuple[float, float], sites: Sequence[str] = ()) -> str | None:
    """The name of a person's group: the sex, the site, or a third by age; None where that is not known."""
    value = person.get(by)
    if value is None:
        return None
    names = name_groups(by, edges, sites)
    if by == "age":
        return names[sum(value > edge for edge in edges)]
    if by == "site":
        number = find_site(value, sites)
        return None if number is None else names[number]
    return str(value) if value in names else None


def name_groups(by: str, edges: tuple[float, float], sites: Sequence[str] = ()) -> tuple[str, ...]:
    """The names of all groups."""
    low, high = edges
    ages = (f"age to {low:.4g}", f"age {low:.4g} to {high:.4g}", f"age from {high:.4g}")
    return {"sex": ("F", "M"), "site": tuple(f"site {name}" for name in sites), "age": ages}[by]
