# Copyright 2026 monai_dpmm_ad contributors. Licensed under the Apache License, Version 2.0.
"""The parts of a data set and the words that data sets use for them."""

from __future__ import annotations

__all__ = ["SECTIONS", "canonical_section"]

SECTIONS = {
    "train": ("train", "training"),
    "valid": ("valid", "validation", "val"),
    "test": ("test", "testing"),
}


def canonical_section(name: str) -> str:
    """Return ``train``, ``valid`` or ``test`` for any word that means it; other names in lower case."""
    return next((key for key, synonyms in SECTIONS.items() if name.lower() in synonyms), name.lower())
