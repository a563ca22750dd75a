# Copyright 2026 monai_dpmm_ad contributors. Licensed under the Apache License, Version 2.0.
"""What tells people apart, and the group that each is in."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from monai_dpmm_ad.data.sites import find_site, list_sites

__all__ = ["COVARIATES", "find_columns", "find_group", "find_thirds", "name_groups", "require_columns"]

#: What can be known of a person.
COVARIATES = ("age", "sex", "site")
_LEAST_SPREAD = 1e-6


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
