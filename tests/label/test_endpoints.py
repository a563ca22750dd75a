# Copyright 2026 monai_dpmm_ad contributors. Licensed under the Apache License, Version 2.0.
"""Whether the installed MONAI Label has the endpoints that are served, and no others than are known."""

from __future__ import annotations

import pytest

pytest.importorskip("monailabel", reason="MONAI Label is not installed here; `make test-label` runs these tests")

from fastapi import FastAPI
from starlette.routing import Match

from monai_dpmm_ad.label import endpoints
from monai_dpmm_ad.label.access import Access
from monai_dpmm_ad.label.endpoints import DELETION, REFUSED, SERVED, WORK, add_endpoints, list_endpoints

pytestmark = pytest.mark.filterwarnings("default")


def test_every_endpoint_of_the_installed_release_is_known() -> None:
    # When this fails MONAI Label has changed: decide for each endpoint whether it is served, and list it.
    assert set(list_endpoints()) == {*SERVED, *DELETION, *REFUSED}
    assert len(SERVED) + len(DELETION) + len(REFUSED) == len({*SERVED, *DELETION, *REFUSED})
    assert set(WORK) <= set(SERVED)


def test_a_release_that_lacks_one_stops_the_server(monkeypatch: pytest.MonkeyPatch) -> None:
    found = list_endpoints()
    del found["PUT", "/datastore/label"]
    monkeypatch.setattr(endpoints, "list_endpoints", lambda: found)
    with pytest.raises(RuntimeError, match="has no endpoint PUT /datastore/label"):
        add_endpoints(FastAPI(), Access())


def test_an_endpoint_to_come_is_not_served(monkeypatch: pytest.MonkeyPatch) -> None:
    found = list_endpoints()
    monkeypatch.setattr(endpoints, "list_endpoints", lambda: {**found, ("POST", "/new/"): found["GET", "/info/"]})
    app = FastAPI(openapi_url=None)
    add_endpoints(app, Access())
    for method, path, served in (("POST", "/new/", False), ("GET", "/info/", True)):
        scope = {"type": "http", "method": method, "path": path, "root_path": "", "headers": []}
        assert any(route.matches(scope)[0] == Match.FULL for route in app.routes) == served
