# Copyright 2026 monai_dpmm_ad contributors. Licensed under the Apache License, Version 2.0.
"""Run a bundle on one scan at a time, with the network kept in memory, and take up a new bundle in its place."""

from __future__ import annotations

import os
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from monai_dpmm_ad.bundle import INFERENCE, MODEL
from monai_dpmm_ad.commands import AnomalyModel
from monai_dpmm_ad.errors import CheckpointError
from monai_dpmm_ad.handlers import ScanRow
from monai_dpmm_ad.handlers.regions import Region
from monai_dpmm_ad.label.requests import MapRequest
from monai_dpmm_ad.network import AnomalyNet
from monai_dpmm_ad.transforms.score import DEFAULT_RATE

__all__ = ["BundleRunner", "LoadedBundle", "Prediction"]


@dataclass(frozen=True)
class LoadedBundle:
    """A bundle in memory.

    Args:
        model: with the server's overrides.
        digest: of model and config: a score belongs to the digest that gave it.
    """

    model: AnomalyModel
    digest: str

    @property
    def network(self) -> AnomalyNet:
        """With the fitted state, in evaluation mode."""
        return self.model.network

    @property
    def defaults(self) -> MapRequest:
        """What the command line takes when it is told nothing."""
        settings = self.model.settings
        rate, smallest = settings["false_positive_rate"] or DEFAULT_RATE, settings["min_region_volume"]
        return MapRequest(float(rate), tuple(settings["axes"]), float(smallest))


@dataclass(frozen=True)
class Prediction:
    """What the bundle says of one scan.

    Args:
        scan: what the evaluator holds of it: ``pred`` (1, *spatial) on the scan's own grid, ``regions`` where the
            bundle has an atlas, ….
        row: the scan's line of ``scores.csv``.
        regions: by rising p-value, then by falling peak score.
        bundle: what drew the map.
        drift: whether the scan is one of the population that was fitted, as ``drift.json`` says it; None where the
            bundle cannot tell.
    """

    scan: dict[str, Any]
    row: ScanRow
    regions: list[Region]
    bundle: LoadedBundle
    drift: dict[str, Any] | None


class BundleRunner:
    """Draw maps with the bundle in a folder, and take up a new bundle when the folder's content is exchanged.

    One scan is processed at a time, whatever the number of threads that call: memory stays bounded.

    Args:
        root: folder of a fitted bundle.
        trust_bundle: run the bundle's own configs, which are code, see
            :func:`~monai_dpmm_ad.bundle.load_workflow`.
        overrides: settings by name, and values of other ids in ``configs/inference.json``, such as ``device``.
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
                    model = AnomalyModel.load(self.root, self.trust_bundle, **self.overrides)
                    self._loaded = state, LoadedBundle(model, model.digest)
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
        with self._lock:
            bundle = self.load()
            wanted = request or bundle.defaults
            asked: dict[str, Any] = {} if wanted.rate == bundle.defaults.rate else {"false_positive_rate": wanted.rate}
            result = bundle.model.predict(
                image,
                **asked,
                axes=list(wanted.axes),
                min_region_volume=wanted.min_region,
            )
        return Prediction(result.scan, result.row, result.regions, bundle, result.drift)


def _state_of(root: Path) -> tuple[Any, ...]:
    try:
        stats = [os.stat(root / name) for name in (MODEL, INFERENCE)]
    except FileNotFoundError:
        return ()  # loading says what is missing
    return tuple((stat.st_ino, stat.st_size, stat.st_mtime_ns) for stat in stats)
