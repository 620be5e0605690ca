"""What stands before Dagster's own page, which asks nobody who they are and lets any web site launch runs by a GET request.

An ASGI middleware. A request passes if

* its ``Host`` is one that this page is reached by (a name that an attacker points to 127.0.0.1 is not);
* its ``Origin`` and ``Sec-Fetch-Site``, where the browser says them, are the page's own;
* it brings a session: the cookie that :data:`~fhir_writeback_dagster.ops.webtoken.LOGIN` gave for a link, or, for local tools
  and for an operator's own proxy, ``Authorization: Bearer …``;
* it changes nothing by GET: GraphQL goes by POST as JSON, which no foreign form can send, and a websocket only subscribes.

Tenants are files; the mutations that would add or remove a tenant's partition are refused.
"""

from __future__ import annotations

import hmac
import json
import time
from collections.abc import Iterable, MutableMapping
from dataclasses import dataclass, field
from http import HTTPStatus
from http.cookies import CookieError, SimpleCookie
from typing import TYPE_CHECKING
from urllib.parse import parse_qs

from graphql import GraphQLError, OperationDefinitionNode, OperationType, parse

from fhir_writeback_dagster.ops.webtoken import LOGIN, SESSION_S, is_valid, issue, issued_at

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

_SAFE = frozenset({"GET", "HEAD", "OPTIONS"})
_LARGEST_BODY = 8 * 1024 * 1024
_OF_TENANTS = ("addDynamicPartition", "deleteDynamicPartitions")
_HEADERS = (
    (b"x-frame-options", b"DENY"),
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"same-origin"),
    (b"cross-origin-resource-policy", b"same-origin"),
)
_ENTER = b"""<!doctype html><meta charset="utf-8"><meta http-equiv="refresh" content="0;url=/"><title>Dagster</title>
<p><a href="/">Dagster</a>"""


class _Refused(Exception):
    def __init__(self, status: HTTPStatus, text: str) -> None:
        self.status, self.text = status, text
        super().__init__(text)


@dataclass(frozen=True, slots=True)
class PageAccess:
    """Who is let in. ``hosts`` are ``name`` or ``name:port`` as a browser writes them, in lower case.

    ``proxy_token`` is a bearer token of the operator's own, which a proxy that knows its users adds to their requests.
    """

    secret: bytes = field(repr=False)
    hosts: frozenset[str]
    cookie: str
    proxy_token: str | None = field(default=None, repr=False)


class Guard:
    """``app`` behind :class:`PageAccess`. A link from before ``started`` (Unix time) is not taken: it may be a used one."""

    def __init__(self, app: ASGIApp, access: PageAccess, started: float | None = None) -> None:
        self._app, self._access = app, access
        self._started = int(time.time() if started is None else started)
        self._used: set[str] = set()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        headers = _headers(scope)
        try:
            self._check_place(headers)
            if scope["type"] == "http" and scope["path"] == LOGIN:
                await _respond(send, HTTPStatus.OK, _ENTER, self._enter(scope))
                return
            self._check_session(scope, headers)
            if scope["type"] == "websocket":
                await self._app(scope, _subscribing(receive), send)
                return
            receive = await _checked_request(scope, headers, receive)
        except _Refused as refused:
            if scope["type"] == "websocket":
                await send({"type": "websocket.close", "code": 1008, "reason": refused.text})
            else:
                await _respond(send, refused.status, refused.text.encode() + b"\n")
            return
        await self._app(scope, receive, _with_headers(send))

    def _check_place(self, headers: MutableMapping[str, list[str]]) -> None:
        """Is it meant for this page, and does it come from this page or from no page at all?"""
        host = headers.get("host", [])
        if len(host) != 1 or host[0].lower() not in self._access.hosts:
            raise _Refused(HTTPStatus.MISDIRECTED_REQUEST, "this host name is not this page's (FHIR_WRITEBACK_WEB_HOSTS)")
        for origin in headers.get("origin", []):
            if origin.lower().partition("://")[2] not in self._access.hosts:
                raise _Refused(HTTPStatus.FORBIDDEN, "the request comes from another web site")
        site, mode = headers.get("sec-fetch-site", ["none"]), headers.get("sec-fetch-mode", [""])
        if mode != ["navigate"] and site not in (["none"], ["same-origin"]):
            raise _Refused(HTTPStatus.FORBIDDEN, "the request comes from another web site")

    def _check_session(self, scope: Scope, headers: MutableMapping[str, list[str]]) -> None:
        for value in headers.get("authorization", []):
            scheme, _, token = value.partition(" ")
            if scheme.lower() == "bearer" and self._is_known(token.strip()):
                return
        for value in headers.get("cookie", []):
            try:
                morsel = SimpleCookie(value).get(self._access.cookie)
            except CookieError:
                continue
            if morsel and is_valid(self._access.secret, "session", morsel.value):
                changes = scope["type"] == "websocket" or scope["method"] not in _SAFE
                if changes and "origin" not in headers and headers.get("sec-fetch-site") != ["same-origin"]:
                    raise _Refused(HTTPStatus.FORBIDDEN, "the browser does not say where the request comes from")
                return
        raise _Refused(
            HTTPStatus.UNAUTHORIZED,
            "Open this page by its link: `fhir-writeback status` prints a new one. "
            "Tools send `Authorization: Bearer ...` (docs/security.md).",
        )

    def _is_known(self, token: str) -> bool:
        proxy = self._access.proxy_token
        return is_valid(self._access.secret, "session", token) or bool(
            proxy and hmac.compare_digest(proxy.encode(), token.encode())
        )

    def _enter(self, scope: Scope) -> list[tuple[bytes, bytes]]:
        """Take a link, once, and give a session for it. A page leads on, so that the cookie counts as asked for by this site."""
        [token, *_] = parse_qs(scope["query_string"].decode("latin-1")).get("token", [""])
        usable = scope["method"] == "GET" and is_valid(self._access.secret, "link", token)
        if not usable or token in self._used or issued_at(token) < self._started:
            raise _Refused(HTTPStatus.UNAUTHORIZED, "The link was used, or is too old: `fhir-writeback status` prints a new one.")
        self._used.add(token)
        session = issue(self._access.secret, "session")
        cookie = f"{self._access.cookie}={session}; HttpOnly; SameSite=Strict; Path=/; Max-Age={SESSION_S}"
        return [(b"set-cookie", cookie.encode()), (b"content-type", b"text/html; charset=utf-8"), (b"cache-control", b"no-store")]


async def _checked_request(scope: Scope, headers: MutableMapping[str, list[str]], receive: Receive) -> Receive:
    """The request with its body, if it may pass."""
    if scope["path"].rstrip("/") != "/graphql":
        return receive
    if scope["method"] in _SAFE:
        if b"query=" in scope["query_string"]:
            raise _Refused(HTTPStatus.METHOD_NOT_ALLOWED, "GraphQL by POST only")
        return receive
    if not headers.get("content-type", [""])[0].lower().startswith("application/json"):
        raise _Refused(HTTPStatus.UNSUPPORTED_MEDIA_TYPE, "GraphQL as application/json only")
    body = b""
    while True:
        message = await receive()
        body += message.get("body", b"")
        if len(body) > _LARGEST_BODY:
            raise _Refused(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, "the request is too large")
        if not message.get("more_body"):
            break
    _check_query(body)
    unread = [{"type": "http.request", "body": body, "more_body": False}]

    async def again() -> Message:
        return unread.pop() if unread else await receive()

    return again


def _check_query(body: bytes) -> None:
    try:
        query = str(json.loads(body).get("query"))
    except (ValueError, AttributeError, RecursionError):
        raise _Refused(HTTPStatus.BAD_REQUEST, "not a GraphQL request") from None
    if any(name in query for name in _OF_TENANTS):  # a field's name has no other spelling in GraphQL
        raise _Refused(HTTPStatus.FORBIDDEN, "a partition is a tenant: add or remove its file, tenants/<tenant>.yaml")


def _subscribing(receive: Receive) -> Receive:
    """Messages of a websocket, which ends where one of them is no subscription."""

    async def checked() -> Message:
        message = await receive()
        if message["type"] == "websocket.receive" and not _only_subscribes(message.get("text") or message.get("bytes")):
            return {"type": "websocket.disconnect", "code": 1008}
        return message

    return checked


def _only_subscribes(text: str | bytes | None) -> bool:
    try:
        message = json.loads(text or "")
        if message.get("type") != "start":
            return True
        definitions = parse(message["payload"]["query"]).definitions
    except (ValueError, KeyError, TypeError, AttributeError, GraphQLError, RecursionError):
        return False
    operations = [one.operation for one in definitions if isinstance(one, OperationDefinitionNode)]
    return bool(operations) and all(one is OperationType.SUBSCRIPTION for one in operations)


def _headers(scope: Scope) -> MutableMapping[str, list[str]]:
    found: dict[str, list[str]] = {}
    for name, value in scope["headers"]:
        found.setdefault(name.decode("latin-1").lower(), []).append(value.decode("latin-1"))
    return found


def _with_headers(send: Send) -> Send:
    async def sending(message: Message) -> None:
        if message["type"] == "http.response.start":
            given = {name.lower() for name, _ in message["headers"]}
            message["headers"] = [*message["headers"], *(pair for pair in _HEADERS if pair[0] not in given)]
        await send(message)

    return sending


async def _respond(send: Send, status: HTTPStatus, body: bytes, headers: Iterable[tuple[bytes, bytes]] = ()) -> None:
    given = list(headers) or [(b"content-type", b"text/plain; charset=utf-8"), (b"cache-control", b"no-store")]
    await send({"type": "http.response.start", "status": int(status), "headers": [*given, *_HEADERS]})
    await send({"type": "http.response.body", "body": body})
