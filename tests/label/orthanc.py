# Copyright 2026 monai_dpmm_ad contributors. Licensed under the Apache License, Version 2.0.
"""Start Orthanc, a DICOM server, with its DICOMweb plugin, and stop it."""

from __future__ import annotations

import json
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import requests
from label.serving import free_port

PROGRAM = shutil.which("Orthanc", path="/usr/sbin:/usr/local/sbin:/usr/bin:/usr/local/bin")
PLUGIN = Path("/usr/share/orthanc/plugins/libOrthancDicomWeb.so")


def is_installed() -> bool:
    """Whether there is an Orthanc with DICOMweb."""
    return PROGRAM is not None and PLUGIN.exists()


@contextmanager
def running_orthanc(folder: Path) -> Iterator[str]:
    """Serve an empty archive on this machine; gives its address, and it is gone afterwards."""
    folder.mkdir(parents=True)
    port = free_port()
    config = {
        "Name": "test",
        "StorageDirectory": str(folder / "storage"),
        "IndexDirectory": str(folder / "index"),
        "HttpPort": port,
        "DicomServerEnabled": False,
        "RemoteAccessAllowed": False,
        "AuthenticationEnabled": False,
        "Plugins": [str(PLUGIN)],
        "DicomWeb": {"Enable": True, "Root": "/dicom-web/", "Host": "127.0.0.1"},
    }
    (folder / "orthanc.json").write_text(json.dumps(config))
    url = f"http://127.0.0.1:{port}"
    with open(folder / "log", "wb") as log:
        process = subprocess.Popen([str(PROGRAM), str(folder / "orthanc.json")], stdout=log, stderr=log)
    try:
        for _ in range(240):
            try:
                if requests.get(f"{url}/system", timeout=10).ok:
                    break
            except requests.ConnectionError:
                time.sleep(0.25)
        else:
            raise RuntimeError(f"Orthanc did not start:\n{(folder / 'log').read_text()[-3000:]}")
        yield url
    finally:
        process.terminate()
        process.wait(timeout=60)
