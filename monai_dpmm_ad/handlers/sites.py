# Copyright 2026 monai_dpmm_ad contributors. Licensed under the Apache License, Version 2.0.
"""Learn what the scans of each site differ by, of fitted scans that are mapped as new ones are."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

from ignite.engine import Engine, Events
from monai.utils import CommonKeys

from monai_dpmm_ad.data.covariates import read_person
from monai_dpmm_ad.engines import ScanEvaluator, iteration_scans
from monai_dpmm_ad.network import AnomalyNet
from monai_dpmm_ad.normative import NormativeMap
from monai_dpmm_ad.normative.site import NUM_CHANNELS, SITE_SHAPE, SiteCells, average_cells
from monai_dpmm_ad.normative.trend_map import TrendMap
from monai_dpmm_ad.utils.distributed import gather_lists

__all__ = ["SiteHandler", "watch_cells"]


class SiteHandler:
    """Learn the offset of each site, where ``network`` tells sites apart, when the calibration starts.

    Attach it after :class:`~monai_dpmm_ad.handlers.place.NormativeHandler`. New scans are matched to the fitted ones
    before they are mapped, the fitted ones were not: so some of each site are mapped once more, as new ones are.

    Args:
        network: its detector and its normative map are fitted.
        evaluator: maps scans of each site, see :func:`~monai_dpmm_ad.data.covariates.choose_of_sites`; its
            postprocessing ends with :class:`~monai_dpmm_ad.transforms.place.JudgeByPlaced`.

    Example:
        >>> from ignite.engine import Engine
        >>> from monai_dpmm_ad import AnomalyNet, create_detector, create_embedder
        >>> embedder, detector = create_embedder("pixels-8"), create_detector("dpmm", 64)
        >>> network = AnomalyNet(embedder, detector, image_size=64, normative="on")
        >>> engine = Engine(lambda engine, batch: None)
        >>> SiteHandler(network, evaluator=None).attach(engine)
        >>> _ = engine.run([0])
        >>> network.normative.site is None  # this network knows of no sites, so nothing was done
        True
    """

    def __init__(self, network: AnomalyNet, evaluator: ScanEvaluator) -> None:
        self.network = network
        self.evaluator = evaluator

    def attach(self, engine: Engine) -> None:
        """Register the handler's event."""
        engine.add_event_handler(Events.STARTED, self._start)

    def _start(self, engine: Engine) -> None:
        normative = self.network.normative
        if not isinstance(normative, TrendMap) or normative.sites is None:
            return
        seen: list[tuple[str, int, SiteCells]] = []
        with watch_cells(normative) as cells:
            keep = partial(self._keep, cells=cells, seen=seen)
            with self.evaluator.add_event_handler(Events.ITERATION_COMPLETED, keep):
                self.evaluator.run()
        of_site: dict[int, list[SiteCells]] = defaultdict(list)
        for _, site, scan in sorted(gather_lists(seen), key=lambda one: one[0]):  # whoever mapped it, and when
            of_site[site].append(scan)
        normative.sites.learn(of_site)

    def _keep(self, engine: Engine, cells: list[SiteCells], seen: list[tuple[str, int, SiteCells]]) -> None:
        for scan in iteration_scans(engine):
            meta = scan[CommonKeys.IMAGE].meta
            assert self.network.design is not None
            site = self.network.design.traits(read_person(meta)).site
            if site is not None and cells:
                seen.append((meta["name"], site, cells[-1]))
        cells.clear()


@contextmanager
def watch_cells(normative: NormativeMap) -> Iterator[list[SiteCells]]:
    """Have the deviates by place of every map that is finished meanwhile."""
    cells: list[SiteCells] = []
    hook = normative.register_forward_hook(partial(_average, cells), with_kwargs=True)
    try:
        yield cells
    finally:
        hook.remove()


def _average(
    cells: list[SiteCells], normative: NormativeMap, scan: tuple[Any, ...], traits: dict[str, Any], finished: Any
) -> None:
    """Keep what a scan's finished map was made of."""
    anomaly_map, image, affine, frame = scan
    deviates = normative.standardize(anomaly_map, image, affine, frame, **traits)[:NUM_CHANNELS]
    cells.append(average_cells(deviates, image, affine, frame, normative.lattice_of(SITE_SHAPE)))
