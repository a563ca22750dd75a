# Copyright 2026 monai_dpmm_ad contributors. Licensed under the Apache License, Version 2.0.
"""Errors as the client sees them: a 4xx status and ``{"detail": reason}`` instead of MONAI Label's bare 500."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

from fastapi import HTTPException

from monai_dpmm_ad.errors import ScanError, find_user_error

__all__ = ["refuse_unknown", "refusing"]


@contextmanager
def refusing() -> Iterator[None]:
    """Turn what the block raises into an answer.

    Raises:
        HTTPException: 422 for a scan that cannot be processed, 400 for a wrong parameter, 503 for a bundle that cannot
            be used.
    """
    try:
        yield
    except HTTPException:
        raise
    except Exception as error:
        cause = find_user_error(error)
        if cause is None:
            raise
        raise HTTPException(_status(cause), str(cause)) from error


def _status(error: BaseException) -> int:
    if isinstance(error, ScanError):
        return 422
    return 400 if isinstance(error, (ValueError, TypeError)) else 503


def refuse_unknown(kind: str, name: object, known: Iterable[str]) -> None:
    """Refuse a name that the server does not have.

    Args:
        kind: what the name stands for: ``model``, ``image``, ….
        name: of the request.
        known: what the server has; too many to list, so only the nearest is named.

    Raises:
        HTTPException: 404.
    """
    known = list(known)
    if name in known:
        return
    nearest = difflib.get_close_matches(str(name), known, n=1)
    hint = f" Did you mean '{nearest[0]}'?" if nearest else ""
    raise HTTPException(404, f"`{kind}` must be one that the server has, got '{name}'.{hint}")
