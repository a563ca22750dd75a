# Copyright 2026 monai_dpmm_ad contributors. Licensed under the Apache License, Version 2.0.
"""A bundle as one file that can be handed on: no word of whose scans were fitted, complete after the zoo's rules."""

from __future__ import annotations

import errno
import json
import os
import re
import shutil
import tempfile
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from monai.bundle import push_to_hf_hub

from monai_dpmm_ad.bundle.card import README
from monai_dpmm_ad.bundle.folder import MODEL, create_bundle, is_fitted, read_state, write_recipe, write_settings
from monai_dpmm_ad.bundle.formats import OWN_EMBEDDER, read_settings
from monai_dpmm_ad.bundle.privacy import check_private
from monai_dpmm_ad.bundle.provenance import METADATA
from monai_dpmm_ad.bundle.settings import pick_settings
from monai_dpmm_ad.bundle.update import read_recipe
from monai_dpmm_ad.bundle.zoo import check_zoo_rules
from monai_dpmm_ad.errors import CheckpointError
from monai_dpmm_ad.utils.files import file_sha256, read_json, replace_file, write_json
from monai_dpmm_ad.utils.integrity import SUMS
from monai_dpmm_ad.utils.leftovers import without_leftovers

__all__ = ["pack_bundle", "push_bundle"]

#: Copied as they are; the configs are this package's own with the bundle's settings.
_COPIED = (Path("LICENSE"), METADATA, README, Path("docs") / "data_license.txt", MODEL)
_EMBEDDER_FILES = ("*.json", "*.safetensors", "LICENSE*", "NOTICE*", "MODEL_CARD.md")
#: The same bundle gives the same bytes.
_TIME = (1980, 1, 1, 0, 0, 0)


def pack_bundle(bundle: str | os.PathLike[str], out: str | os.PathLike[str], overwrite: bool = False) -> Path:
    """Write a fitted bundle as a zip file whose folder is named like it.

    It holds ``configs``, ``docs``, ``models``, ``LICENSE`` and ``SHA256SUMS``; of the scans neither paths, names nor
    embeddings (``fit/``, ``provenance.json``, tables). An embedder from a local folder goes with it.

    Args:
        bundle: folder of a fitted bundle.
        out: the file, ``NAME.zip`` or ``NAME_vVERSION.zip``.
        overwrite: replace the file where there is one.

    Returns:
        Path of the file.

    Raises:
        ValueError: a name that is no zip file's, or a text of the bundle that names a scan.
        CheckpointError: a folder that is no fitted bundle, or breaks a rule of the zoo.
        FileExistsError: where ``out`` is there and ``overwrite`` is not given.

    Example:
        >>> from monai_dpmm_ad.commands.example import make_example
        >>> folder = make_example()  # `scans`, and `bundle`, fitted on them
        >>> archive = pack_bundle(folder / "bundle", folder / "my_bundle.zip")
        >>> [name for name in zipfile.ZipFile(archive).namelist() if "provenance" in name]
        []
    """
    out = Path(out)
    name = _name_of(out)
    if not overwrite and os.path.lexists(out):
        raise FileExistsError(errno.EEXIST, "is there already; name another --out, or give --overwrite", str(out))
    with without_leftovers(out), _staged(Path(bundle), name) as folder:
        replace_file(out, partial(_write_zip, folder))
    return out


def push_bundle(bundle: str | os.PathLike[str], repo: str, public: bool = False) -> str:
    """Push what :func:`pack_bundle` would write to the Hugging Face Hub, with MONAI's ``push_to_hf_hub``.

    Args:
        bundle: folder of a fitted bundle.
        repo: ``OWNER/NAME``; its version becomes a tag. Who pushes is whoever ``hf auth login`` logged in.
        public: whether everybody may see a repository that is made.

    Returns:
        Address of what was pushed.

    Raises:
        ValueError: a name that is no repository's, or a text of the bundle that names a scan.
        CheckpointError: as :func:`pack_bundle`.
        ConnectionError: whatever the hub answers instead.

    Example:
        >>> push_bundle("my_bundle", "owner/my_bundle")  # doctest: +SKIP
    """
    if not re.fullmatch(r"[\w.-]+/[A-Za-z][\w.-]*", repo):
        raise ValueError(f"`repo` must be OWNER/NAME, got '{repo}'. Name a repository of the Hugging Face Hub.")
    with _staged(Path(bundle), repo.split("/")[1]) as folder:
        version = str(read_json(folder / METADATA)["version"])
        options: dict[str, Any] = {"private": not public, "version": version, "tag_as_latest_version": True}
        try:
            return str(push_to_hf_hub(repo, folder.name, str(folder.parent), **options))
        except Exception as error:  # the hub, its HTTP client and the sockets below each have their own families
            reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
            raise ConnectionError(f"{repo}: was not pushed ({reason}). Log in with: hf auth login") from error


def _name_of(out: Path) -> str:
    """The name of the folder in a zip file; as MONAI unpacks it, without a version."""
    found = re.fullmatch(r"([A-Za-z]\w*?)(_v\d+(\.\d+)*)?\.zip", out.name)
    if found is None:
        raise ValueError(
            f"`out` must be NAME.zip with letters, digits and underscores in its name, got '{out.name}'. MONAI names "
            "the folder after it."
        )
    return found[1]


@contextmanager
def _staged(bundle: Path, name: str) -> Iterator[Path]:
    """A temporary folder that holds what is handed on, checked."""
    if not is_fitted(bundle):
        raise CheckpointError(f"{bundle}: has no fitted model, {MODEL} is missing. Make one with fit.")
    state = read_state(bundle / MODEL)
    with tempfile.TemporaryDirectory() as temporary:
        folder = create_bundle(Path(temporary) / name)
        settings = {**read_settings(bundle), "regions": None}
        for file in _COPIED:
            if (bundle / file).is_file():
                (folder / file).parent.mkdir(exist_ok=True)
                shutil.copyfile(bundle / file, folder / file)
        if embedder := _find_embedder(bundle, settings["embedder_name"]):
            _copy_embedder(embedder, folder / OWN_EMBEDDER)
            settings["embedder_name"] = OWN_EMBEDDER
        write_settings(folder, settings)
        recipe = {**pick_settings(settings, "model"), **read_recipe(bundle)}
        write_recipe(folder, recipe, len(state.get("detector.mixture.statistic_counts", ())))
        check_private(folder, bundle)
        check_zoo_rules(folder)
        lines = [f"{file_sha256(path)}  {path.relative_to(folder).as_posix()}\n" for path in _list_files(folder)]
        (folder / SUMS).write_text("".join(lines), encoding="utf-8")
        yield folder


def _find_embedder(bundle: Path, name: str) -> Path | None:
    """The folder of an embedder that nobody else has; None where its name is enough."""
    if name == OWN_EMBEDDER:
        return bundle / OWN_EMBEDDER
    if os.path.isdir(name):
        return Path(name)
    if os.path.isabs(name):
        raise CheckpointError(f"{name}: the bundle's embedder is no longer there. Put it back to hand the bundle on.")
    return None


def _copy_embedder(source: Path, target: Path) -> None:
    """Copy a backbone's files; what its configuration was once loaded from is left out."""
    target.mkdir(parents=True)
    for file in sorted({file for pattern in _EMBEDDER_FILES for file in source.glob(pattern) if file.is_file()}):
        shutil.copyfile(file, target / file.name)
    config = json.loads((target / "config.json").read_text(encoding="utf-8"))
    config.pop("_name_or_path", None)
    write_json(target / "config.json", config)


def _list_files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())


def _write_zip(folder: Path, path: Path) -> None:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for file in _list_files(folder):
            record = zipfile.ZipInfo(f"{folder.name}/{file.relative_to(folder).as_posix()}", _TIME)
            record.compress_type, record.external_attr = zipfile.ZIP_DEFLATED, 0o644 << 16
            with archive.open(record, "w", force_zip64=True) as target, file.open("rb") as source:
                shutil.copyfileobj(source, target, 1 << 20)
