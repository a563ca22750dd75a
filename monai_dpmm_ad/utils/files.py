# Copyright 2026 monai_dpmm_ad contributors. Licensed under the Apache License, Version 2.0.
"""Write files so that no half-written one is ever seen under its final name."""

from __future__ import annotations

import csv
import ctypes
import errno
import hashlib
import io
import json
import os
import re
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from filelock import BaseFileLock, FileLock, Timeout
from safetensors import SafetensorError

from monai_dpmm_ad.utils.text import printable

__all__ = [
    "LOCK",
    "PARTIAL",
    "Claim",
    "PathLike",
    "claims",
    "exchange_folders",
    "file_sha256",
    "lock_folder",
    "partial_prefix",
    "read_json",
    "remove_file",
    "replace_file",
    "save_state",
    "spreadsheet_safe",
    "write_csv",
    "write_json",
]

PathLike = str | os.PathLike[str]

#: What the name of a file begins with until it is complete.
PARTIAL = ".partial-dpmm-ad-"
#: A file by which a folder is locked.
LOCK = ".lock"
#: What a formula begins with, in full width too.
_FORMULAS = ("=", "+", "-", "@", "\uff1d", "\uff0b", "\uff0d", "\uff20")
#: How ``torch.save`` says that the disk is full.
_ZIP_WRITER = re.compile("inline_container|PytorchStreamWriter|PytorchFileWriter")


class Claim(Protocol):
    """Who may replace what in a folder; see :class:`~monai_dpmm_ad.utils.outputs.OutputFolder`."""

    path: Path

    def check(self, path: Path, owner: str) -> None:
        """Raise `FileExistsError` where a path must stay as it is."""

    def record(self, path: Path, digest: str, owner: str) -> None:
        """Write down what a path is about to hold."""


#: The folders that this process holds: whatever is written into one passes by its claim.
claims: list[Claim] = []


def replace_file(path: str | os.PathLike[str], write: Callable[[Path], object], owner: str = "") -> None:
    """Let ``write`` fill a temporary file beside ``path``, bring it to the disk, then rename it.

    Args:
        path: the final name; its folder is made if needed.
        write: called with the temporary path, which keeps all suffixes of the final name.
        owner: the scan that the file is of, where it is of one.

    Raises:
        OSError: whatever the file system answers, with ``path`` as its file name; the temporary file is removed and
            ``path`` is as it was.
        FileExistsError: when ``path`` lies in a folder that this process holds and is not ours to replace.
    """
    path = Path(path)
    try:
        claim = _claim_on(path)
        if claim is not None:
            claim.check(path, owner)
        _replace(path, write, claim, owner)
    except OSError as error:
        raise OSError(error.errno, error.strerror or str(error), str(path)) from error
    except (RuntimeError, SafetensorError) as error:
        if isinstance(error.__context__, KeyboardInterrupt):  # the writer complains of what it could not end
            raise error.__context__ from None
        reason = str(error).splitlines()[0]
        if isinstance(error, SafetensorError) or _ZIP_WRITER.search(reason):
            raise OSError(errno.EIO, f"cannot be written, is the disk full? ({reason})", str(path)) from error
        raise


def remove_file(path: str | os.PathLike[str], owner: str = "") -> None:
    """Remove a file of an earlier run, where it is there.

    Args:
        path: the file.
        owner: the scan that it is of, where it is of one.

    Raises:
        FileExistsError: as `replace_file`.
    """
    path = Path(path)
    claim = _claim_on(path)
    if claim is not None:
        claim.check(path, owner)
    path.unlink(missing_ok=True)


def _claim_on(path: Path) -> Claim | None:
    """The innermost of the claims on a path."""
    absolute = Path(os.path.abspath(path))
    found = [claim for claim in claims if absolute.is_relative_to(claim.path)]
    return max(found, key=lambda claim: len(claim.path.parts), default=None)


def _replace(path: Path, write: Callable[[Path], object], claim: Claim | None, owner: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(prefix=partial_prefix(path), suffix="".join(path.suffixes[-2:]), dir=path.parent)
    os.close(handle)
    temporary = Path(name)
    try:
        write(temporary)
        _sync(temporary, os.O_RDWR)
        os.chmod(temporary, 0o666 & ~_umask())
        if claim is not None:
            claim.record(path, file_sha256(temporary), owner)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    if hasattr(os, "O_DIRECTORY"):  # the new name itself must survive a power failure
        _sync(path.parent, os.O_RDONLY | os.O_DIRECTORY)


def partial_prefix(path: Path) -> str:
    """What the temporary files and folders of a path begin with, short however long its name is."""
    return PARTIAL + hashlib.sha256(os.fsencode(path.name)).hexdigest()[:12] + "-"


def _sync(path: Path, flags: int) -> None:
    handle = os.open(path, flags)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def save_state(path: str | os.PathLike[str], state: Mapping[str, Any]) -> None:
    """Write a state dict with ``torch.save``: the same state gives the same bytes, whatever the file is called.

    Raises:
        OSError: as `replace_file`.
    """
    import torch

    def write(temporary: Path) -> None:
        with temporary.open("wb") as file:  # given a name, torch.save would write it into the file
            torch.save(state, file)

    replace_file(path, write)


def lock_folder(folder: PathLike) -> BaseFileLock:
    """Keep other writers out of a folder for as long as this process lives; the kernel lets go when it dies.

    Args:
        folder: gets a file ``.lock``.

    Returns:
        The lock, to be released when done.

    Raises:
        BlockingIOError: when another writer has it.
    """
    lock = FileLock(Path(folder) / LOCK, thread_local=False)
    try:
        lock.acquire(blocking=False)
    except Timeout as error:
        raise BlockingIOError(errno.EAGAIN, "is being written to by another process", str(folder)) from error
    return lock


def file_sha256(path: str | os.PathLike[str]) -> str:
    """SHA-256 of a file, 64 hexadecimal digits."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def read_json(path: PathLike, max_bytes: int | None = None) -> Any:
    """Read JSON that may be missing, damaged or somebody else's.

    Args:
        path: the file.
        max_bytes: larger files are refused unread.

    Raises:
        ValueError: naming the file and the reason, without a full stop, whatever is wrong with it.
    """
    try:
        size = Path(path).stat().st_size
        if max_bytes is not None and size > max_bytes:
            raise ValueError(f"it has {size} bytes, more than {max_bytes}")
        return json.loads(Path(path).read_text(encoding="utf-8-sig"))  # with a byte order mark or without
    except FileNotFoundError as error:
        raise ValueError(f"{path}: is missing") from error
    except (OSError, ValueError, RecursionError) as error:
        raise ValueError(f"{path}: is not a readable JSON file ({error})") from error


def write_json(path: str | os.PathLike[str], content: Any) -> None:
    """Write JSON, indented, keys in the order given."""
    text = json.dumps(content, indent=2, allow_nan=False) + "\n"
    replace_file(path, lambda temporary: temporary.write_text(text, encoding="utf-8"))


def write_csv(path: str | os.PathLike[str], header: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
    """Write a table; None becomes an empty cell and text that a spreadsheet would run as a formula is quoted."""
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(header)
    writer.writerows([["" if cell is None else spreadsheet_safe(cell) for cell in row] for row in rows])
    replace_file(path, lambda temporary: temporary.write_text(buffer.getvalue(), encoding="utf-8"))


def spreadsheet_safe(cell: Any) -> Any:
    """Put an apostrophe before text that begins like a formula; show control characters as their escapes."""
    if not isinstance(cell, str):
        return cell
    return ("'" if cell.lstrip().startswith(_FORMULAS) else "") + printable(cell)


def exchange_folders(first: Path, second: Path) -> None:
    """Let two folders of one file system change names, in one step where the system can do that (Linux).

    Elsewhere two renames are used: for a moment ``second`` is not there, and it comes back when the last one fails.

    Args:
        first: a folder.
        second: a folder.
    """
    if _exchange_at_once(first, second):
        return
    aside = first.with_name(f"{first.name}.aside")
    os.rename(second, aside)
    try:
        os.rename(first, second)
    except OSError:
        os.rename(aside, second)
        raise
    os.rename(aside, first)


def _exchange_at_once(first: Path, second: Path) -> bool:
    """Linux's ``renameat2`` with ``RENAME_EXCHANGE``; False where the system does not know it."""
    here, exchange = -100, 2  # AT_FDCWD, RENAME_EXCHANGE
    try:
        rename = ctypes.CDLL(None, use_errno=True).renameat2
    except (AttributeError, OSError, TypeError):
        return False
    if rename(here, os.fsencode(first), here, os.fsencode(second), exchange) == 0:
        return True
    number = ctypes.get_errno()
    if number in (errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP):
        return False
    raise OSError(number, os.strerror(number), str(second))
