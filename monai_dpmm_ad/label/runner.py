# Copyright 2026 monai_dpmm_ad contributors. Licensed under the Apache License, Version 2.0.
"""Run the bundle's own inference config on one scan at a time, with the network kept in memory."""

from __future__ import annotations

import copy
import hashlib
import os
import tempfile
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ignite.engine import Events
from monai.bundle import ConfigParser

from monai_dpmm_ad.bundle import INFERENCE, MODEL, load_network, load_workflow
from monai_dpmm_ad.datalist import resolve_datalist
from monai_dpmm_ad.engines import ScanEvaluator
from monai_dpmm_ad.errors import CheckpointError, ScanError
from monai_dpmm_ad.handlers import DriftHandler, ScanRow, ScanTable
from monai_dpmm_ad.label.requests import MapRequest
from monai_dpmm_ad.lesions import Lesion
from monai_dpmm_ad.network import AnomalyNet

__all__ = ["BundleRunner", "LoadedBundle", "Prediction"]

# What the server does in its own way: the network is loaded once, nobody watches a bar, files are written on request.
_NOT_SERVED = ("CheckpointLoader", "ScanProgress", "SaveScand")


@dataclass(frozen=True)
class LoadedBundle:
    """A bundle in memory.

    Args:
        root: its folder.
        config: ``configs/inference.json`` with the server's overrides.
        network: with the fitted state, in evaluation mode.
        digest: of model and config: a score belongs to the digest that gave it.
    """

    root: Path
    config: dict[str, Any]
    network: AnomalyNet
    digest: str

    @property
    def defaults(self) -> MapRequest:
        """What the command line takes when it is told nothing."""
        config = self.config
        return MapRequest(
            float(config["false_positive_rate"]), tuple(config["axes"]), float(config["min_lesion_volume"])
        )


@dataclass(frozen=True)
class Prediction:
    """What the bundle says of one scan.

    Args:
        scan: what the evaluator holds of it: ``pred`` (1, *spatial) on the scan's own grid, ``regions`` where the
            bundle has an atlas, ….
        row: the scan's line of ``scores.csv``.
        lesions: by falling peak score.
        bundle: what drew the map.
        drift: whether the scan is one of the population that was fitted, as ``drift.json`` says it; None where the
            bundle cannot tell.
    """

    scan: dict[str, Any]
    row: ScanRow
    lesions: list[Lesion]
    bundle: LoadedBundle
    drift: dict[str, Any] | None


class BundleRunner:
    """Draw maps with the bundle in a folder, and take up a new bundle when the folder's content is exchanged.

    One scan is processed at a time, whatever the number of threads that call: memory stays bounded.

    Args:
        root: folder of a fitted bundle.
        trust_bundle: run the bundle's configs even where they are not this package's own, see
            :func:`~monai_dpmm_ad.bundle.load_workflow`.
        overrides: values of ids in ``configs/inference.json``, for example ``device``.
    """

    def __init__(self, root: str | os.PathLike[str], trust_bundle: bool = False, **overrides: Any) -> None:
        self.root = Path(root).absolute()
        self.trust_bundle = trust_bundle
        self.overrides = overrides
        self._lock = threading.RLock()
        self._loaded: tuple[tuple[Any, ...], LoadedBundle] | None = None

    def load(self) -> LoadedBundle:
        """Load the bundle, again only if it has changed on disk.

        Raises:
            CheckpointError: when the folder holds no fitted bundle, or never stays the same while it is read.
        """
        with self._lock:
            for _ in range(5):
                state = _state_of(self.root)
                if self._loaded is None or self._loaded[0] != state:
                    self._loaded = state, _load(self.root, self.trust_bundle, self.overrides)
                if _state_of(self.root) == state:  # else another bundle was swapped in halfway
                    return self._loaded[1]
            raise CheckpointError(f"{self.root}: changes all the time. Wait until it has been written.")

    def run(self, image: str | os.PathLike[str], request: MapRequest | None = None) -> Prediction:
        """Process one scan as ``monai-dpmm-ad infer`` does.

        Args:
            image: a file, or the folder of a DICOM series.
            request: None takes the bundle's defaults.

        Raises:
            ScanError: when the scan cannot be processed.
        """
        _check_scan(os.fspath(image))
        with self._lock:
            bundle = self.load()
            return _run(bundle, os.path.abspath(image), request or bundle.defaults)


def _state_of(root: Path) -> tuple[Any, ...]:
    try:
        stats = [os.stat(root / name) for name in (MODEL, INFERENCE)]
    except FileNotFoundError:
        return ()  # loading says what is missing
    return tuple((stat.st_ino, stat.st_size, stat.st_mtime_ns) for stat in stats)


def _load(root: Path, trust_bundle: bool, overrides: Mapping[str, Any]) -> LoadedBundle:
    workflow = load_workflow(
        root, ["inference"], "inference", own_logging=False, trust_bundle=trust_bundle, **overrides
    )
    content = (root / MODEL).read_bytes() + (root / INFERENCE).read_bytes()
    network = load_network(workflow, root)
    if not network.calibration.fitted:
        raise CheckpointError(f"{root}: has no calibration, so there are no thresholds. Make a bundle with fit.")
    config = {**workflow.parser.get(), "network_def": network, "network": network}
    config["handlers"] = _served(config["handlers"])
    config["postprocessing"] = {
        **config["postprocessing"],
        "transforms": _served(config["postprocessing"]["transforms"]),
    }
    return LoadedBundle(root, config, network, hashlib.sha256(content).hexdigest()[:16])


def _served(components: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [component for component in components if component["_target_"].split(".")[-1] not in _NOT_SERVED]


def _check_scan(path: str) -> None:
    if path.lower().endswith(".json"):  # a client may upload one: it would make the server open any file that it names
        raise ScanError(path, "is a list of scans, not a scan")
    number = len(resolve_datalist(path))
    if number != 1:
        raise ScanError(path, f"holds {number} scans; name one of them")


def _run(bundle: LoadedBundle, image: str, request: MapRequest) -> Prediction:
    found: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory(prefix="dpmm-ad-") as folder:
        # The network is shared; everything else is made anew, so that no request sees another's state.
        parser = ConfigParser(copy.deepcopy(bundle.config, {id(bundle.network): bundle.network}))
        parser.update(
            {
                "dataset_dir": image,
                "output_dir": folder,
                "false_positive_rate": request.rate,
                "axes": list(request.axes),
                "min_lesion_volume": request.min_lesion,
            }
        )
        evaluator: ScanEvaluator = parser.get_parsed_content("evaluator")
        evaluator.add_event_handler(Events.ITERATION_COMPLETED, lambda engine: found.extend(_joined(engine)))
        evaluator.run()
        handlers = parser.get_parsed_content("handlers")
        table = next(handler for handler in handlers if isinstance(handler, ScanTable))
        drift = next((handler.result for handler in handlers if isinstance(handler, DriftHandler)), None)
    if evaluator.failures:
        failure = evaluator.failures[0]
        raise ScanError(failure.path, failure.reason)
    row = table.rows[0]
    return Prediction(found[0], row, table.lesions.get(row.name, []), bundle, drift)


def _joined(engine: ScanEvaluator) -> list[dict[str, Any]]:
    """MONAI parts what it knows of a scan: what was there before the network ran stays in the batch."""
    state = engine.state
    return [{**before, **after} for before, after in zip(state.batch, state.output, strict=True)]  # type: ignore[arg-type]
