# Copyright 2026 monai_dpmm_ad contributors. Licensed under the Apache License, Version 2.0.
"""Kill commands at random moments, restart them, and compare with runs that nobody disturbed.

    python tests/soak/interruptions.py --kills 50
    python tests/soak/interruptions.py --kills 5 --signal TERM --commands all

After every kill whatever has its final name must be whole; after the last the command runs to its end, and its result
must be that of an undisturbed run, byte by byte. After SIGTERM and Ctrl-C (INT) no temporary file may be left either,
the status is 143 or 130, and what is said is true. Commands run in forks of this process, which has imported
everything, so that the kills hit the work and not the imports. The demo's cohort and fit are made small.
"""

from __future__ import annotations

import argparse
import functools
import json
import os
import random
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import nibabel as nib
import numpy as np
import torch
from safetensors import safe_open

sys.path.insert(0, str(Path(__file__).parents[1]))

from conftest import FAST
from helpers.bmad_tree import write_bmad
from helpers.machine import without_machine
from helpers.tiny_vit import write_tiny_vit

from monai_dpmm_ad.bundle.pack import pack_bundle
from monai_dpmm_ad.commands import run as commands
from monai_dpmm_ad.commands import signals
from monai_dpmm_ad.commands.cli import main
from monai_dpmm_ad.data import phantoms
from monai_dpmm_ad.embedding import EmbeddingStore
from monai_dpmm_ad.engines.resume import FOLDER
from monai_dpmm_ad.utils.files import PARTIAL

__all__ = ["COMMANDS", "Fixtures", "make_fixtures", "soak"]


@dataclass
class Fixtures:
    """What the commands work on: a cohort, a tiny backbone, a fitted bundle, the same packed, a tree of pictures."""

    cohort: Path
    backbone: Path
    bundle: Path
    packed: Path
    pictures: Path


@dataclass
class Outcome:
    """How many kills hit a running command, and how many came after its end."""

    kills: int = 0
    too_late: int = 0
    compared: int = 0
    moments: list[float] = field(default_factory=list)


def fit_command(fixtures: Fixtures, out: Path) -> list[str]:
    options = ["--image-size", str(FAST["image_size"]), "--num-components", "8", "--max-epochs", "3"]
    paths = ["--images", str(fixtures.cohort), "--embedder", str(fixtures.backbone), "--out", str(out)]
    return ["fit", *paths, *options]


def infer_command(fixtures: Fixtures, out: Path) -> list[str]:
    return ["infer", "--bundle", str(fixtures.bundle), "--images", str(fixtures.cohort), "--out", str(out)]


def pretrain_command(fixtures: Fixtures, out: Path) -> list[str]:
    images = str(fixtures.cohort.parent / "imagesTr")
    options = ["--steps", "6", "--batch-size", "2", "--patch-size", "16", "--checkpoint-every", "2"]
    return ["pretrain", "--images", images, "--out", str(out), *options]


def evaluate_command(fixtures: Fixtures, out: Path) -> list[str]:
    return ["evaluate", "--bundle", str(fixtures.bundle), "--data", str(fixtures.cohort), "--out", str(out)]


def cluster_command(fixtures: Fixtures, out: Path) -> list[str]:
    return ["cluster", "--bundle", str(fixtures.bundle), "--images", str(fixtures.cohort), "--out", str(out)]


def export_command(fixtures: Fixtures, out: Path) -> list[str]:
    options = ["--format", "torchscript", "--out", str(out / "graph.torchscript")]
    return ["export", "--bundle", str(fixtures.bundle), *options]


def compare_command(fixtures: Fixtures, out: Path) -> list[str]:
    healthy, scan = (str(min((fixtures.cohort.parent / part).glob("*.nii.gz"))) for part in ("imagesTr", "imagesTs"))
    visits = ["--before", scan, "--after", scan, "--healthy", healthy]
    return ["compare", "--bundle", str(fixtures.bundle), *visits, "--out", str(out)]


def benchmark_command(fixtures: Fixtures, out: Path) -> list[str]:
    fast = ["--embedder", str(fixtures.backbone), "--image-size", "56", "--num-components", "8", "--max-epochs", "1"]
    cells = ["--dataset", "brats2021", "--detectors", "dpmm", "memory_bank"]
    return ["benchmark", "--data", str(fixtures.pictures), *cells, *fast, "--out", str(out)]


def demo_command(fixtures: Fixtures, out: Path) -> list[str]:
    return ["demo", "--out", str(out)]


def pack_command(fixtures: Fixtures, out: Path) -> list[str]:
    return ["pack", str(fixtures.bundle), "--out", str(out / "handed_on.zip")]


def unpack_command(fixtures: Fixtures, out: Path) -> list[str]:
    return ["unpack", str(fixtures.packed), "--out", str(out / "bundle")]


def label_app_command(fixtures: Fixtures, out: Path) -> list[str]:
    return ["label-app", "--out", str(out)]


def embedders_command(fixtures: Fixtures, out: Path) -> list[str]:
    return ["embedders"]


COMMANDS: dict[str, Callable[[Fixtures, Path], list[str]]] = {
    "fit": fit_command,
    "infer": infer_command,
    "pretrain": pretrain_command,
    "evaluate": evaluate_command,
    "cluster": cluster_command,
    "export": export_command,
    "compare": compare_command,
    "benchmark": benchmark_command,
    "demo": demo_command,
    "pack": pack_command,
    "unpack": unpack_command,
    "label-app": label_app_command,
    "embedders": embedders_command,
}
#: What a command promises on Ctrl-C and SIGTERM.
SENTENCES = {
    **dict.fromkeys(COMMANDS, "interrupted; the same command begins again"),
    **dict.fromkeys(("fit", "infer", "pretrain", "benchmark", "demo"), "interrupted; the same command continues"),
}
#: Commands whose one output gets its name at the very end: a signal that comes then is too late.
_ONE_OUTPUT = ("export", "pack", "unpack", "label-app")
#: Status of a command that heard the signal and came to its end nevertheless, and of one that had not begun.
_LOST, _EARLY = 99, 98
_HEARD: list[bool] = []


class _Heard(signals.Terminated):
    """A SIGTERM that is remembered, so that one which got lost on its way up is seen."""

    def __init__(self) -> None:
        super().__init__()
        _HEARD.append(True)


def make_fixtures(folder: Path) -> Fixtures:
    """Make the data, and fit a bundle."""
    cohort = _write_small(folder / "cohort")
    backbone, pictures = write_tiny_vit(folder / "backbone"), write_bmad(folder / "BMAD")
    fixtures = Fixtures(cohort, backbone, folder / "bundle", folder / "packed.zip", pictures)
    assert run(fit_command(fixtures, fixtures.bundle)) is not None
    pack_bundle(fixtures.bundle, fixtures.packed)
    return fixtures


def _write_small(folder: Path, seed: int = 0, **kwargs: object) -> Path:
    sizes = {"num_train": 3, "num_valid": 2, "num_test_healthy": 2, "num_test_abnormal": 2}
    return _write_cohort(folder, spacing=4.0, size="small", seed=seed, **sizes)


_write_cohort = phantoms.write_cohort


def _shrink_demo(backbone: Path) -> None:
    """Let the demo's command, in this process, work on a small cohort with a tiny backbone."""
    phantoms.write_cohort = _write_small
    commands.fit = functools.partial(commands.fit, embedder_name=str(backbone), **FAST)


def run(command: list[str], kill_after: float | None = None, kill: int = signal.SIGKILL) -> float | None:
    """Run a command in a fork; returns its seconds, or None where the signal came before its end.

    Raises:
        AssertionError: when the command fails, or ends on a signal in another way than it promises.
    """
    said = Path(tempfile.gettempdir()) / f"interruptions-{os.getpid()}.log"
    listen, begun = os.pipe()
    child = os.fork()
    if child == 0:
        signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell lets its background jobs ignore it
        output = os.open(said, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        for stream in (1, 2):
            os.dup2(output, stream)
        signals.Terminated = _Heard
        signal.signal(signal.SIGTERM, lambda number, frame: os._exit(_EARLY))
        status = 1
        try:
            os.close(begun)
            status = main(command)
            signal.signal(signal.SIGTERM, signal.SIG_IGN)  # too late
            if _HEARD and not status and command[0] not in _ONE_OUTPUT:
                status = _LOST
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stderr.flush()
            os._exit(status)
    os.close(begun)
    os.read(listen, 1)  # until the fork has closed it too: what comes earlier is no command yet
    os.close(listen)
    start = time.monotonic()
    while True:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            code = os.waitstatus_to_exitcode(status)
            assert code == 0, f"{' '.join(command)}: status {code}\n{said.read_text()}"
            return time.monotonic() - start
        if kill_after is not None and time.monotonic() - start > kill_after:
            os.kill(child, kill)
            status = os.waitpid(child, 0)[1]
            if kill == signal.SIGKILL:
                return None
            text, code = said.read_text(), os.waitstatus_to_exitcode(status)
            if code == 0:
                return time.monotonic() - start
            if code == _EARLY:
                return run(command, kill_after + 0.01, kill)
            assert code == 128 + kill, f"{' '.join(command)}: status {code}\n{text}"
            assert text.splitlines()[-1:] == [SENTENCES[command[0]]], text
            return None
        time.sleep(0.002)


def check_whole(folder: Path) -> None:
    """Read everything that has its final name."""
    for path in folder.rglob("*"):
        if not path.is_file() or path.name.startswith(PARTIAL) or "tfevents" in path.name:
            continue
        if path.name.endswith((".nii", ".nii.gz")):
            np.asarray(nib.load(path).dataobj)
        elif path.suffix == ".pt":
            torch.load(path, weights_only=True)
        elif path.suffix == ".safetensors":
            with safe_open(path, "pt") as file:
                for key in file.keys():  # noqa: SIM118
                    file.get_tensor(key)
        elif path.suffix == ".json":
            json.loads(path.read_text(encoding="utf-8"))
    for manifest in folder.rglob("manifest.json"):
        EmbeddingStore(manifest.parent).verify()


def finished_outputs(folder: Path) -> dict[str, int]:
    """The scans that are finished, and when their maps were written: a restart must leave them alone."""
    names = [path.stem for path in (folder / FOLDER).glob("*.json")]
    return {name: (folder / f"{name}_anomaly.nii.gz").stat().st_mtime_ns for name in names}


def assert_same(one: Path, two: Path) -> None:
    """Compare two output folders: tensors, voxels and tables, byte by byte."""

    def listing(folder: Path) -> list[str]:
        files = [path.relative_to(folder) for path in folder.rglob("*") if path.is_file()]
        # TensorBoard's logs have the time in them; a run that was killed leaves one for each attempt.
        return sorted(str(file) for file in files if "tfevents" not in file.name)

    assert listing(one) == listing(two), set(listing(one)) ^ set(listing(two))
    for name in listing(one):
        a, b = one / name, two / name
        if name.endswith(".pt"):
            states = [torch.load(path, weights_only=True) for path in (a, b)]
            if "checkpoints" not in name:
                assert states[0].keys() == states[1].keys(), name
                assert all(torch.equal(states[0][key], states[1][key]) for key in states[0]), name
        elif name.endswith(".nii.gz"):
            images = [np.asarray(nib.load(path).dataobj) for path in (a, b)]
            assert images[0].dtype == images[1].dtype, name
            assert np.array_equal(*images), name
        elif name.endswith(".torchscript"):
            assert torch.jit.load(a).code == torch.jit.load(b).code
        elif Path(name).parts[0] != FOLDER and not name.endswith((".lock", "report.html", ".jsonl", "request.json")):
            # A demo fits what lies in its own folder.
            told = [(folder / name).read_bytes().replace(os.fsencode(folder), b"") for folder in (one, two)]
            assert without_machine(told[0]) == without_machine(told[1]), name


def soak(
    kind: str,
    fixtures: Fixtures,
    folder: Path,
    kills: int,
    seed: int = 0,
    in_a_row: int = 5,
    kill: int = signal.SIGKILL,
) -> Outcome:
    """Kill a command until ``kills`` have hit it, each run after ``in_a_row`` kills coming to its end.

    Returns:
        What happened.

    Raises:
        AssertionError: when a file is half-written, a finished scan is done again, or a result differs.
    """
    generator = random.Random(seed)
    outcome = Outcome()
    expected = folder / "undisturbed"
    duration = run(COMMANDS[kind](fixtures, expected))
    assert duration is not None
    attempt = 0
    while outcome.kills < kills:
        # The same name in folders of their own: an output must not tell where it lies.
        out = folder / f"disturbed-{attempt}"
        attempt += 1
        command = COMMANDS[kind](fixtures, out)
        hits = 0
        while hits < in_a_row and outcome.kills < kills:
            before = finished_outputs(out)
            moment = generator.uniform(0, duration)
            taken = run(command, moment, kill)
            after = finished_outputs(out)
            assert all(after[name] == time_ns for name, time_ns in before.items()), "a finished scan was done again"
            if taken is not None:
                duration = min(duration, taken)  # the first run may have shared the machine
                outcome.too_late += 1
                break
            hits += 1
            outcome.kills += 1
            outcome.moments.append(moment / duration)
            if out.exists():
                check_whole(out)
                left = [] if kill == signal.SIGKILL else list(out.rglob(f"{PARTIAL}*"))
                assert not left, left
        else:
            run(command)
        assert_same(expected, out)
        outcome.compared += 1
    return outcome


def _main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--kills", type=int, default=50, help="of each command")
    parser.add_argument("--commands", nargs="+", default=["fit", "infer", "pretrain"], choices=["all", *COMMANDS])
    parser.add_argument("--signal", default="KILL", choices=("KILL", "TERM", "INT"))
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    kill = signal.Signals[f"SIG{options.signal}"]
    torch.set_num_threads(1)  # a fork cannot take other threads along
    with tempfile.TemporaryDirectory(prefix="interruptions-") as name:
        fixtures = make_fixtures(Path(name))
        _shrink_demo(fixtures.backbone)
        total = Outcome()
        for kind in COMMANDS if "all" in options.commands else options.commands:
            (Path(name) / kind).mkdir()
            outcome = soak(kind, fixtures, Path(name) / kind, options.kills, options.seed, kill=kill)
            counts = {name: value for name, value in vars(outcome).items() if name != "moments"}
            print(json.dumps({"command": kind, **counts}), flush=True)
            total.kills += outcome.kills
            total.too_late += outcome.too_late
            total.compared += outcome.compared
        print(json.dumps({"kills": total.kills, "too_late": total.too_late, "compared": total.compared}))


if __name__ == "__main__":
    _main()
