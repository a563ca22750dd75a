# Copyright 2026 monai_dpmm_ad contributors. Licensed under the Apache License, Version 2.0.
"""Which scans of an output folder are finished, so that the same command goes on after an interruption."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Container, Mapping, Sequence
from pathlib import Path
from typing import Any

from monai_dpmm_ad import __version__
from monai_dpmm_ad.data.paths import scan_files
from monai_dpmm_ad.data.sequences import image_files
from monai_dpmm_ad.engines.steps import describe_steps
from monai_dpmm_ad.transforms.regions import find_names
from monai_dpmm_ad.utils.files import file_sha256, read_json, write_json

__all__ = ["FOLDER", "ResumeLog"]

FOLDER = ".finished"


class ResumeLog:
    """A small file for each finished scan: what its tables say, and what it was made from.

    A scan counts as finished where its record names the same model, settings, steps, source files (path, size, time of
    change) and the outputs are there with the bytes that they had. Records are written after the outputs, each in one
    step; one that is damaged counts for nothing, and its scan is done again.

    Args:
        output_dir: folder of the outputs; the records are in its ``.finished``.
        ckpt_path: the model.
        settings: whatever else the outputs depend on, plain JSON.
        steps: transforms and inferers that make the outputs, whose arguments a config may change beside the settings.

    Attributes:
        records: the contents of those that :meth:`remaining` found finished, scan name → record.

    Example:
        >>> log = ResumeLog("no/such/folder", "no/such/model.pt", {"image_size": 224})
        >>> log.remaining([{"name": "a", "image": "a.nii.gz"}])
        [{'name': 'a', 'image': 'a.nii.gz'}]
    """

    def __init__(
        self,
        output_dir: str | os.PathLike[str],
        ckpt_path: str | os.PathLike[str],
        settings: Mapping[str, Any],
        steps: Sequence[Any] = (),
    ) -> None:
        self.output_dir = Path(output_dir)
        self.ckpt_path = Path(ckpt_path)
        self.settings = dict(settings)
        self.steps = list(steps)
        self.records: dict[str, dict[str, Any]] = {}
        self._keys: dict[str, str] = {}
        self._items: dict[str, Mapping[str, Any]] = {}
        self._maker = ""

    def remaining(self, items: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
        """Find the items that are not finished; the others' records are in ``records`` afterwards."""
        model = file_sha256(self.ckpt_path) if self.ckpt_path.is_file() else ""
        self._maker = _digest([__version__, model, self.settings, describe_steps(self.steps)])
        remaining = []
        for item in items:
            name = str(item["name"])
            self._keys[name], self._items[name] = self._key(item), item
            record = self._read(name)
            if record is None:
                remaining.append(item)
            else:
                self.records[name] = record
        return remaining

    def save(self, name: str, outputs: Sequence[Path], **content: Any) -> None:
        """Record that a scan is finished; one that :meth:`remaining` was not asked about is not recorded.

        Args:
            name: of the scan.
            outputs: the files that were written, inside the output folder.
            content: what the tables say of it, plain JSON.
        """
        if name in self._keys:
            files = {os.path.relpath(path, self.output_dir): path for path in outputs if path.is_file()}
            digests = {name: file_sha256(path) for name, path in files.items()}
            record = {"key": self._keys[name], "maker": self._maker, "item": dict(self._items[name]), **content}
            record["outputs"] = digests
            write_json(self._path(name), {**record, "sha256": _digest(record)})

    def forget(self, name: str) -> list[Path]:
        """Drop the record of a scan that failed when it was done again, where :meth:`recall` has none.

        Returns:
            The outputs of an earlier run that it names; they are not of this model, these settings or this scan.
        """
        record = self._load(name)
        if record is None:
            return []
        self._path(name).unlink()
        return [self.output_dir / file for file in record["outputs"]]

    def recall(self, name: str) -> dict[str, Any] | None:
        """The record of a scan whose outputs were changed by hand, or of another one of its name, if it still holds."""
        record = self._load(name)
        if record is None or not (record.get("key") == self._keys.get(name) or self.is_of_another(record)):
            return None
        return record

    def is_of_another(self, record: Mapping[str, Any]) -> bool:
        """Whether a record is of another scan than the one of its name that :meth:`remaining` was asked about."""
        item = record["item"]
        return image_files(item) != image_files(self._items.get(item["name"], item))

    def list_earlier(self, asked_for: Container[str]) -> dict[str, dict[str, Any]]:
        """The records of scans that earlier runs into this folder finished and this one was not asked for.

        Their outputs are all there, changed by hand perhaps.

        Args:
            asked_for: names of the scans of this run, of all processes.
        """
        earlier = {}
        for path in sorted((self.output_dir / FOLDER).glob("*.json")):
            record = None if path.stem in asked_for else self._load(path.stem)
            if record is None or not {"row", "regions", "item"} <= record.keys():
                continue
            if all((self.output_dir / file).exists() for file in record["outputs"]):
                earlier[path.stem] = record
        return earlier

    def is_alike(self, record: Mapping[str, Any]) -> bool:
        """Whether a scan was finished with this model and these settings."""
        return record.get("maker") == self._maker

    def _read(self, name: str) -> dict[str, Any] | None:
        """The record of a finished scan, None where its outputs are not what they were."""
        record = self._load(name)
        if record is None or record.get("key") != self._keys[name]:
            return None
        try:
            same = all(file_sha256(self.output_dir / file) == digest for file, digest in record["outputs"].items())
        except OSError:
            return None
        return record if same else None

    def _load(self, name: str) -> dict[str, Any] | None:
        """A scan's record, None where it is damaged or names files outside of the folder."""
        try:
            record: dict[str, Any] = read_json(self._path(name))
            whole = record.pop("sha256") == _digest(record)
            inside = all(not Path(file).is_absolute() and ".." not in Path(file).parts for file in record["outputs"])
            return record if whole and inside else None
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            return None

    def _path(self, name: str) -> Path:
        return self.output_dir / FOLDER / f"{name}.json"

    def _key(self, item: Mapping[str, Any]) -> str:
        atlas = item.get("regions")
        named = [image_files(item), item.get("label"), atlas, atlas and find_names(atlas)]
        files = [stamp for paths in named if paths for stamp in _stamps(paths)]
        return _digest([self._maker, dict(item), files])


def _digest(content: Any) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True, default=str).encode()).hexdigest()


def _stamps(path: str | Sequence[str]) -> list[tuple[str, int, int]]:
    """Path, size and time of change of a file and its voxels' file, of a series' files, or of all in a folder."""
    paths = [Path(path)] if isinstance(path, str) else [Path(part) for part in path]
    try:
        files = [file for part in paths for file in (sorted(part.iterdir()) if part.is_dir() else scan_files(part))]
        stats = [(file, file.stat()) for file in files if file.exists()]
    except (OSError, ValueError):  # what cannot be looked at fails when it is read
        return []
    return [(str(file), stat.st_size, stat.st_mtime_ns) for file, stat in stats]
