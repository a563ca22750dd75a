# Copyright 2026 monai_dpmm_ad contributors. Licensed under the Apache License, Version 2.0.
"""MONAI Label's batch inference, one study after the other, of which some may be unreadable."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from fastapi import HTTPException
from monailabel.interfaces.datastore import Datastore
from monailabel.interfaces.tasks.batch_infer import BatchInferTask

__all__ = ["BatchAnomaly"]


class BatchAnomaly(BatchInferTask):
    """Draw label maps of many studies and keep them in the datastore; one that fails does not stop the others."""

    def __call__(self, request: Mapping[str, Any], datastore: Datastore, infer: Callable[..., Any]) -> dict[str, Any]:
        """Process the studies.

        Args:
            request: ``model``, ``images`` (all, labeled, unlabeled, or names), and what ``infer`` takes.
            datastore: with the studies.
            infer: of the app.

        Returns:
            By study, what ``infer`` gives, or ``error``, the reason.
        """

        def infer_or_reason(one: Mapping[str, Any], store: Datastore) -> dict[str, Any]:
            try:
                found: dict[str, Any] = infer(one, store)
            except HTTPException as error:
                return {"error": error.detail}
            return found

        # By default MONAI Label deals the studies out to the GPUs, of which there may be none. The bundle stays where
        # it is anyway, and takes one study at a time.
        result: dict[str, Any] = super().__call__({**request, "multi_gpu": False}, datastore, infer_or_reason)
        return result
