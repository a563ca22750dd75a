# Copyright 2026 monai_dpmm_ad contributors. Licensed under the Apache License, Version 2.0.
"""Names of sites: which of them are one, however people wrote them."""

from __future__ import annotations

import unicodedata
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

__all__ = ["MOST_SITES", "find_site", "list_sites"]

#: Sites that a fit tells apart: a normative map stays below 10 MB.
MOST_SITES = 19


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
