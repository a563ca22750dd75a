# Copyright 2026 monai_dpmm_ad contributors. Licensed under the Apache License, Version 2.0.
"""What the server serves: ``monailabel start_server --uvicorn_app monai_dpmm_ad.label.server:app …``.

MONAI Label's own application lets whoever reaches it write files and replace the model; this one has its endpoints
behind checks. ``--uvicorn_app`` is the place that MONAI Label has for that.
"""

from __future__ import annotations

import hmac
import os
import shutil
import tempfile
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any

from fastapi import FastAPI, Form, HTTPException
from monailabel import app as stock
from monailabel.config import settings
from monailabel.endpoints import login
from starlette.middleware.cors import CORSMiddleware

from monai_dpmm_ad import __version__
from monai_dpmm_ad.label.access import Access, Gate, read_access
from monai_dpmm_ad.label.endpoints import add_endpoints

__all__ = ["app", "make_app"]


def make_app(access: Access) -> Gate:
    """Make the application.

    Args:
        access: what is allowed.
    """
    api = FastAPI(title="monai_dpmm_ad", version=__version__, docs_url="/", redoc_url=None, lifespan=_lifespan)
    add_endpoints(api, access)
    if access.oauth:
        api.include_router(login.router)
    elif access.token:
        _add_login(api, access.token)
    inner: Any = api
    if access.origins:
        inner = CORSMiddleware(
            api, allow_origins=sorted(access.origins), allow_methods=["*"], allow_headers=["*"], max_age=60
        )
    return Gate(inner, access)


@asynccontextmanager
async def _lifespan(api: FastAPI) -> AsyncIterator[None]:
    """MONAI Label's own start, with a temporary folder that nobody else can write to: it makes names before files."""
    before = tempfile.tempdir, os.environ.get("TMPDIR")
    folder = tempfile.mkdtemp(prefix="dpmm-ad-server-")
    tempfile.tempdir = os.environ["TMPDIR"] = folder
    try:
        async with stock.lifespan(api):
            yield
    finally:
        tempfile.tempdir = before[0]
        os.environ.pop("TMPDIR")
        os.environ |= {"TMPDIR": before[1]} if before[1] is not None else {}
        shutil.rmtree(folder, ignore_errors=True)


def _add_login(api: FastAPI, token: str) -> None:
    """What 3D Slicer's plugin asks where a server wants a password: the token is the password."""

    @api.get("/auth/")
    async def is_login_wanted() -> Mapping[str, Any]:
        return {"enabled": True, "client_id": None, "realm": None}

    @api.post("/auth/token")
    async def login_with_password(password: str = Form("")) -> Mapping[str, str]:
        if not hmac.compare_digest(password.encode(), token.encode()):
            raise HTTPException(401, "The password must be the server's token.", {"WWW-Authenticate": "Bearer"})
        return {"access_token": token, "token_type": "Bearer"}

    @api.get("/auth/token/valid")
    async def is_token_valid() -> Mapping[str, Any]:  # the gate has let it pass
        return {"username": "", "roles": []}


app = make_app(read_access(settings.MONAI_LABEL_APP_CONF, settings.MONAI_LABEL_AUTH_ENABLE))
