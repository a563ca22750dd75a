# Copyright 2026 monai_dpmm_ad contributors. Licensed under the Apache License, Version 2.0.
"""A folder of results with one writer, in which nothing is replaced that this package did not write."""

from __future__ import annotations

import errno
import fnmatch
import json
import os
from collections import defaultdict
from collections.abc import Iterable
from contextlib import suppress
from itertools import takewhile
from pathlib import Path
from types import TracebackType

from filelock import BaseFileLock

from monai_dpmm_ad.utils.files import claims, file_sha256, lock_folder
from monai_dpmm_ad.utils.leftovers import remove_leftovers

__all__ = ["OutputFolder", "lock_output"]

#: Files in an output folder that say what was written there, one of each process: JSON lines.
_LOG = ".written-{rank}.jsonl"
_FOREIGN = "is there already and was not written by this program, or was changed since"
_REMEDY = "name another --out, or give --overwrite"


class OutputFolder:
    """Hold a folder: a context manager.

    While it is held, no other process can hold it, and `replace_file` and `remove_file` refuse each path in it that is
    not as this package left it: a file of the user's, one of ours that was edited, or another scan's map of the same
    name. What is written is recorded, by its content, before it gets its name. Hidden files are our own.

    Args:
        path: the folder, made if needed.
        overwrite: replace whatever is there.
        rank: of this process; the first one locks the folder.

    Raises:
        OSError: on entering, when the folder cannot be written, or is a file.
        BlockingIOError: on entering, when another process holds it.
    """

    def __init__(self, path: str | os.PathLike[str], overwrite: bool = False, rank: int = 0) -> None:
        self.path = Path(os.path.abspath(path))
        self.overwrite, self.rank = overwrite, rank
        self._lock: BaseFileLock | None = None
        self._written: defaultdict[tuple[str, str], set[str]] = defaultdict(set)
        self._digests: defaultdict[str, set[str]] = defaultdict(set)  # of each file
        self._owned: defaultdict[str, set[str]] = defaultdict(set)  # files of each scan
        self._renewed: set[str] = set()
        #: whether files of scans were written, and whether such content was replaced or removed
        self.wrote_scans, self.changed = False, False
        #: files that tell of all scans: they go when the first scan's file changes, since a run that dies then would
        #: leave them beside others than those that they tell of
        self.summaries: tuple[str, ...] = ()

    def __enter__(self) -> OutputFolder:
        return self.hold()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if isinstance(error, KeyboardInterrupt) and self._lock is not None:
            self.clean()  # a signal comes at any moment
        self.release()

    def hold(self) -> OutputFolder:
        """Lock the folder and read what was written there.

        Returns:
            self, or who holds the folder in this process already: a command and what it runs hold it once.
        """
        for claim in claims:
            if isinstance(claim, OutputFolder) and claim.path == self.path:
                return claim
        if self.path.is_file():
            raise NotADirectoryError(errno.ENOTDIR, "is a file; name a folder with --out", str(self.path))
        self.path.mkdir(parents=True, exist_ok=True)
        if self.rank == 0:
            self._lock = lock_output(self.path)
        for log in self.path.glob(_LOG.format(rank="*")):
            self._read(log)
        claims.append(self)
        return self

    def release(self) -> None:
        """Let the folder go."""
        if self in claims:
            claims.remove(self)
        if self._lock is not None:
            self._lock.release()
            self._lock = None

    def clean(self) -> None:
        """Remove the temporary files of processes that were killed; no other process may be writing yet."""
        remove_leftovers(self.path, *(item for item in self.path.iterdir() if item.is_dir()))

    def check_all(self, names: Iterable[str]) -> None:
        """Check what will be written at the end, before the long work; see :meth:`check`."""
        for name in names:
            self.check(self.path / name)

    def check(self, path: Path, owner: str = "") -> None:
        """Check that a path may be replaced or removed.

        Args:
            path: inside the folder.
            owner: the scan that the new content is of, where it is of one.

        Raises:
            FileExistsError: when it may not.
        """
        name = self._name(path)
        if self.overwrite or name.startswith(".") or not os.path.lexists(path):
            return
        plain = path.is_file() and not path.is_symlink()
        owners = self._written.get((name, file_sha256(path))) if plain else None
        if owners is None:
            raise FileExistsError(errno.EEXIST, f"{_FOREIGN}; {_REMEDY}", str(path))
        if owner and "" not in owners and owner not in owners:
            raise FileExistsError(errno.EEXIST, f"is of another scan, {sorted(owners)[0]}; {_REMEDY}", str(path))

    def discard(self, path: Path, owner: str | None = None) -> None:
        """Remove a file that an earlier run wrote, whatever may be replaced: nobody else's, nor one that was edited.

        A folder inside of this one that is empty then goes, too.

        Args:
            path: inside the folder.
            owner: the scan that the file must be of; None where that is known already.
        """
        plain = path.is_file() and not path.is_symlink()
        owners = self._written.get((self._name(path), file_sha256(path)), ()) if plain else ()
        if owner in owners or (owner is None and owners):
            path.unlink()
            with suppress(OSError):  # up to the first one that holds more
                for parent in takewhile(lambda folder: folder != self.path, Path(os.path.abspath(path)).parents):
                    parent.rmdir()

    def discard_earlier(self, owner: str, stems: Iterable[str]) -> None:
        """Remove what earlier runs wrote of a scan and this one did not write again.

        Args:
            owner: the scan.
            stems: names of the files, without their formats' endings.
        """
        beginnings = tuple(f"{stem}." for stem in stems)
        for name in self._owned[owner] - self._renewed:
            if os.path.basename(name).startswith(beginnings) and os.path.lexists(self.path / name):
                self.discard(self.path / name, owner)
                self._note_change()

    def discard_matching(self, pattern: str) -> None:
        """Remove what earlier runs wrote under names of a pattern and this one did not write again.

        Args:
            pattern: as :mod:`fnmatch` has it, of paths inside the folder; ``*`` stands for folders, too.
        """
        for name in fnmatch.filter(self._digests.keys() - self._renewed, pattern):
            self.discard(self.path / name)

    def find_earlier(self, ending: str) -> list[tuple[str, str]]:
        """Find files of scans that earlier runs wrote and this one did not write again.

        Args:
            ending: of their names.

        Returns:
            Scan, and the file's name without the ending.
        """
        files = ((owner, name) for owner, names in self._owned.items() if owner for name in names - self._renewed)
        return [(owner, name.removesuffix(ending)) for owner, name in files if name.endswith(ending)]

    def has_written(self, path: Path, digest: str) -> bool:
        """Whether this package gave a file such content, in whatever run; arguments as for :meth:`record`."""
        return (self._name(path), digest) in self._written

    def record(self, path: Path, digest: str, owner: str = "") -> None:
        """Write down what is about to be written.

        Args:
            path: inside the folder.
            digest: SHA-256 of the new content.
            owner: as for :meth:`check`.
        """
        name = self._name(path)
        if name.startswith("."):
            return
        # What a full disk cut off must not spoil the next line.
        line = "\n" + json.dumps({"file": name, "sha256": digest, "owner": owner}) + "\n"
        handle = os.open(self.path / _LOG.format(rank=self.rank), os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666)
        try:
            os.write(handle, line.encode())
            os.fsync(handle)
        finally:
            os.close(handle)
        self.wrote_scans |= bool(owner)
        if owner and self._digests[name] - {digest}:
            self._note_change()
        self._renewed.add(name)
        self._remember(name, digest, owner)

    def _note_change(self) -> None:
        """Note that content of a scan is replaced or removed: with the first such change the summaries go."""
        if not self.changed:
            self.changed = True
            for name in set(self.summaries) - self._renewed if self.rank == 0 else ():
                self.discard(self.path / name)

    def _remember(self, name: str, digest: str, owner: str) -> None:
        self._written[name, digest].add(owner)
        self._digests[name].add(digest)
        self._owned[owner].add(name)

    def _read(self, log: Path) -> None:
        for line in log.read_bytes().splitlines():
            with suppress(ValueError, KeyError, TypeError, RecursionError):  # a damaged line speaks for no file
                entry = json.loads(line)
                self._remember(str(entry["file"]), str(entry["sha256"]), str(entry["owner"]))

    def _name(self, path: Path) -> str:
        return Path(os.path.abspath(path)).relative_to(self.path).as_posix()


def lock_output(folder: Path) -> BaseFileLock:
    """Lock a folder as `lock_folder` does; its refusal says what a user can do."""
    try:
        return lock_folder(folder)
    except BlockingIOError as error:
        reason = "another process is writing to this folder; wait for it, or name another --out"
        raise BlockingIOError(errno.EAGAIN, reason, str(folder)) from error
