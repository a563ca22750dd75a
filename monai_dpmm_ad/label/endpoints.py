# Copyright 2026 monai_dpmm_ad contributors. Licensed under the Apache License, Version 2.0.
"""MONAI Label's endpoints with a reason in the place of a bare 500, and nothing left behind by what is refused."""

from __future__ import annotations

import functools
import inspect
import json
from collections.abc import Awaitable, Callable
from typing import Any

from fastapi import BackgroundTasks, FastAPI, HTTPException
from fastapi.routing import APIRoute
from monailabel.config import settings
from monailabel.datastore.dicom import DICOMWebDatastore
from monailabel.endpoints import datastore, infer
from monailabel.interfaces.exception import ImageNotFoundException, LabelNotFoundException

__all__ = ["guard_endpoints"]

#: Arguments of endpoints that are JSON in a form.
_JSON_FIELDS = ("params", "info")


def guard_endpoints(app: FastAPI) -> None:
    """Put guarded endpoints before MONAI Label's own for inference and for the datastore.

    They call the originals, and answer 400 to a form field that is no JSON object, 404 to a study or label that the
    datastore does not have. An upload that is refused is deleted: MONAI Label deletes those of answered requests only.

    Args:
        app: the server, running or not; it may be guarded already.
    """
    if getattr(app.state, "guarded_by_dpmm_ad", False):
        return
    for router in (infer.router, datastore.router):
        for route in router.routes:
            if isinstance(route, APIRoute):
                path = settings.MONAI_LABEL_API_STR + route.path
                guarded = APIRoute(path, _guard(route.endpoint), methods=route.methods, include_in_schema=False)
                app.router.routes.insert(0, guarded)
    app.state.guarded_by_dpmm_ad = True


def _guard(endpoint: Callable[..., Awaitable[Any]]) -> Callable[..., Awaitable[Any]]:
    fields = [name for name in _JSON_FIELDS if name in inspect.signature(endpoint).parameters]

    @functools.wraps(endpoint)  # FastAPI reads the original's signature
    async def guarded(**arguments: Any) -> Any:
        for name in fields:
            _check_json(name, arguments[name])
        _check_output(arguments.get("output"))
        try:
            return await endpoint(**arguments)
        except Exception as error:
            tasks = arguments.get("background_tasks")
            if isinstance(tasks, BackgroundTasks):  # FastAPI runs them with an answer only
                await tasks()
            if isinstance(error, (ImageNotFoundException, LabelNotFoundException)):
                raise HTTPException(404, error.msg) from error
            raise

    return guarded


def _check_output(output: str | None) -> None:
    """Refuse before the study is processed what MONAI Label refuses afterwards, when the result is a stray file."""
    store = infer.app_instance().datastore()
    if output == infer.ResultType.dicom_seg and not isinstance(store, DICOMWebDatastore):
        raise HTTPException(400, "`output` must be image, json or all where the studies are files, got dicom_seg.")


def _check_json(name: str, text: str) -> None:
    try:
        value = json.loads(text) if text else {}
    except json.JSONDecodeError as error:
        raise HTTPException(400, f"`{name}` must be JSON, got {_shorten(text)}: {error}.") from error
    if not isinstance(value, dict):
        raise HTTPException(400, f'`{name}` must be a JSON object such as {{"rate": 0.01}}, got {_shorten(text)}.')


def _shorten(text: str) -> str:
    return repr(text if len(text) <= 60 else f"{text[:57]}...")
