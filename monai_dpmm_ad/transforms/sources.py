# Copyright 2026 monai_dpmm_ad contributors. Licensed under the Apache License, Version 2.0.
"""Which file an image in memory came from, so that an error can name it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from monai_dpmm_ad.errors import ScanError

__all__ = ["find_scan_error", "naming_scan", "source_of"]


def source_of(image: Any) -> str:
    """Return the file that an image was loaded from.

    Args:
        image: a ``MetaTensor`` from a loader; anything else has no source.

    Returns:
        The path, or the scan's name, or "image" when neither is known.
    """
    meta = getattr(image, "meta", None) or {}
    return str(meta.get("filename_or_obj") or meta.get("name") or "image")


@contextmanager
def naming_scan(image: Any) -> Iterator[None]:
    """Turn a ``ValueError`` about an image's content into a ``ScanError`` that names the image's file.

    Args:
        image: the image that the block works on.

    Raises:
        ScanError: in place of any ``ValueError`` of the block.
    """
    try:
        yield
    except ScanError:
        raise
    except ValueError as error:
        raise ScanError(source_of(image), str(error).rstrip(".")) from error


def find_scan_error(error: BaseException) -> ScanError | None:
    """Find the ``ScanError`` behind an exception.

    ``monai.transforms.Compose`` and the data loaders raise their own ``RuntimeError`` from whatever a transform raised.

    Args:
        error: a caught exception.

    Returns:
        The ``ScanError`` itself or the one it was raised from, ``None`` when there is none.
    """
    seen: set[int] = set()
    current: BaseException | None = error
    while current is not None and id(current) not in seen:
        if isinstance(current, ScanError):
            return current
        seen.add(id(current))
        current = current.__cause__ or current.__context__
    return None
