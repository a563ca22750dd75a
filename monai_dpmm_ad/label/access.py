# Copyright 2026 monai_dpmm_ad contributors. Licensed under the Apache License, Version 2.0.
"""Who may ask the server, and how much at once: decided before a request's body is read."""

from __future__ import annotations

import contextlib
import hmac
import ipaddress
import json
from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from monai_dpmm_ad.label.requests import check_names

__all__ = ["CONF", "Access", "Gate", "read_access"]

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
ASGIApp = Callable[[Scope, Receive, Send], Awaitable[None]]

#: What ``--conf`` may set: of the bundle, then of access.
CONF = (
    "bundle",
    "device",
    "regions",
    "trust_bundle",
    "token",
    "origins",
    "deletion",
    "links",
    "max_upload",
    "max_waiting",
)
_MIN_TOKEN = 16  # characters: what a guess over the network does not find
#: 3D Slicer asks here whether a password is wanted, and turns it into a token.
_BEFORE_LOGIN = ("/auth/", "/auth/token")
_WORK = ("/infer/", "/batch/", "/train/", "/scoring/", "/activelearning/")
_LOCAL_NAMES = ("localhost", "127.0.0.1", "[::1]")
#: Requests that are no work (lists, downloads) at once: each holds a thread for a moment only.
MAX_LIGHT = 64
#: Largest body of a request that brings no file, in bytes.
MAX_TEXT = 10**6


@dataclass(frozen=True)
class Access:
    """What the server allows.

    Args:
        token: what a client has to know; None where this machine alone may ask, or MONAI Label's OAuth decides.
        origins: web pages that may call the server, beside its own: ``https://viewer.example``, ….
        deletion: whether studies and labels may be deleted.
        links: whether links in the studies folder may lead out of it.
        max_upload: largest body of a request, in bytes.
        max_waiting: most requests for work (inference, scoring, training) that run and wait at once.
        oauth: whether MONAI Label's own OAuth asks who somebody is.
    """

    token: str | None = None
    origins: frozenset[str] = frozenset()
    deletion: bool = False
    links: bool = False
    max_upload: int = 2000 * 10**6
    max_waiting: int = 16
    oauth: bool = False


def read_access(conf: Mapping[str, str], oauth: bool = False) -> Access:
    """Read what ``--conf`` says of access.

    Args:
        conf: ``token`` (the text, or ``@FILE`` that holds it), ``origins`` (separated by commas), ``deletion`` and
            ``links`` (true or false), ``max_upload`` (in MB), ``max_waiting``.
        oauth: whether MONAI Label's own OAuth is configured.

    Raises:
        ValueError: a value that means nothing, or a token that can be guessed.
    """
    check_names(conf, CONF)
    origins = [origin.strip().rstrip("/").lower() for origin in str(conf.get("origins", "")).split(",")]
    for origin in filter(None, origins):
        if urlsplit(origin).scheme not in ("http", "https") or urlsplit(origin).path:
            raise ValueError(f"`origins` must be like https://viewer.example:3000, got '{origin}'. Separate by commas.")
    return Access(
        token=_read_token(conf.get("token")),
        origins=frozenset(filter(None, origins)),
        deletion=read_switch(conf, "deletion"),
        links=read_switch(conf, "links"),
        max_upload=_read_count(conf, "max_upload", 2000) * 10**6,
        max_waiting=_read_count(conf, "max_waiting", 16),
        oauth=oauth,
    )


def read_switch(conf: Mapping[str, str], name: str) -> bool:
    """Read a value that is true or false; false where it is not given."""
    value = str(conf.get(name, False)).lower()
    if value not in ("true", "false"):
        raise ValueError(f"`{name}` must be true or false, got {value}.")
    return value == "true"


def _read_count(conf: Mapping[str, str], name: str, default: int) -> int:
    value = str(conf.get(name, default))
    if not value.isdecimal() or int(value) < 1:
        raise ValueError(f"`{name}` must be a whole number and at least 1, got '{value}'.")
    return int(value)


def _read_token(text: str | None) -> str | None:
    if text is None:
        return None
    if text.startswith("@"):
        try:
            text = Path(text[1:]).read_text(encoding="utf-8").strip()
        except OSError as error:
            raise ValueError(f"`token` must name a file that can be read, got {text}: {error.strerror}.") from error
    if len(text) < _MIN_TOKEN or not text.isascii() or not text.isprintable() or " " in text:
        raise ValueError(
            f"`token` must have at least {_MIN_TOKEN} ASCII characters without spaces, got {len(text)} characters. "
            'Make one: python -c "import secrets; print(secrets.token_urlsafe())"'
        )
    return text


class _TooLarge(Exception):
    """A body went over the limit while it was read."""


class Gate:
    """ASGI application around another: asks who wants what before the other sees the request.

    Args:
        app: what answers a request that may pass.
        access: what is allowed.
    """

    def __init__(self, app: ASGIApp, access: Access) -> None:
        self.app = app
        self.access = access
        self.is_open = False
        self._at_once = {True: 0, False: 0}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer, or hand on."""
        if scope["type"] == "lifespan":
            self.is_open = True
            await self.app(scope, receive, send)
            return
        if scope["type"] != "http":
            await send({"type": "websocket.close", "code": 1008})
            return
        headers = {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in scope["headers"]}
        refusal = find_refusal(self.access, scope, headers)
        is_work = _is_work(scope)
        if refusal is None and self._at_once[is_work] >= (self.access.max_waiting if is_work else MAX_LIGHT):
            refusal = 503, f"{self._at_once[is_work]} requests are waiting already. Ask again later."
        if refusal is not None:
            await _answer(send, *refusal)
            return
        self._at_once[is_work] += 1
        try:
            await self._hand_on(find_limit(self.access, headers), scope, receive, send)
        finally:
            self._at_once[is_work] -= 1

    async def _hand_on(self, limit: int, scope: Scope, receive: Receive, send: Send) -> None:
        """Let the other application answer, but for a body that turns out too large: it has not begun to answer."""
        size, is_large = 0, False

        async def bounded() -> MutableMapping[str, Any]:
            nonlocal size, is_large
            message = await receive()
            size += len(message.get("body", b""))
            if size > limit:
                is_large = True
                raise _TooLarge
            return message

        async def reply(message: MutableMapping[str, Any]) -> None:
            if not is_large:
                await send(message)

        with contextlib.suppress(_TooLarge):
            await self.app(scope, bounded, reply)
        if is_large:
            await _answer(send, *_too_large(limit))


def find_refusal(access: Access, scope: Scope, headers: Mapping[str, str]) -> tuple[int, str] | None:
    """Say why a request may not pass: status and reason; None where it may.

    Args:
        access: what is allowed.
        scope: of the request, as ASGI describes it; ``server`` is this end's address.
        headers: by lower-case name.
    """
    is_known = bool(access.token) or access.oauth
    if not is_known and not _is_this_machine(scope.get("server")):
        return 403, "This server has no token, so it answers its own machine alone. Start it with --conf token TOKEN."
    host = headers.get("host", "").lower()
    own_hosts = {urlsplit(origin).netloc for origin in access.origins}
    if not is_known and _without_port(host) not in _LOCAL_NAMES and host not in own_hosts:
        # A web page may let its own name mean 127.0.0.1; the browser then takes this server for the page's.
        return 403, f"This server has no token and does not answer to the name '{host}'. Ask for 127.0.0.1."
    if not _is_own_page(access, host, headers):
        return 403, "Web pages of other hosts may not ask. List the page's address in --conf origins."
    if access.token and _path_of(scope) not in _BEFORE_LOGIN and not _is_preflight(scope, headers):
        kind, _, given = headers.get("authorization", "").partition(" ")
        if kind.lower() != "bearer" or not hmac.compare_digest(given.strip().encode(), access.token.encode()):
            return (
                401,
                "This server wants its token: Authorization: Bearer TOKEN in the header, or 3D Slicer's password.",
            )
    length, limit = headers.get("content-length", "0"), find_limit(access, headers)
    return None if length.isdecimal() and int(length) <= limit else _too_large(limit)


def find_limit(access: Access, headers: Mapping[str, str]) -> int:
    """Largest body in bytes: files come in forms, which are kept on disk; anything else is read into memory."""
    is_form = headers.get("content-type", "").lower().startswith("multipart/form-data")
    return access.max_upload if is_form else min(MAX_TEXT, access.max_upload)


def _too_large(limit: int) -> tuple[int, str]:
    return 413, f"This request may have {limit / 10**6:g} MB. For files start the server with --conf max_upload MB."


def _is_this_machine(server: tuple[str, int | None] | None) -> bool:
    """Whether a connection ends at a loopback address: it can come from this machine only."""
    try:
        address = ipaddress.ip_address(server[0] if server else "")
    except ValueError:
        return False
    mapped = getattr(address, "ipv4_mapped", None)
    return (mapped or address).is_loopback


def _without_port(host: str) -> str:
    head, _, tail = host.rpartition(":")
    return head if head and tail.isdecimal() else host


def _is_own_page(access: Access, host: str, headers: Mapping[str, str]) -> bool:
    """Browsers say which page asks: in ``Origin``, or at least whether it is of another site."""
    origin = headers.get("origin")
    if origin is None:
        return headers.get("sec-fetch-site", "none") in ("none", "same-origin")
    return origin.lower() in access.origins or (bool(host) and urlsplit(origin.lower()).netloc == host)


def _is_preflight(scope: Scope, headers: Mapping[str, str]) -> bool:
    """A browser's question whether it may ask; it carries no token and does nothing."""
    return scope["method"] == "OPTIONS" and "access-control-request-method" in headers


def _is_work(scope: Scope) -> bool:
    return scope["method"] == "POST" and _path_of(scope).startswith(_WORK)


def _path_of(scope: Scope) -> str:
    """The path as the routes have it; behind ``--root_path`` servers put that before it."""
    path: str = scope["path"].removeprefix(scope.get("root_path", ""))
    return path


async def _answer(send: Send, status: int, reason: str) -> None:
    body = json.dumps({"detail": reason}).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    headers += {401: [(b"www-authenticate", b"Bearer")], 503: [(b"retry-after", b"10")]}.get(status, [])
    # What is left of the body is not read: the connection ends.
    headers.append((b"connection", b"close"))
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
