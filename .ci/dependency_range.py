#!/usr/bin/env python3
# Copyright 2026 monai_dpmm_ad contributors. Licensed under the Apache License, Version 2.0.
"""Test the package with the lowest and with the newest releases that setup.cfg allows, and look for known flaws.

    python .ci/dependency_range.py lowest      # or highest, 3.12, 3.13, or audit

Each makes an environment of its own, ``.venv-lowest``, ``.venv-highest``, …, and runs a part of the tests in it. The
lowest takes every ``>=`` of setup.cfg as ``==``; 3.12 and 3.13 are the newest releases with that Python, and say so
where it is not installed. torch alone is the release of constraints.txt in both: its older ones
are CUDA builds of gigabytes where no CPU build is at hand. ``audit`` asks pip-audit about constraints.txt and says so
where its service cannot be reached.
"""

from __future__ import annotations

import argparse
import configparser
import json
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
#: Newer ones than the one that everything else is run with.
PYTHONS = ("3.12", "3.13")
EXTRAS = ("demo", "report", "faiss", "dicom", "nrrd", "onnx")
#: The tests' own tools, at the releases of constraints.txt: it is not they that are tested.
TOOLS = ("pytest", "pytest-timeout", "hypothesis", "mpmath")
#: What touches the fixed packages: reading, embedding, fitting, bundle, command line, figures, pictures, graphs.
TESTS = (
    *("tests/transforms", "tests/embedding", "tests/mixture", "tests/metrics", "tests/handlers", "tests/reporting"),
    *("tests/ops", "tests/detectors", "tests/network", "tests/engines", "tests/bundle"),
    *("tests/commands/test_cli.py", "tests/data", "tests/test_dicom.py"),
)


def read_requirements() -> list[str]:
    """The package's own requirements and those of its extras, without torch."""
    config = configparser.ConfigParser()
    config.read(ROOT / "setup.cfg")
    lines = config["options"]["install_requires"].split("\n")
    for extra in EXTRAS:
        lines += config["options.extras_require"][extra].split("\n")
    found = [line.strip() for line in lines if line.strip()]
    return [line for line in found if name_of(line) != "torch"]


def read_pins() -> dict[str, str]:
    """Name to release of constraints.txt."""
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").split()
    return dict(line.lower().split("==") for line in lines)


def name_of(requirement: str) -> str:
    """Name of a requirement, in lower case."""
    return re.split(r"[<>=!~;\[ ]", requirement)[0].lower()


def list_packages(which: str) -> list[str]:
    """What pip is asked to install."""
    pins = read_pins()
    own = [line.replace(">=", "==") if which == "lowest" else line for line in read_requirements()]
    torch = f"torch=={pins['torch'].split('+')[0]}"
    return [torch, *own, *(f"{tool}=={pins[tool]}" for tool in TOOLS)]


def find_python(which: str) -> str:
    """The interpreter: of the release that is asked for, else the one that runs this; "" where there is none."""
    if which not in PYTHONS:
        return sys.executable
    python = shutil.which(f"python{which}")
    works = python and subprocess.run([python, "--version"], capture_output=True).returncode == 0
    return python if python and works else ""


def make_environment(which: str) -> Path:
    """Make the environment anew, with the package itself: path of its Python."""
    folder = ROOT / f".venv-{which}"
    subprocess.run([find_python(which), "-m", "venv", "--clear", str(folder)], check=True)
    python = folder / "bin" / "python"
    subprocess.run([str(python), "-m", "pip", "install", "--quiet", *list_packages(which)], check=True)
    subprocess.run([str(python), "-m", "pip", "install", "--quiet", "--no-deps", "--editable", str(ROOT)], check=True)
    return python


def print_releases(python: Path) -> None:
    """Print what was installed of what setup.cfg names, as a row of a table each."""
    listing = subprocess.run(
        [str(python), "-m", "pip", "list", "--format", "json"], check=True, capture_output=True, text=True
    )
    installed = {item["name"].lower().replace("_", "-"): item["version"] for item in json.loads(listing.stdout)}
    for name in sorted({"torch", *map(name_of, read_requirements())}):
        print(f"| {name} | {installed[name]} |")


def run_tests(python: Path) -> int:
    """Run the part of the tests; old releases may warn of themselves, so warnings are no errors here."""
    found = [test for test in TESTS if (ROOT / test).exists()]
    command = [str(python), "-m", "pytest", "-q", "-o", "filterwarnings=", "-m", "not slow", *found]
    return subprocess.run(command, cwd=ROOT).returncode


def audit() -> int:
    """Ask pip-audit whether a pinned release has a known flaw; 0 where it cannot be asked, and says so."""
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run([sys.executable, "-m", "venv", folder], check=True)
        python = Path(folder) / "bin" / "python"
        subprocess.run([str(python), "-m", "pip", "install", "--quiet", "pip-audit"], check=True)
        pins = Path(folder) / "pins.txt"
        pins.write_text("\n".join(f"{name}=={release.split('+')[0]}" for name, release in read_pins().items()))
        command = [str(python), "-m", "pip_audit", "--requirement", str(pins), "--no-deps", "--disable-pip"]
        finished = subprocess.run(command, capture_output=True, text=True)
    print(finished.stdout)
    if re.search(r"ConnectionError|Max retries|Failed to resolve|timed out|ProxyError|ServiceError", finished.stderr):
        print("skipped: pip-audit could not reach its service from here, so nothing is known about flaws")
        return 0
    print(finished.stderr, file=sys.stderr)
    return finished.returncode


def main() -> int:
    """Parse and run."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("which", choices=("lowest", "highest", *PYTHONS, "audit"))
    which = parser.parse_args().which
    if which == "audit":
        return audit()
    if not find_python(which):
        print(f"skipped: python{which} is not installed, so nothing is known about it")
        return 0
    python = make_environment(which)
    print_releases(python)
    return run_tests(python)


if __name__ == "__main__":
    sys.exit(main())
