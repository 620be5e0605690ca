"""What passes through the proxy: a request that knows which FHIR interaction it is, and an answer."""

from __future__ import annotations

import re
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field, replace
from typing import Any, Literal, Self, get_args

import msgspec

from fhir_writeback_dagster import canonicaljson
from fhir_writeback_dagster.rules.fhir.resource import Resource

ProxyInteraction = Literal[
    "create",
    "update",
    "patch",
    "delete",
    "bundle",
    "read",
    "history",
    "search",
    "capabilities",
    "discovery",
    "token",
    "other",
]
INTERACTIONS: tuple[ProxyInteraction, ...] = get_args(ProxyInteraction)
WRITES: tuple[ProxyInteraction, ...] = ("create", "update", "patch", "bundle")
READS: tuple[ProxyInteraction, ...] = ("read", "history", "search")


_TYPE = r"[A-Z][A-Za-z]+"
_ONLY_ASKS = re.compile(rb'"method"\s*:\s*"GET"')
_WRITES_TOO = re.compile(rb'"method"\s*:\s*"(?!GET)')
_INTERACTIONS: tuple[tuple[str, str, ProxyInteraction], ...] = (
    ("POST", r"", "bundle"),
    ("POST", rf"{_TYPE}", "create"),
    ("POST", rf"({_TYPE}/)?_search", "search"),
    ("GET", r"\.well-known/.*", "discovery"),
    ("GET", r"metadata", "capabilities"),
    ("GET", r"(.*/)?_history(/.*)?", "history"),
    ("GET", rf"{_TYPE}/[^/]+", "read"),
    ("GET", rf"({_TYPE})?", "search"),
    ("PUT", rf"{_TYPE}(/[^/]+)?", "update"),
    ("PATCH", rf"{_TYPE}(/[^/]+)?", "patch"),
    ("DELETE", rf"{_TYPE}(/[^/]+)?", "delete"),
    ("POST", r"/.*token", "token"),
)


@dataclass(frozen=True, slots=True)
class ProxyRequest:
    """``path`` is below the FHIR base, without a slash at its beginning; outside of the base it begins with one.

    ``headers`` have lower-case names.
    """

    method: str
    path: str
    query: str = ""
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b""

    @property
    def interaction(self) -> ProxyInteraction:
        """What FHIR's REST API calls it; a search's next page is a `search` too, and so is a bundle that only asks."""
        fitting = (i for method, path, i in _INTERACTIONS if method == self.method and re.fullmatch(path, self.path))
        found: ProxyInteraction = next(fitting, "other")
        return "search" if found == "bundle" and _ONLY_ASKS.search(self.body) and not _WRITES_TOO.search(self.body) else found

    def resource(self) -> Resource | None:
        """The JSON object in its body, if it is one."""
        return _object(self.body)

    def saying(self, resource: Resource) -> Self:
        """The same request with another body."""
        return replace(self, body=canonicaljson.encode(resource))

    def without(self, *headers: str) -> Self:
        return replace(self, headers={name: value for name, value in self.headers.items() if name not in headers})


@dataclass(frozen=True, slots=True)
class ProxyAnswer:
    """``cut``: the connection is reset after so many bytes of the body. ``drip_s``: the body takes that long to come."""

    status: int
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b""
    cut: int | None = None
    drip_s: float = 0.0

    def resource(self) -> Resource | None:
        """The JSON object in its body, if it is one."""
        return _object(self.body)

    def saying(self, resource: Resource) -> Self:
        """The same answer with another body."""
        return replace(self, body=canonicaljson.encode(resource))

    def without(self, *headers: str) -> Self:
        return replace(self, headers={name: value for name, value in self.headers.items() if name not in headers})


@dataclass(frozen=True, slots=True)
class Exchange:
    """One request on its way, for a fault to meet. ``forward`` has the server act on a request and returns its answer;
    ``later`` lets something go on after the client was hung up on.
    """

    request: ProxyRequest
    forward: Callable[[ProxyRequest], Coroutine[Any, Any, ProxyAnswer]]
    later: Callable[[Coroutine[Any, Any, object]], None]


def outcome(code: str, diagnostics: str = "") -> bytes:
    """An OperationOutcome with one error of ``code`` (http://hl7.org/fhir/ValueSet/issue-type)."""
    issue = {"severity": "error", "code": code, **({"diagnostics": diagnostics} if diagnostics else {})}
    return canonicaljson.encode({"resourceType": "OperationOutcome", "issue": [issue]})


def _object(body: bytes) -> Resource | None:
    try:
        found = canonicaljson.decode(body)
    except msgspec.DecodeError:
        return None
    return found if isinstance(found, dict) else None
