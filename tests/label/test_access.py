# Copyright 2026 monai_dpmm_ad contributors. Licensed under the Apache License, Version 2.0.
"""The gate before the server, without a server."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest

from monai_dpmm_ad.label.access import MAX_LIGHT, Access, Gate, read_access

TOKEN = "abcdefghijklmnop-0123"
HERE = ("127.0.0.1", 8000)


async def read_and_agree(scope: Any, receive: Any, send: Any) -> None:
    while (await receive()).get("more_body"):
        pass
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b"{}"})


def scope_of(path: str = "/info/", method: str = "GET", server: Any = HERE, **headers: str) -> dict[str, Any]:
    named = {"host": "127.0.0.1:8000", **{name.replace("_", "-"): value for name, value in headers.items()}}
    encoded = [(name.encode(), value.encode()) for name, value in named.items()]
    return {"type": "http", "method": method, "path": path, "root_path": "", "server": server, "headers": encoded}


def ask(gate: Gate, scope: dict[str, Any], parts: Iterable[bytes] = (b"",)) -> tuple[int, str]:
    """Status and reason of the answer."""
    parts, sent = list(parts), []
    messages = [{"type": "http.request", "body": b, "more_body": n + 1 < len(parts)} for n, b in enumerate(parts)]

    async def receive() -> Any:
        return messages.pop(0)

    async def send(message: Any) -> None:
        sent.append(message)

    asyncio.run(gate(scope, receive, send))
    assert [message["type"] for message in sent] == ["http.response.start", "http.response.body"]
    return sent[0]["status"], json.loads(sent[1]["body"]).get("detail", "")


@pytest.mark.parametrize("address", ["127.0.0.1", "127.5.5.5", "::1", "::ffff:127.0.0.1"])
def test_this_machine_needs_no_token(address: str) -> None:
    assert ask(Gate(read_and_agree, Access()), scope_of(server=(address, 8000)))[0] == 200


@pytest.mark.parametrize("address", ["192.168.1.5", "0.0.0.0", "::", "::ffff:10.0.0.1", "hospital", ""])
def test_any_other_address_needs_one(address: str) -> None:
    status, reason = ask(Gate(read_and_agree, Access()), scope_of(server=(address, 8000)))
    assert (status, "--conf token" in reason) == (403, True)
    gate = Gate(read_and_agree, Access(token=TOKEN))
    assert ask(gate, scope_of(server=(address, 8000)))[0] == 401
    assert ask(gate, scope_of(server=(address, 8000), authorization=f"Bearer {TOKEN}"))[0] == 200
    assert ask(Gate(read_and_agree, Access(oauth=True)), scope_of(server=(address, 8000)))[0] == 200


@pytest.mark.parametrize(
    "given", ["", TOKEN, f"Basic {TOKEN}", "Bearer", f"Bearer {TOKEN}x", f"Bearer {TOKEN.upper()}"]
)
def test_a_wrong_token_is_none(given: str) -> None:
    gate = Gate(read_and_agree, Access(token=TOKEN))
    for path in ("/info/", "/auth/token/valid", "/auth/../info/", "/AUTH/", "//auth/"):
        assert ask(gate, scope_of(path, authorization=given))[0] == 401
    assert ask(gate, scope_of("/auth/"))[0] == 200
    assert ask(gate, scope_of(authorization=f"bearer {TOKEN}"))[0] == 200


@pytest.mark.parametrize("host", ["evil.example", "evil.example:8000", "127.0.0.1.evil.example", "", "localhost.evil"])
def test_a_page_whose_name_means_this_machine_is_refused(host: str) -> None:
    status, reason = ask(Gate(read_and_agree, Access()), scope_of(host=host))
    assert (status, "does not answer to the name" in reason) == (403, True)
    assert (
        ask(Gate(read_and_agree, Access(token=TOKEN)), scope_of(host=host, authorization=f"Bearer {TOKEN}"))[0] == 200
    )


@pytest.mark.parametrize("host", ["localhost", "LOCALHOST:8000", "127.0.0.1", "[::1]:8000"])
def test_this_machines_names_are_answered_to(host: str) -> None:
    assert ask(Gate(read_and_agree, Access()), scope_of(host=host))[0] == 200


PAGES = {
    "own": ({"origin": "http://127.0.0.1:8000"}, 200),
    "own, in capitals": ({"origin": "HTTP://127.0.0.1:8000"}, 200),
    "another": ({"origin": "https://evil.example"}, 403),
    "another port": ({"origin": "http://127.0.0.1:9000"}, 403),
    "a file": ({"origin": "null"}, 403),
    "a file, to nobody": ({"origin": "null", "host": ""}, 403),
    "own address as a user": ({"origin": "http://127.0.0.1:8000@evil.example"}, 403),
    "listed": ({"origin": "https://viewer.example:3000"}, 200),
    "listed, in capitals": ({"origin": "https://VIEWER.example:3000"}, 200),
    "listed, other scheme": ({"origin": "http://viewer.example:3000"}, 403),
    "an image of another page": ({"sec_fetch_site": "cross-site"}, 403),
    "an image of a neighbour": ({"sec_fetch_site": "same-site"}, 403),
    "typed by the user": ({"sec_fetch_site": "none"}, 200),
}


@pytest.mark.parametrize("kind", PAGES)
@pytest.mark.parametrize("method", ["GET", "POST", "PUT", "OPTIONS"])
def test_web_pages_of_others_may_not_ask(kind: str, method: str) -> None:
    headers, status = PAGES[kind]
    access = read_access({"origins": "https://viewer.example:3000/"})
    assert ask(Gate(read_and_agree, access), scope_of(method=method, **headers))[0] == status


def test_a_listed_pages_preflight_passes_without_the_token() -> None:
    gate = Gate(read_and_agree, read_access({"origins": "https://viewer.example", "token": TOKEN}))
    headers = {"origin": "https://viewer.example", "access_control_request_method": "PUT"}
    assert ask(gate, scope_of(method="OPTIONS", **headers))[0] == 200
    assert ask(gate, scope_of(method="PUT", **headers))[0] == 401
    assert ask(gate, scope_of(method="OPTIONS", **{**headers, "origin": "https://evil.example"}))[0] == 403


def test_a_body_is_bounded_whatever_it_claims() -> None:
    gate = Gate(read_and_agree, Access(max_upload=1000))
    large = Gate(read_and_agree, Access(max_upload=9 * 10**6))
    for kind, status in (("multipart/form-data; boundary=x", 200), ("application/json", 413)):  # no file, no megabytes
        assert ask(large, scope_of(method="PUT", content_type=kind, content_length="2000000"), [b"x"])[0] == status
        assert ask(large, scope_of(method="PUT", content_type=kind), [bytes(2 * 10**6)])[0] == status
    assert ask(gate, scope_of(method="PUT", content_length="1000"), [bytes(1000)])[0] == 200
    assert ask(gate, scope_of(method="PUT", content_length="1001"), [])[0] == 413
    assert ask(gate, scope_of(method="PUT", content_length="-1"), [])[0] == 413
    assert ask(gate, scope_of(method="PUT", transfer_encoding="chunked"), [bytes(400)] * 3)[0] == 413


def test_an_application_that_swallows_the_end_of_the_body_is_not_believed() -> None:
    async def swallow(scope: Any, receive: Any, send: Any) -> None:
        try:
            await read_and_agree(scope, receive, send)
        except Exception:
            await send({"type": "http.response.start", "status": 400, "headers": []})
            await send({"type": "http.response.body", "body": b"{}"})

    assert ask(Gate(swallow, Access(max_upload=10)), scope_of(method="PUT"), [bytes(8), bytes(8)])[0] == 413


@pytest.mark.parametrize(("path", "method", "bound"), [("/infer/m", "POST", 3), ("/info/", "GET", MAX_LIGHT)])
def test_only_so_many_wait(path: str, method: str, bound: int) -> None:
    async def run() -> list[int]:
        release = asyncio.Event()
        statuses = []

        async def wait(scope: Any, receive: Any, send: Any) -> None:
            await release.wait()
            await read_and_agree(scope, receive, send)

        gate = Gate(wait, Access(max_waiting=3))

        async def one(scope: dict[str, Any]) -> None:
            async def receive() -> Any:
                return {"type": "http.request", "body": b""}

            async def send(message: Any) -> None:
                if message["type"] == "http.response.start":
                    statuses.append(message["status"])

            await gate(scope, receive, send)

        tasks = [asyncio.create_task(one(scope_of(path, method))) for _ in range(bound + 2)]
        other = asyncio.create_task(one(scope_of("/info/" if method == "POST" else "/infer/m", "POST")))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        release.set()
        await asyncio.gather(*tasks, other)
        await one(scope_of(path, method))  # the places are free again
        return statuses

    statuses = asyncio.run(run())
    assert statuses[:2] == [503, 503]
    assert statuses[2:] == [200] * (bound + 2)


def test_a_failed_request_gives_its_place_back() -> None:
    async def fail(scope: Any, receive: Any, send: Any) -> None:
        raise RuntimeError("no")

    gate = Gate(fail, Access(max_waiting=1))
    for _ in range(3):
        with pytest.raises(RuntimeError, match="no"):
            ask(gate, scope_of("/infer/m", "POST"))


def test_websockets_are_closed() -> None:
    sent: list[Any] = []

    async def send(message: Any) -> None:
        sent.append(message)

    asyncio.run(Gate(read_and_agree, Access())({"type": "websocket"}, None, send))  # type: ignore[arg-type]
    assert sent == [{"type": "websocket.close", "code": 1008}]


def test_what_the_settings_say(tmp_path: Path) -> None:
    (tmp_path / "token").write_text(f"{TOKEN}\n")
    conf = {"token": f"@{tmp_path / 'token'}", "origins": " https://A.example , http://b:3000/", "deletion": "True"}
    access = read_access({**conf, "links": "true", "max_upload": "5", "max_waiting": "2", "bundle": "b"})
    assert access == Access(TOKEN, frozenset({"https://a.example", "http://b:3000"}), True, True, 5_000_000, 2)
    assert read_access({}) == Access()


@pytest.mark.parametrize(
    ("conf", "message"),
    [
        ({"token": "short"}, "`token` must have at least 16"),
        ({"token": "with a space in the middle"}, "without spaces"),
        ({"token": "@/no/such/file"}, "`token` must name a file that can be read"),
        ({"tokens": TOKEN}, "Did you mean 'token'"),
        ({"origins": "*"}, "`origins` must be like https://viewer.example:3000, got '\\*'"),
        ({"origins": "https://a.example/page"}, "`origins` must be like"),
        ({"deletion": "yes"}, "`deletion` must be true or false, got yes"),
        ({"max_upload": "0"}, "`max_upload` must be a whole number and at least 1, got '0'"),
        ({"max_waiting": "many"}, "`max_waiting` must be a whole number"),
    ],
)
def test_a_wrong_setting_says_what_is_wrong(conf: dict[str, str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        read_access(conf)
