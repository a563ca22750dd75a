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

APP = Path(__file__).parents[2] / "bundles" / "label_app"
START_SECONDS = 240


@dataclass(frozen=True)
class Server:
    """A running server: its address, its folders, its log, and what its temporary folder held at the start."""

    url: str
    studies: Path
    bundle: Path
    log: Path
    temporary: Path
    at_start: frozenset[str]

    def post(self, path: str, **arguments: Any) -> requests.Response:
        return requests.post(f"{self.url}{path}", timeout=300, **arguments)

    def list_leftovers(self) -> set[str]:
        """What requests have left in the temporary folder; the configuration of MONAI Label's log is not theirs."""
        return set(os.listdir(self.temporary)) - self.at_start


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


@contextmanager
def running_server(folder: Path, bundle: Path, scans: list[Path]) -> Iterator[Server]:
    """Serve a copy of a bundle; every process that the server started is gone afterwards."""
    shutil.copytree(APP, folder / "app", ignore=shutil.ignore_patterns("logs", "model", "lib", "bin", "__pycache__"))
    shutil.copytree(bundle, folder / "bundle")
    (folder / "studies").mkdir()
    temporary = folder / "temporary"
    temporary.mkdir()
    for scan in scans:
        shutil.copy(scan, folder / "studies")
    port = free_port()
    command = [sys.executable, "-m", "monailabel.main", "start_server", "--app", "app", "--studies", "studies"]
    command += ["--host", "127.0.0.1", "--port", str(port), "--conf", "bundle", "bundle"]
    # Otherwise it scores everything as soon as it is up, which the tests ask for when they want it.
    environment = {**os.environ, "MONAI_LABEL_AUTO_UPDATE_SCORING": "false", "TMPDIR": str(temporary)}
    log = folder / "server.log"
    with open(log, "wb") as out:
        process = subprocess.Popen(
            command, cwd=folder, stdout=out, stderr=subprocess.STDOUT, env=environment, start_new_session=True
        )
    try:
        url = f"http://127.0.0.1:{port}"
        _wait(process, url, log)
        at_start = frozenset(os.listdir(temporary))
        yield Server(url, folder / "studies", folder / "bundle", log, temporary, at_start)
    finally:
        _stop(process)


def _wait(process: subprocess.Popen[bytes], url: str, log: Path) -> None:
    end = time.monotonic() + START_SECONDS
    while time.monotonic() < end:
        if process.poll() is not None:
            break
        try:
            if requests.get(f"{url}/info/", timeout=60).ok:
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
