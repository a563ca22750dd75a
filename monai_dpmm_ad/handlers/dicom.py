# Copyright 2026 monai_dpmm_ad contributors. Licensed under the Apache License, Version 2.0.
"""Write DICOM outputs once it is known whether a scan lies outside of what was fitted."""

from __future__ import annotations

import os

from ignite.engine import Engine, Events
from monai.utils import CommonKeys

from monai_dpmm_ad.engines import ScanEvaluator, iteration_scans
from monai_dpmm_ad.errors import SCAN_ERRORS
from monai_dpmm_ad.transforms import SaveDicomd

__all__ = ["DicomHandler"]


class DicomHandler:
    """Save each scan's map and mask with :class:`~monai_dpmm_ad.transforms.SaveDicomd`.

    Attach it after :class:`~monai_dpmm_ad.handlers.drift.DriftHandler`, whose ``in_range`` the files say, and before
    the table. Why there are none is added to the scan's ``warning``.

    Args:
        output_dir: folder of the outputs.

    Example:
        >>> import tempfile
        >>> from ignite.engine import Engine
        >>> engine = Engine(lambda engine, batch: [])
        >>> DicomHandler(tempfile.mkdtemp()).attach(engine)
        >>> engine.run([[]]).iteration
        1
    """

    def __init__(self, output_dir: str | os.PathLike[str]) -> None:
        self.save = SaveDicomd(output_dir)

    def attach(self, engine: ScanEvaluator) -> None:
        """Register the handler's event."""
        engine.add_event_handler(Events.ITERATION_COMPLETED, self._save)

    def _save(self, engine: Engine) -> None:
        for scan in iteration_scans(engine):
            try:
                notes = self.save.write(scan)
            except SCAN_ERRORS as error:
                assert isinstance(engine, ScanEvaluator)
                meta = scan[CommonKeys.PRED].meta
                engine.fail({"name": meta["name"], "image": meta["filename_or_obj"]}, error)
                return
            scan["warning"] = " ".join(filter(None, [scan.get("warning"), *notes])) or None
