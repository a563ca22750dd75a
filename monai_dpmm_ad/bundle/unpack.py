# Copyright 2026 monai_dpmm_ad contributors. Licensed under the Apache License, Version 2.0.
"""Take a packed bundle in: only what a bundle has, only into its own folder, only as it was packed."""

from __future__ import annotations

import errno
import os
import re
import shutil
import stat
import tempfile
import zipfile
from pathlib import Path

from monai_dpmm_ad.bundle.folder import MODEL, is_fitted, read_state
from monai_dpmm_ad.bundle.formats import read_settings
from monai_dpmm_ad.errors import CheckpointError
from monai_dpmm_ad.utils.files import partial_prefix
from monai_dpmm_ad.utils.integrity import SUMS, check_sums
from monai_dpmm_ad.utils.leftovers import without_leftovers

__all__ = ["unpack_bundle"]

#: Paths inside the folder of a packed bundle.
_ALLOWED = re.compile(
    rf"LICENSE|README\.md|{SUMS}|large_files\.ya?ml|configs/[\w.-]+\.(json|conf)|docs/[\w.-]+\.(md|txt|png)"
    r"|models/model\.pt|models/embedder/[\w.-]+"
)
_MAX_FILES = 256


def unpack_bundle(archive: str | os.PathLike[str], out: str | os.PathLike[str]) -> Path:
    """Unpack what :func:`~monai_dpmm_ad.bundle.pack.pack_bundle` wrote.

    Args:
        archive: the zip file.
        out: folder of the bundle, new or empty.

    Returns:
        ``out``.

    Raises:
        CheckpointError: a file that is no packed bundle, is damaged, or holds what none has.
        FileExistsError: where ``out`` has something in it.
        OSError: when it cannot be written.

    Example:
        >>> from monai_dpmm_ad.commands.example import make_example
        >>> folder = make_example()  # `scans`, and `bundle`, fitted on them
        >>> from monai_dpmm_ad import is_fitted, pack_bundle
        >>> archive = pack_bundle(folder / "bundle", folder / "my_bundle.zip")
        >>> is_fitted(unpack_bundle(archive, folder / "elsewhere"))
        True
    """
    out = Path(out)
    if os.path.lexists(out) and (not out.is_dir() or any(out.iterdir())):
        raise FileExistsError(errno.EEXIST, "is there already; name another --out", str(out))
    parent = out.absolute().parent
    parent.mkdir(parents=True, exist_ok=True)
    try:
        prefix = partial_prefix(out)
        with (
            without_leftovers(parent / out.name),
            zipfile.ZipFile(archive) as opened,
            tempfile.TemporaryDirectory(dir=parent, prefix=prefix) as temporary,
        ):
            folder = Path(temporary) / "bundle"
            _extract(opened, folder)
            _check(folder)
            (folder / SUMS).unlink()  # it held; an evaluation may add its figures from here on
            if out.is_dir():
                out.rmdir()
            os.replace(folder, out)
    except (ValueError, RuntimeError, NotImplementedError, zipfile.BadZipFile, EOFError) as error:
        raise CheckpointError(f"{archive}: is no packed bundle ({error}). Get it again.") from error
    return out


def _extract(archive: zipfile.ZipFile, folder: Path) -> None:
    records = [record for record in archive.infolist() if not record.is_dir()]
    tops = {record.filename.split("/")[0] for record in records}
    names = [record.filename.partition("/")[2] for record in records]
    if len(tops) != 1 or len(names) > _MAX_FILES or len(set(names)) != len(names):
        raise ValueError("it must hold one folder, and each of its files once")
    for record, name in zip(records, names, strict=True):
        if not _ALLOWED.fullmatch(name) or ".." in name or stat.S_ISLNK(record.external_attr >> 16):
            raise ValueError(f"it holds {record.filename!r}, which no bundle has")
    needed, free = sum(record.file_size for record in records), shutil.disk_usage(folder.parent).free
    if needed > free:
        raise OSError(errno.ENOSPC, f"{needed} bytes are needed, {free} are free", str(folder.parent))
    for record, name in zip(records, names, strict=True):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        with archive.open(record) as source, (folder / name).open("wb") as target:  # no more than file_size is read
            shutil.copyfileobj(source, target, 1 << 20)


def _check(folder: Path) -> None:
    if not is_fitted(folder) or not (folder / SUMS).is_file():
        raise ValueError(f"{MODEL} or {SUMS} is missing")
    listed = {line.partition("  ")[2] for line in (folder / SUMS).read_text(encoding="utf-8").splitlines()}
    present = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    if present != {*listed, SUMS}:
        raise ValueError(f"its files are not those that {SUMS} lists")
    try:
        check_sums(folder)
        read_settings(folder)
        read_state(folder / MODEL)
    except (ValueError, CheckpointError) as error:
        raise ValueError(str(error).replace(f"{folder}{os.sep}", "")) from error
