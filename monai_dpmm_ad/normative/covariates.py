# Copyright 2026 monai_dpmm_ad contributors. Licensed under the Apache License, Version 2.0.
"""A person's age, sex and site as numbers that a model can use, and the group that they put them in."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from monai_dpmm_ad.data.people import find_columns, find_thirds, require_columns
from monai_dpmm_ad.data.sites import find_site, list_sites

__all__ = ["COHORT_MEAN", "FITTED_AGES", "NUM_TERMS", "Design", "Traits"]

#: Whom somebody is judged as of whom nothing is known.
COHORT_MEAN = "the cohort's mean"
#: What stands behind an age that was not fitted, before those that were.
FITTED_AGES = " (fitted "
#: Age, its square, sex.
NUM_TERMS = 3


class Traits(NamedTuple):
    """A person's ``(3,)`` terms in a linear model, and the number of the site, None of one that was not fitted."""

    terms: NDArray[np.float64]
    site: int | None = None


class Design(nn.Module):
    """The terms of people in a linear model, about 0 in the mean of those that were fitted, of spread about 1.

    With a the age in spreads from the mean age, clipped to the ages that were fitted, and s the sex (F 0, M 1)
    likewise, the terms are a, (a² − 1) / √2 and s. What is not known is 0: the person counts as the mean. A column in
    which all are alike says nothing and is not asked for later.

    Attributes:
        sites: the names of the sites that were fitted; their order is that of their numbers.
    """

    age: Tensor  # mean, spread, lowest, highest, and the edges between thirds
    sex: Tensor  # mean, spread

    def __init__(self) -> None:
        super().__init__()
        self.sites: tuple[str, ...] = ()
        self.register_buffer("age", torch.zeros(6, dtype=torch.float64))
        self.register_buffer("sex", torch.zeros(2, dtype=torch.float64))

    @property
    def names(self) -> tuple[str, ...]:
        """The columns that a table must have."""
        return (*self.linear, *(("site",) if self.sites else ()))

    @property
    def linear(self) -> tuple[str, ...]:
        """Those of them that are terms of a linear model."""
        return tuple(name for name, known in (("age", self.age), ("sex", self.sex)) if float(known[1]) > 0)

    def observe(self, people: Sequence[Mapping[str, Any]]) -> None:
        """Learn what is usual from the people that are fitted, all of them at once.

        Raises:
            ValueError: nobody's age, sex or site is known, or all are alike, and no sites are given.
        """
        columns = find_columns(people) if self.sites else require_columns(people)
        ages = np.array([person["age"] for person in people if person.get("age") is not None], float)
        sexes = np.array([person["sex"] == "M" for person in people if person.get("sex") is not None], float)
        if "age" in columns:
            usual = (ages.mean(), ages.std(), ages.min(), ages.max())
            self.age.copy_(torch.tensor([*usual, *find_thirds(people)], dtype=torch.float64))
        if "sex" in columns:
            self.sex.copy_(torch.tensor([sexes.mean(), sexes.std()], dtype=torch.float64))
        self.sites = self.sites or list_sites(people)

    def traits(self, person: Mapping[str, Any]) -> Traits:
        """What a person is in the model."""
        return Traits(self._terms(person), find_site(person.get("site"), self.sites))

    def _terms(self, person: Mapping[str, Any]) -> NDArray[np.float64]:
        terms = np.zeros(NUM_TERMS)
        age, sex = person.get("age"), person.get("sex")
        if age is not None and "age" in self.names:
            mean, spread, low, high = self.age[:4].tolist()
            a = (min(max(age, low), high) - mean) / spread
            terms[:2] = a, (a**2 - 1) / np.sqrt(2)
        if sex is not None and "sex" in self.names:
            mean, spread = self.sex.tolist()
            terms[2] = ((sex == "M") - mean) / spread
        return terms

    def traits_if_known(self, person: Mapping[str, Any]) -> Traits | None:
        """As :meth:`traits`; None for a person of whom neither age nor sex is known."""
        return self.traits(person) if any(person.get(name) is not None for name in self.linear) else None

    def describe(self, person: Mapping[str, Any]) -> str:
        """What of a person was taken into account, in words."""
        words = []
        for name in self.names:
            value = person.get(name)
            words.append(f"{name} not known: {COHORT_MEAN}" if value is None else f"{name} {_short(value)}")
            if name == "age" and value is not None and not self.age[2] <= value <= self.age[3]:
                words[-1] += f"{FITTED_AGES}{self.age[2]:.0f} to {self.age[3]:.0f})"
            if name == "site" and value is not None and find_site(value, self.sites) is None:
                words[-1] += f" not fitted: {COHORT_MEAN}"
        return ", ".join(words)

    @property
    def thirds(self) -> tuple[float, float]:
        """The ages between thirds of the people that were fitted."""
        low, high = self.age[4:].tolist()
        return low, high


def _short(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)
