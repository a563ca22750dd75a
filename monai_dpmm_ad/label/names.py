# Copyright 2026 monai_dpmm_ad contributors. Licensed under the Apache License, Version 2.0.
"""Names that clients send: of studies, labels, tags and files. None of them may be a way out of a folder."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from enum import Enum
from typing import Any

from fastapi import HTTPException

from monai_dpmm_ad.data.paths import IMAGE_SUFFIXES, NIFTI_SUFFIXES, NRRD_SUFFIXES, has_suffix

__all__ = ["LABEL_SUFFIXES", "UPLOAD_SUFFIXES", "check_file_name", "check_name", "check_settings", "check_tag"]

#: Files that are taken as a study, and as a label of one.
UPLOAD_SUFFIXES = (*IMAGE_SUFFIXES, ".dcm", ".ima")
LABEL_SUFFIXES = (*NIFTI_SUFFIXES, *NRRD_SUFFIXES, ".png")
_MAX_BYTES = 200  # file systems take 255 with the suffix
#: What the server itself puts into a request; a client that sets it would choose files on the server's disk.
_RESERVED = ("model", "method", "strategy", "image", "images", "file", "session", "bundle_path", "datastore", "path")


def check_name(kind: str, name: str) -> None:
    """Refuse what is no plain name.

    Args:
        kind: what the name stands for, for the reason.
        name: of a study, a label, a session or a file.

    Raises:
        HTTPException: 400.
    """
    is_plain = name and name.isprintable() and not set(name) & set("/\\") and not name.startswith(".")
    if not is_plain or len(name.encode("utf-8", "surrogatepass")) > _MAX_BYTES:
        shown = ascii(name if len(name) <= 60 else f"{name[:57]}...")
        raise HTTPException(400, f"`{kind}` must be a plain name without folders, got {shown}.")


def check_tag(tag: str) -> None:
    """Refuse what is no name of a folder of labels.

    Raises:
        HTTPException: 400.
    """
    if not re.fullmatch(r"[A-Za-z0-9_-]{1,40}", tag):
        raise HTTPException(400, f"`tag` must be letters, digits, - and _, got {tag[:60]!a}. Take final.")


def check_file_name(name: str, suffixes: Iterable[str]) -> None:
    """Refuse an upload whose name leads elsewhere or is of no kind that is read.

    Raises:
        HTTPException: 400 for the name, 415 for the kind.
    """
    check_name("file name", name)
    suffixes = tuple(suffixes)
    if not has_suffix(name, suffixes):
        raise HTTPException(415, f"An uploaded file must end in one of {', '.join(suffixes)}, got {name[-60:]!a}.")


def check_settings(settings: Mapping[str, Any]) -> None:
    """Refuse settings that would take the place of what the server puts into a request.

    Raises:
        HTTPException: 400.
    """
    for name in settings:
        if name.lower() in _RESERVED:
            raise HTTPException(400, f"`{name}` must be given in the address, not among the parameters.")
    tag = settings.get("label_tag")
    if tag is not None:
        check_tag(tag.value if isinstance(tag, Enum) else str(tag))
