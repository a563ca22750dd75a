# Copyright 2026 monai_dpmm_ad contributors. Licensed under the Apache License, Version 2.0.
"""Start MONAI Label's own server on copies of the app and the studies, and stop it."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import requests

ROOT = Path(__file__).parents[2]
APP = ROOT / "bundles" / "label_app"
START_SECONDS = 240


@dataclass(frozen=True)
class Server:
    """A running server: its address, its folders, its log, and what its temporary folder held at the start."""

    url: str
    studies: Path
    bundle: Path
    log: Path
    temporary: Path
    at_start: frozenset[Path]

    def post(self, path: str, **arguments: Any) -> requests.Response:
        return requests.post(f"{self.url}{path}", timeout=300, **arguments)

    def list_leftovers(self) -> set[Path]:
        """What requests have left in the temporary folder; the configuration of MONAI Label's log is not theirs."""
        return set(self.temporary.rglob("*")) - self.at_start


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


@contextmanager
def running_server(
    folder: Path,
    bundle: Path,
    scans: list[Path],
    *options: str,
    url: str | None = None,
    host: str = "127.0.0.1",
    **environment: str,
) -> Iterator[Server]:
    """Serve a copy of a bundle; every process that the server started is gone afterwards.

    Args:
        folder: gets everything that the server has.
        bundle: is copied.
        scans: are copied into the studies folder.
        options: of ``start_server``, beside those that are always given.
        url: of a DICOM server, in place of the studies folder.
        host: where it listens.
        environment: MONAI Label's settings.
    """
    (folder / "app").mkdir()
    shutil.copy(APP / "main.py", folder / "app")
    shutil.copytree(bundle, folder / "bundle")
    (folder / "studies").mkdir()
    temporary = folder / "temporary"
    temporary.mkdir()
    for scan in scans:
        shutil.copy(scan, folder / "studies")
    port = free_port()
    command = [sys.executable, "-m", "monailabel.main", "start_server", "--app", "app", "--studies", url or "studies"]
    command += ["--host", host, "--port", str(port), "--conf", "bundle", "bundle"]
    command += ["--uvicorn_app", "monai_dpmm_ad.label.server:app", *options]
    # Otherwise it scores everything as soon as it is up, which the tests ask for when they want it.
    always = {"MONAI_LABEL_AUTO_UPDATE_SCORING": "false", "TMPDIR": str(temporary), "PYTHONPATH": str(ROOT)}
    always["MONAI_LABEL_SESSION_PATH"] = str(folder / "sessions")
    settings = {**os.environ, **always, **environment}
    log = folder / "server.log"
    with open(log, "wb") as out:
        process = subprocess.Popen(
            command, cwd=folder, stdout=out, stderr=subprocess.STDOUT, env=settings, start_new_session=True
        )
    try:
        address = f"http://127.0.0.1:{port}"
        _wait(process, address, log)
        at_start = frozenset(temporary.rglob("*"))
        yield Server(address, folder / "studies", folder / "bundle", log, temporary, at_start)
    finally:
        _stop(process)


def _wait(process: subprocess.Popen[bytes], url: str, log: Path) -> None:
    end = time.monotonic() + START_SECONDS
    while time.monotonic() < end:
        if process.poll() is not None:
            break
        try:
            if requests.get(f"{url}/info/", timeout=60).status_code in (200, 401):
                return
        except requests.ConnectionError:
            time.sleep(0.5)
    raise RuntimeError(f"The server did not start:\n{log.read_text()[-4000:]}")


def _stop(process: subprocess.Popen[bytes]) -> None:
    for number in (signal.SIGTERM, signal.SIGKILL):
        try:
            os.killpg(process.pid, number)
        except ProcessLookupError:
            break
        try:
            process.wait(timeout=20)
        except subprocess.TimeoutExpired:
            continue
    process.wait(timeout=20)
