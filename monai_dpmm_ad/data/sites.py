# Copyright 2026 monai_dpmm_ad contributors. Licensed under the Apache License, Version 2.0.
"""Names of sites: which of them are one, however people wrote them."""

from __future__ import annotations

import unicodedata
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

__all__ = ["MOST_SITES", "check_site", "find_site", "list_sites"]

#: Sites that a fit tells apart: a normative map stays below 10 MB.
MOST_SITES = 19
_LONGEST_NAME = 64


def list_sites(people: Iterable[Mapping[str, Any]]) -> tuple[str, ...]:
    """The names of people's sites, in alphabetical order; none where there are not two.

    Names that differ in case or blanks only are one site, called as most of its people have it.

    Example:
        >>> list_sites([{"site": "Guys"}, {"site": "IOP"}, {"site": "guys "}, {"site": "Guys"}])
        ('Guys', 'IOP')
    """
    spellings: dict[str, Counter[str]] = defaultdict(Counter)
    for person in people:
        if isinstance(person.get("site"), str):
            spellings[_key(person["site"])][" ".join(person["site"].split())] += 1
    names = sorted(min(found, key=lambda name: (-found[name], name)) for found in spellings.values())
    return tuple(names) if len(names) > 1 else ()


def find_site(name: Any, sites: Sequence[str]) -> int | None:
    """Number of the site that a name means, None of one that is not among them; see :func:`list_sites`."""
    if not isinstance(name, str):
        return None
    if name in sites:  # bundles that were fitted before had sites that differ in case
        return sites.index(name)
    return next((number for number, site in enumerate(sites) if _key(site) == _key(name)), None)


def _key(name: str) -> str:
    return " ".join(unicodedata.normalize("NFKC", name).casefold().split())


def check_site(name: str) -> str:
    """Hand on a name that can be a site's.

    Raises:
        ValueError: when it is empty, too long, begins with neither letter nor digit, or cannot be printed.

    Example:
        >>> check_site("North 3T")
        'North 3T'
    """
    if not 0 < len(name) <= _LONGEST_NAME or not name.isprintable() or not name[0].isalnum():
        raise ValueError(
            f"`site` must be a name of {_LONGEST_NAME} characters at most that begins with a letter or digit, got "
            f"{name!r}."
        )
    return name
