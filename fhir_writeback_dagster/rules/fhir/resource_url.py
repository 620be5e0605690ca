"""A resource named by its URL, and when two URLs name one resource.

An absolute literal reference (R4, references: ``[base]/[type]/[id]``) is an identifier in the system of URIs. Two of them name
one resource where server, type and id are the same. Not part of who a resource is: its version, the case of the host, a default
port (RFC 3986, 6.2.2.1 and 6.2.3), a slash at the end, and whether it is reached by http or https: a server behind a proxy often
writes the one and is reached by the other. Paths and ids are compared letter by letter. What has a user, a query or a fragment is
no literal reference.
"""

from __future__ import annotations

import re
from typing import NamedTuple

#: System of identifiers that are URIs (R4, Identifier.system).
URI = "urn:ietf:rfc:3986"

_LONGEST = 2000
_ID = re.compile(r"[A-Za-z0-9\-.]{1,64}", re.ASCII)
_SERVER = re.compile(r"(https?)://([^\s/?#@:\[\]]+|\[[0-9A-Fa-f:.]+\])(?::(\d{1,5}))?((?:/[^\s/?#]+)*)", re.IGNORECASE)
_RESOURCE = re.compile(r"(\S+)/([A-Z][A-Za-z]+)/([A-Za-z0-9\-.]{1,64})(?:/_history/[A-Za-z0-9\-.]{1,64})?/?", re.ASCII)
_NAMED = re.compile(r"(?:^|/)([A-Z][A-Za-z]{1,63})/([^/?#\s]+)(?:/_history/[^/?#\s]+)?/?\Z", re.ASCII)
_DEFAULT_PORTS = {"http": "80", "https": "443"}


def is_id(value: object) -> bool:
    """Has ``value`` the form of a resource's id (R4, datatypes: id)? One of dots alone is none: in a URL it leads elsewhere."""
    return isinstance(value, str) and _ID.fullmatch(value) is not None and value.strip(".") != ""


class ResourceUrl(NamedTuple):
    """A resource of a server; ``server`` is its base URL without the scheme, ``//ehr.example/fhir``."""

    server: str
    resource_type: str
    id: str

    def __str__(self) -> str:
        return "/".join(self)


class Named(NamedTuple):
    """A resource by type and id, whatever server it is said to stand on."""

    resource_type: str
    id: str

    def __str__(self) -> str:
        return "/".join(self)


def named(text: object) -> Named | None:
    """What a Location names: absolute, relative or from the root, with or without a version. The server is left aside, because
    behind a proxy an EHR often writes another scheme, host or path than it is reached by. None: no resource.
    """
    match = _NAMED.search(text) if isinstance(text, str) and len(text) <= _LONGEST else None
    return Named(match[1], match[2]) if match and is_id(match[2]) else None


def server_of(base_url: str) -> str | None:
    """The server of a FHIR base URL as :class:`ResourceUrl` has it; None for what is none."""
    match = _SERVER.fullmatch(base_url)
    if match is None:
        return None
    scheme, host, port, path = match.groups()
    suffix = "" if port is None or port == _DEFAULT_PORTS[scheme.lower()] else f":{port}"
    return f"//{host.lower()}{suffix}{path}"


def parse(url: str) -> ResourceUrl | None:
    """What an absolute literal reference names; None for any other text."""
    match = _RESOURCE.fullmatch(url)
    server = server_of(match[1]) if match else None
    return ResourceUrl(server, match[2], match[3]) if match and server else None


def own_url(base_url: str, resource_type: str, resource_id: str) -> tuple[str, str]:
    """System and value of the identifier that every resource of a server has: its URL there."""
    return URI, f"{base_url}/{resource_type}/{resource_id}"


def comparable(system: str, value: str) -> str:
    """The value of an identifier as it is compared and digested: of the URLs of one resource always the same text."""
    named = parse(value) if system == URI else None
    return value if named is None else str(named)
