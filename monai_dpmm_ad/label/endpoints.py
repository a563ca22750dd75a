# Copyright 2026 monai_dpmm_ad contributors. Licensed under the Apache License, Version 2.0.
"""Which of MONAI Label's endpoints are served, and what is checked before they run.

The lists below are complete: an endpoint of another release that is in none of them is not served, and one that is
missing there stops the server when it starts.
"""

from __future__ import annotations

import asyncio
import functools
import inspect
import json
import re
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping
from importlib.metadata import version
from typing import Any

from anyio import CapacityLimiter, to_thread
from fastapi import APIRouter, BackgroundTasks, FastAPI, HTTPException, UploadFile
from fastapi.routing import APIRoute
from monailabel.endpoints import (
    activelearning,
    batch_infer,
    datastore,
    infer,
    info,
    logs,
    model,
    ohif,
    proxy,
    scoring,
    session,
    train,
    wsi_infer,
)
from monailabel.interfaces.exception import ImageNotFoundException, LabelNotFoundException
from monailabel.interfaces.utils.app import app_instance

from monai_dpmm_ad.label.access import MAX_LIGHT, Access
from monai_dpmm_ad.label.names import (
    LABEL_SUFFIXES,
    UPLOAD_SUFFIXES,
    check_file_name,
    check_name,
    check_settings,
    check_tag,
)
from monai_dpmm_ad.label.segmentation import check_segmentation, segment

__all__ = ["DELETION", "REFUSED", "SERVED", "WORK", "add_endpoints", "list_endpoints"]

_MODULES = (
    *(activelearning, batch_infer, datastore, infer, info, logs, model, ohif, proxy, scoring, session, train),
    wsi_infer,
)
#: What computes, and so may take long.
WORK = (
    ("POST", "/infer/{model}"),
    ("POST", "/batch/infer/{model}"),
    ("POST", "/train/{model}"),
    ("POST", "/scoring/"),
    ("POST", "/scoring/{method}"),
    ("POST", "/activelearning/{strategy}"),
)
SERVED = (
    *WORK,
    ("GET", "/info/"),
    ("GET", "/batch/infer"),
    ("DELETE", "/batch/infer"),
    ("GET", "/train/"),
    ("DELETE", "/train/"),
    ("GET", "/scoring/"),
    ("DELETE", "/scoring/"),
    ("GET", "/datastore/"),
    ("PUT", "/datastore/"),
    ("PUT", "/datastore/image"),
    ("HEAD", "/datastore/image"),
    ("GET", "/datastore/image"),
    ("GET", "/datastore/image/info"),
    ("PUT", "/datastore/image/info"),
    ("PUT", "/datastore/label"),
    ("HEAD", "/datastore/label"),
    ("GET", "/datastore/label"),
    ("GET", "/datastore/label/info"),
    ("PUT", "/datastore/label/info"),
    ("PUT", "/datastore/updatelabelinfo"),
    ("GET", "/session/{session_id}"),
    ("PUT", "/session/"),
    ("DELETE", "/session/{session_id}"),
    ("GET", "/model/{model}"),
    ("GET", "/model/info/{model}"),
    ("GET", "/logs/"),
)
#: Served where ``--conf deletion true`` says so.
DELETION = (("DELETE", "/datastore/"), ("DELETE", "/datastore/image"), ("DELETE", "/datastore/label"))
_PROXY = "The server does not hand requests on to the DICOM server. Ask that one."
#: Never served, and why.
REFUSED = {
    ("PUT", "/model/{model}"): "Models are not taken over the network. Put the bundle into its folder on the server.",
    ("DELETE", "/model/{model}"): "The model is not deleted over the network.",
    ("GET", "/datastore/dataset"): "The whole archive is not sent. Copy the studies folder.",
    ("POST", "/infer/wsi/{model}"): "Whole-slide images are not processed here.",
    ("POST", "/infer/wsi_v2/{model}"): "Whole-slide images are not processed here.",
    ("POST", "/train/"): "Say what to train: /train/dpmm_ad_update, or /train/dpmm_ad_refit.",
    ("GET", "/logs/gpu"): "The server runs no commands for its clients.",
    ("GET", "/ohif/{path:path}"): "OHIF is not served here, since it needs the proxy.",
    **{
        (method, f"/proxy/dicom/{kind}{{path:path}}"): _PROXY
        for method in ("GET", "POST")
        for kind in ("wado/", "qido/", "stow/", "")
    },
}
#: Arguments of endpoints that are JSON in a form.
_JSON_FIELDS = ("params", "info")
_NAMES = ("image", "id", "label", "session_id", "model", "method", "strategy")


def list_endpoints() -> dict[tuple[str, str], APIRoute]:
    """MONAI Label's endpoints by method and path."""
    routers: Iterable[APIRouter] = (module.router for module in _MODULES)
    return {
        (method, route.path): route
        for router in routers
        for route in router.routes
        if isinstance(route, APIRoute)
        for method in route.methods or ()
    }


def add_endpoints(app: FastAPI, access: Access) -> None:
    """Serve MONAI Label's endpoints with a check before each and off the event loop; say why the others are refused.

    Args:
        app: gets the routes.
        access: what is allowed.

    Raises:
        RuntimeError: when the installed MONAI Label lacks one that is served.
    """
    found = list_endpoints()
    missing = [f"{method} {path}" for method, path in SERVED + DELETION if (method, path) not in found]
    if missing:
        raise RuntimeError(
            f"MONAI Label {version('monailabel')} has no endpoint {', '.join(missing)}. "
            "Install the release of constraints-label.txt."
        )
    work, light = CapacityLimiter(access.max_waiting), CapacityLimiter(MAX_LIGHT)
    served = SERVED + (DELETION if access.deletion else ())
    for method, path in served:
        limiter = work if (method, path) in WORK else light
        app.add_api_route(path, _guard(found[method, path].endpoint, limiter), methods=[method])
    off = {key: "Nothing is deleted. Start the server with --conf deletion true." for key in DELETION}
    for (method, path), reason in {**REFUSED, **off}.items():
        if (method, path) not in served:
            app.add_api_route(path, _refuse(reason), methods=[method], include_in_schema=False)
    for error in (ImageNotFoundException, LabelNotFoundException):
        app.add_exception_handler(error, _answer_not_found)


def _refuse(reason: str) -> Callable[[], None]:
    def refuse() -> None:
        raise HTTPException(403, reason)

    return refuse


async def _answer_not_found(request: Any, error: Any) -> Any:
    from fastapi.responses import JSONResponse

    return JSONResponse({"detail": error.msg}, 404)


def _guard(endpoint: Callable[..., Awaitable[Any]], limiter: CapacityLimiter) -> Callable[..., Awaitable[Any]]:
    """Check the arguments, then run the endpoint in a thread: MONAI Label's block, whatever they are called."""

    @functools.wraps(endpoint)  # FastAPI reads the original's signature
    async def guarded(**arguments: Any) -> Any:
        run = functools.partial(_run, endpoint, arguments)
        try:
            return await to_thread.run_sync(run, limiter=limiter)
        except Exception:
            tasks = arguments.get("background_tasks")
            if isinstance(tasks, BackgroundTasks):  # FastAPI runs them with an answer only
                await tasks()
            raise

    return guarded


def _run(endpoint: Callable[..., Awaitable[Any]], arguments: dict[str, Any]) -> Any:
    for name in _NAMES:
        if isinstance(arguments.get(name), str) and arguments[name]:
            check_name(name, arguments[name])
    if arguments.get("tag"):
        check_tag(arguments["tag"])
    for field in _JSON_FIELDS:
        check_settings(_read_json(field, arguments.get(field)))
    for name, upload in _uploads(arguments):
        # Clients send the path that a file has on their side; what counts is its last part.
        upload.filename = re.split(r"[/\\]", upload.filename or "")[-1]
        check_file_name(upload.filename, LABEL_SUFFIXES if name == "label" else UPLOAD_SUFFIXES)
    if arguments.get("uncompress"):
        raise HTTPException(400, "`uncompress` must be false: archives may hold links and paths. Send the scan itself.")
    if arguments.get("output") == infer.ResultType.dicom_seg and inspect.unwrap(endpoint) is infer.api_run_inference:
        instance, model = app_instance(), arguments["model"]
        check_segmentation(instance, model)
        return segment(instance, model, arguments["image"], _read_json("params", arguments["params"]))
    return asyncio.run(_await(endpoint, arguments))


async def _await(endpoint: Callable[..., Awaitable[Any]], arguments: dict[str, Any]) -> Any:
    return await endpoint(**arguments)


def _uploads(arguments: Mapping[str, Any]) -> Iterator[tuple[str, UploadFile]]:
    for name, value in arguments.items():
        for upload in value if isinstance(value, list) else [value]:
            if hasattr(upload, "filename"):
                yield name, upload


def _read_json(field: str, text: str | dict[str, Any] | None) -> dict[str, Any]:
    """Read a form's field; a body that is JSON anyway comes as it is."""
    if not isinstance(text, str):
        return text or {}
    try:
        value = json.loads(text) if text else {}
    except (json.JSONDecodeError, RecursionError) as error:
        raise HTTPException(400, f"`{field}` must be JSON, got {_shorten(text)}: {error}.") from error
    if not isinstance(value, dict):
        raise HTTPException(400, f'`{field}` must be a JSON object such as {{"rate": 0.01}}, got {_shorten(text)}.')
    return value


def _shorten(text: str) -> str:
    return repr(text if len(text) <= 60 else f"{text[:57]}...")
