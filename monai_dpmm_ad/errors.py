# Copyright 2026 monai_dpmm_ad contributors. Licensed under the Apache License, Version 2.0.
"""Errors that the package raises beyond ``ValueError`` and ``TypeError``."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

__all__ = [
    "SCAN_ERRORS",
    "CheckpointError",
    "EmbeddingStoreError",
    "NotFittedError",
    "ScanError",
    "find_behind",
    "find_scan_error",
    "find_user_error",
    "naming_scan",
    "source_of",
    "telling_user",
    "unknown_option",
]

Error = TypeVar("Error", bound=BaseException)


#: What reading, mapping or saving a scan may raise because of the scan; anything else is a mistake of ours.
SCAN_ERRORS = (ValueError, RuntimeError, OSError, MemoryError)


class NotFittedError(RuntimeError):
    """A method that needs a fitted model was called before ``fit``.

    Example:
        >>> import torch
        >>> from monai_dpmm_ad import DirichletProcessMixture
        >>> DirichletProcessMixture(num_components=8, embed_dim=4).cosine_distance(torch.randn(2, 4))
        Traceback (most recent call last):
            ...
        monai_dpmm_ad.errors.NotFittedError: ...
    """


class CheckpointError(RuntimeError):
    """A bundle, checkpoint or backbone on disk is incomplete, damaged or does not belong here.

    Example:
        >>> from monai_dpmm_ad import AnomalyModel
        >>> AnomalyModel.load("no_such_bundle")
        Traceback (most recent call last):
            ...
        monai_dpmm_ad.errors.CheckpointError: ...no_such_bundle: is no bundle of this package, ... Make one with fit.
    """


class EmbeddingStoreError(RuntimeError):
    """An embedding store on disk is damaged or was written with another backbone or preprocessing.

    Example:
        >>> import tempfile
        >>> from monai_dpmm_ad.embedding.store import EmbeddingStore
        >>> EmbeddingStore(tempfile.mkdtemp())
        Traceback (most recent call last):
            ...
        monai_dpmm_ad.errors.EmbeddingStoreError: ...
    """


class ScanError(ValueError):
    """One scan cannot be processed; the others still can.

    Args:
        path: the file or folder at fault.
        reason: what is wrong with it, one line, without a full stop.

    Example:
        >>> error = ScanError("scans/a.nii.gz", "is empty")
        >>> str(error), error.path, error.reason
        ('scans/a.nii.gz: is empty', 'scans/a.nii.gz', 'is empty')
    """

    def __init__(self, path: object, reason: str) -> None:
        super().__init__(f"{path}: {reason}")
        self.path = str(path)
        self.reason = reason

    def __reduce__(self) -> tuple[type[ScanError], tuple[str, str]]:
        # The default would call ScanError with the joined message: worker processes pickle exceptions.
        return type(self), (self.path, self.reason)


def unknown_option(name: str, got: object, options: Iterable[str]) -> ValueError:
    """Make the error for an option that is not among the valid ones, with the nearest match.

    Args:
        name: the argument's name.
        got: what the user passed.
        options: the valid values.

    Returns:
        A ``ValueError`` to raise.
    """
    valid = sorted(options)
    nearest = difflib.get_close_matches(str(got), valid, n=1)
    hint = f" Did you mean '{nearest[0]}'?" if nearest else ""
    return ValueError(f"`{name}` must be one of {', '.join(valid)}, got '{got}'.{hint}")


#: What users can cause. Anything else is our mistake and keeps its traceback.
_EXPECTED = (ValueError, TypeError, OSError, CheckpointError, EmbeddingStoreError, NotFittedError, ImportError)


def find_user_error(error: BaseException | None) -> BaseException | None:
    """Find the outermost error that a user can cause: MONAI's config parser wraps in ``RuntimeError`` what it runs."""
    while error is not None and not isinstance(error, _EXPECTED):
        error = error.__cause__
    return error


@contextmanager
def telling_user() -> Iterator[None]:
    """Raise what a user can cause by itself, without MONAI's ``RuntimeError`` around it, which quotes the config.

    Example:
        >>> with telling_user():
        ...     raise RuntimeError("Failed to evaluate ConfigExpression") from ValueError("`a` must be 1, got 2.")
        Traceback (most recent call last):
        ValueError: `a` must be 1, got 2.
    """
    try:
        yield
    except RuntimeError as error:
        known = find_behind(error, KeyboardInterrupt) or find_user_error(error)
        if known is None or known is error:
            raise
        raise known from known.__cause__


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
    return find_behind(error, ScanError)


def find_behind(error: BaseException | None, kind: type[Error]) -> Error | None:
    """Find an exception of a kind among one and those that it was raised from; None when there is none."""
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        if isinstance(error, kind):
            return error
        seen.add(id(error))
        error = error.__cause__ or error.__context__
    return None
