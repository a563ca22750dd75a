# Copyright 2026 monai_dpmm_ad contributors. Licensed under the Apache License, Version 2.0.
"""Put the MONAI Label app where its logs may go, and say how its server is started."""

from __future__ import annotations

import os
import shlex
import shutil
import sys
from importlib.util import find_spec
from pathlib import Path

import monai_dpmm_ad
from monai_dpmm_ad.bundle.formats import INFERENCE
from monai_dpmm_ad.utils.files import replace_file
from monai_dpmm_ad.utils.leftovers import without_leftovers
from monai_dpmm_ad.utils.log import LOG

__all__ = ["SERVER", "install_app", "start_command"]

#: MONAI Label's ``--uvicorn_app``: its application behind our gate.
SERVER = "monai_dpmm_ad.label.server:app"


def install_app(out: str | os.PathLike[str]) -> Path:
    """Copy the app into a folder; MONAI Label writes logs, which name studies, beside its ``main.py``.

    Args:
        out: the folder, made if needed. What else is in it stays.

    Returns:
        Its absolute path.

    Raises:
        FileExistsError: when it has another ``main.py``.
    """
    package = Path(monai_dpmm_ad.__file__).resolve().parent
    installed = package / "bundles" / "label_app" / "main.py"
    source = installed if installed.is_file() else package.parent / "bundles" / "label_app" / "main.py"
    folder = Path(out).absolute()
    target = folder / "main.py"
    if target.exists() and target.read_bytes() != source.read_bytes():
        raise FileExistsError(f"{target}: is another app's. Choose another folder with --out.")
    folder.mkdir(parents=True, exist_ok=True)
    with without_leftovers(target):
        replace_file(target, lambda temporary: shutil.copyfile(source, temporary))
    return folder


def start_command(app: Path, studies: str = "STUDIES", bundle: str = "BUNDLE") -> str:
    """The whole command that starts the server for this machine alone, from whatever folder it is given.

    What is not there is warned of: the server may be meant for another machine.

    Args:
        app: folder of the app.
        studies: folder of the studies, or the address of a DICOM server.
        bundle: folder of a fitted bundle.
    """
    if "://" not in studies and studies != "STUDIES":
        studies = _locate(studies, os.path.isdir(studies), "no folder")
    if bundle != "BUNDLE":
        bundle = _locate(bundle, (Path(bundle) / INFERENCE).is_file(), "no bundle")
    python = sys.executable if find_spec("monailabel") else "python"
    words = [python, "-m", "monailabel.main", "start_server", "--app", str(app), "--studies", studies]
    words += ["--host", "127.0.0.1", "--uvicorn_app", SERVER, "--conf", "bundle", bundle]
    return shlex.join(words)


def _locate(path: str, is_there: bool, what: str) -> str:
    if not is_there:
        LOG.warning("warning: %s: is %s on this machine, so the server will not start here", path, what)
    return os.path.abspath(path) if is_there else path
