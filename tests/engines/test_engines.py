# Copyright 2026 monai_dpmm_ad contributors. Licensed under the Apache License, Version 2.0.
"""The evaluator's network runs ahead of everything else, and nobody can tell from the results."""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from ignite.engine import Events
from monai.data import DataLoader, MetaTensor, list_data_collate
from monai.transforms import Compose
from torch import Tensor, nn

from monai_dpmm_ad.calibration.drift import PatchSummary
from monai_dpmm_ad.data.dataset import ScanDataset, collate_scans
from monai_dpmm_ad.engines import PATCH_SUMMARY, ScanEvaluator, iteration_scans
from monai_dpmm_ad.handlers import ScanTable
from monai_dpmm_ad.network.inferer import VolumeInferer
from monai_dpmm_ad.utils.files import claims
from monai_dpmm_ad.utils.outputs import OutputFolder, lock_output

NAMES = ["a", "b", "c", "d"]
WAIT = 30  # seconds, of what must happen at once


class Network(nn.Module):
    """Draws the image's own values; ``before`` sees each scan's value first."""

    def __init__(self, before: Callable[[int], object] = lambda _: None) -> None:
        super().__init__()
        self.before = before

    def forward(self, images: Tensor, positions: Tensor | None = None, summarise: bool = False) -> Any:
        self.before(int(images.max()))
        return (2 * images, PatchSummary(images[0, 0, 0], torch.ones(2))) if summarise else 2 * images


def load(item: dict[str, Any]) -> dict[str, Any]:
    if item.get("unreadable"):
        raise ValueError("cannot be read")
    image = torch.full((1, 4, 4, 3), float(item["value"]))
    return {**item, "image": MetaTensor(image, meta={"name": item["name"], "filename_or_obj": item["image"]})}


def make_evaluator(
    network: Network, postprocessing: Any = None, summarise: bool = False, load: Any = load, **unreadable: bool
) -> ScanEvaluator:
    """Four scans whose voxels are 1, 2, 3 and 4, in batches of one slice."""
    items = [
        {"name": name, "image": f"{name}.nii.gz", "value": value, "unreadable": unreadable.get(name, False)}
        for value, name in enumerate(NAMES, start=1)
    ]
    loader = DataLoader(ScanDataset(items, load), batch_size=1, num_workers=0, collate_fn=collate_scans)
    inferer = VolumeInferer(batch_size=1)
    options = {"inferer": inferer, "postprocessing": postprocessing, "summarise": summarise}
    return ScanEvaluator(torch.device("cpu"), loader, network, **options)


def collect(evaluator: ScanEvaluator) -> dict[str, Any]:
    found: dict[str, Any] = {}

    def keep(engine: ScanEvaluator) -> None:
        for scan in iteration_scans(engine):
            found[scan["pred"].meta["name"]] = scan

    evaluator.add_event_handler(Events.ITERATION_COMPLETED, keep)
    return found


def test_each_scan_gets_its_own_map_in_order_every_time() -> None:
    evaluator = make_evaluator(Network())
    found = collect(evaluator)
    for _ in range(2):
        found.clear()
        evaluator.run()
        assert list(found) == NAMES
        for value, scan in enumerate(found.values(), start=1):
            assert torch.equal(scan["image"].as_tensor(), torch.full((1, 4, 4, 3), float(value)))
            assert torch.equal(scan["pred"].as_tensor(), torch.full((1, 4, 4, 3), 2.0 * value))
        assert not evaluator.failures


def test_the_network_works_on_the_next_scan_while_this_one_is_handled() -> None:
    begun = {value: threading.Event() for value in range(1, 5)}
    evaluator = make_evaluator(Network(lambda value: begun[value].set()))

    @evaluator.on(Events.ITERATION_COMPLETED)
    def wait(engine: ScanEvaluator) -> None:
        iteration = engine.state.iteration
        assert iteration == 4 or begun[iteration + 1].wait(WAIT)
        assert iteration > 2 or not begun[iteration + 2].is_set()

    evaluator.run()
    assert evaluator.state.iteration == 4


def test_nothing_is_prepared_beside_a_large_scan(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("monai_dpmm_ad.engines.evaluator.ALONE", 0)
    begun: list[str] = []

    def note(item: dict[str, Any]) -> dict[str, Any]:
        begun.append(item["name"])
        return load(item)

    evaluator = make_evaluator(Network(lambda value: begun.append(f"map of {NAMES[value - 1]}")), load=note)
    evaluator.add_event_handler(Events.ITERATION_COMPLETED, lambda engine: begun.append("done"))
    evaluator.run()
    expected = [step for name in NAMES for step in (name, *[f"map of {name}"] * 3, "done")]
    assert begun == expected


def test_what_a_step_replaces_is_let_go_and_so_are_results_when_the_next_scan_comes() -> None:
    seen: list[weakref.ref[Any]] = []

    def replace(scan: dict[str, Any]) -> dict[str, Any]:
        assert all(reference() is None for reference in seen)
        seen.append(weakref.ref(scan["pred"]))
        return {**scan, "pred": scan["pred"] + 1}

    def check(scan: dict[str, Any]) -> dict[str, Any]:
        assert seen[-1]() is None
        seen.append(weakref.ref(scan["pred"]))
        return scan

    evaluator = make_evaluator(Network(), Compose([replace, check]))
    evaluator.run()
    assert len(seen) == 8


def test_the_output_folder_is_let_go_however_a_run_ends(tmp_path: Path) -> None:
    evaluator = make_evaluator(Network())
    ScanTable(tmp_path).attach(evaluator)
    with pytest.raises(KeyError, match="score"):  # nobody has scored the scans
        evaluator.run()
    assert tmp_path not in [claim.path for claim in claims if isinstance(claim, OutputFolder)]
    lock_output(tmp_path).release()


def test_gradients_are_off_and_the_network_evaluates_in_its_thread() -> None:
    seen = []
    network = Network(lambda _: seen.append((torch.is_grad_enabled(), network.training)))
    make_evaluator(network.train()).run()
    assert set(seen) == {(False, False)}
    assert network.training


def refuse(error: Exception, value: int) -> Callable[[int], None]:
    def check(seen: int) -> None:
        if seen == value:
            raise error

    return check


@pytest.mark.parametrize("error", [RuntimeError("no memory left"), OSError("no space left")])
@pytest.mark.parametrize("step", ["read", "collate", "map", "save"])
def test_a_scan_that_fails_is_reported_and_the_others_go_on(
    step: str, error: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    def collate(batch: list[dict[str, Any]]) -> Any:
        refuse(RuntimeError("cannot be read"), 2)(batch[0]["value"])
        return list_data_collate(batch)

    if step == "collate":
        monkeypatch.setattr("monai_dpmm_ad.data.dataset.list_data_collate", collate)

    def save(scan: dict[str, Any]) -> dict[str, Any]:
        if step == "save":
            refuse(error, 4)(int(scan["pred"].max()))
        return scan

    network = Network(refuse(error, 2) if step == "map" else lambda _: None)
    evaluator = make_evaluator(network, save, **({"b": True} if step == "read" else {}))
    found = collect(evaluator)
    evaluator.run()
    assert list(found) == ["a", "c", "d"]
    reason = "cannot be read" if step in ("read", "collate") else str(error)
    assert [(f.name, f.path, f.reason) for f in evaluator.failures] == [("b", "b.nii.gz", reason)]


def test_a_mistake_of_ours_is_not_blamed_on_the_scan() -> None:
    with pytest.raises(KeyError, match="mistake"):
        make_evaluator(Network(refuse(KeyError("mistake"), 2))).run()


def test_a_loader_that_ends_too_soon_does_not_pass_for_a_finished_run() -> None:
    class Short(DataLoader):
        def __len__(self) -> int:
            return 5

    dataset = ScanDataset([{"name": "a", "image": "a.nii.gz", "value": 1}], load)
    loader = Short(dataset, batch_size=1, num_workers=0, collate_fn=collate_scans)
    evaluator = ScanEvaluator(torch.device("cpu"), loader, Network(), inferer=VolumeInferer())
    with pytest.raises(RuntimeError, match="gave 1 of 5 items"):
        evaluator.run()


def test_the_summary_of_a_scan_comes_with_that_scan() -> None:
    evaluator = make_evaluator(Network(refuse(RuntimeError("halfway"), 2)), summarise=True)
    found = collect(evaluator)
    evaluator.run()
    # 3 slices of 4 patches each: usage is the sum over the slices, divided by the number of patches
    expected = {name: {"profile": [value] * 3, "usage": [3 / 12] * 2} for name, value in (("a", 1), ("c", 3), ("d", 4))}
    assert {name: scan[PATCH_SUMMARY] for name, scan in found.items()} == expected


def test_no_summary_is_asked_for_by_default() -> None:
    evaluator = make_evaluator(Network())
    found = collect(evaluator)
    evaluator.run()
    assert [scan[PATCH_SUMMARY] for scan in found.values()] == [None] * 4


def test_an_interrupted_run_ends_at_the_next_slices() -> None:
    waiting, passes = threading.Event(), []

    def before(value: int) -> None:
        passes.append(value)
        if value == 2:
            waiting.set()
            assert evaluator._prefetcher._stopped.wait(WAIT)  # the run has been left while this pass was under way

    evaluator = make_evaluator(Network(before))

    @evaluator.on(Events.ITERATION_COMPLETED)
    def interrupt(_: ScanEvaluator) -> None:
        assert waiting.wait(WAIT)
        raise KeyboardInterrupt

    threads = threading.active_count()
    with pytest.raises(KeyboardInterrupt):
        evaluator.run()
    assert passes == [1, 1, 1, 2]
    assert threading.active_count() == threads
