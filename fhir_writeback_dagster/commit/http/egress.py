"""Where commit may connect to: the tenant's EHR and its token endpoint, exactly, and nowhere else."""

from __future__ import annotations

import ipaddress
import socket
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Self
from urllib.parse import urlsplit

from aiohttp.abc import AbstractResolver, ResolveResult
from aiohttp.resolver import ThreadedResolver

from fhir_writeback_dagster.config.tenants import load_tenant, tenant_ids
from fhir_writeback_dagster.errors import ConfigError, TargetError

_PORTS = {"http": 80, "https": 443}
_NAT64 = ipaddress.IPv6Network("64:ff9b::/96")
"""RFC 6052: what a DNS64 makes of an IPv4 address, where the network has IPv6 only."""
_NAT64_LOCAL, _IPV4_COMPATIBLE = ipaddress.IPv6Network("64:ff9b:1::/48"), ipaddress.IPv6Network("::/96")


@dataclass(frozen=True, slots=True)
class Origin:
    scheme: str
    host: str
    port: int

    @classmethod
    def of(cls, url: str) -> Self | None:
        """None: not an http(s) URL with a host, one with a user in it, or one that two readers could read as two."""
        if not url.isprintable() or "\\" in url:
            return None
        try:
            parts = urlsplit(url)
            scheme, host, port = parts.scheme.lower(), _host(parts.hostname or ""), parts.port
        except ValueError:
            return None
        if scheme not in _PORTS or not host or parts.username is not None:
            return None
        return cls(scheme, host, _PORTS[scheme] if port is None else port)

    def __str__(self) -> str:
        return f"{self.scheme}://{self.host}:{self.port}"


class Egress:
    """The allow-list of one tenant's EHR. ``where`` names the configuration in errors.

    Only a sandbox may be reached over http or at an address that is not global (RFC 6890): a production tenant whose name
    resolves into the hospital's own network, or to a cloud's metadata service, is a mistake or an attack.

    :param never: hosts that are not to be reached whatever an answer says: for a sandbox, those of production tenants.
    """

    def __init__(self, base_url: str, *, sandbox: bool, where: str, never: frozenset[str] = frozenset()) -> None:
        self.base_url, self._sandbox, self._where, self._never = base_url.rstrip("/"), sandbox, where, never
        self._allowed: set[Origin] = set()
        self.allow(base_url)

    def allow(self, url: str) -> None:
        """Add the origin of ``url`` (the base, or a token endpoint that the base names).

        :raises TargetError: not an address that this tenant may have.
        """
        origin = Origin.of(url)
        if origin is None:
            raise self._refused("not an http(s) address")
        if origin.host in self._never:
            raise self._refused(f"{origin} is a production tenant's, and this is a sandbox")
        if not self._sandbox:
            if origin.scheme != "https":
                raise self._refused(f"{origin} is not https")
            if not _is_public_host(origin.host):
                raise self._refused(f"{origin} is not a public address")
        self._allowed.add(origin)

    def check(self, url: str) -> None:
        """:raises TargetError: ``url`` is not at an allowed origin."""
        origin = Origin.of(url)
        if origin not in self._allowed:
            raise self._refused(f"{origin or 'that address'} is not this EHR's")

    def within_base(self, url: str) -> bool:
        """Is ``url`` below the FHIR base? Page links must be: a Bundle's text is not a reason to go elsewhere."""
        if Origin.of(url) != Origin.of(self.base_url):
            return False
        path, base = urlsplit(url).path, urlsplit(self.base_url).path
        return ".." not in path and (path == base or path.startswith(f"{base}/"))

    def resolver(self) -> AbstractResolver:
        return _Resolver(self._sandbox)

    def _refused(self, what: str) -> TargetError:
        return TargetError(
            "egress_refused",
            what,
            where=self._where,
            fix="fix `ehr.base_url`; `sandbox: true` is for test systems only",
        )


def production_hosts(tenants: Path) -> frozenset[str]:
    """Hosts of every tenant that is no sandbox. A file that is wrong says nothing: its own runs complain of it."""
    hosts = set()
    for name in tenant_ids(tenants):
        with suppress(ConfigError):
            ehr = load_tenant(tenants, name).ehr
            stated = [ehr.base_url, *([ehr.auth.token_endpoint] if ehr.auth.token_endpoint else [])]
            hosts |= {origin.host for origin in map(Origin.of, stated) if origin and not ehr.sandbox}
    return frozenset(hosts)


class NotGlobal(OSError):
    """A name of a production tenant resolved to an address that is not global."""


class _Resolver(AbstractResolver):
    """Resolves a name once and keeps the answer: what was checked is what is connected to, also against DNS rebinding."""

    def __init__(self, sandbox: bool) -> None:
        self._sandbox = sandbox
        self._inner = ThreadedResolver()
        self._known: dict[tuple[str, int, int], list[ResolveResult]] = {}

    async def resolve(self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET) -> list[ResolveResult]:
        key = (host, port, family)
        if key not in self._known:
            found = await self._inner.resolve(host, port, family)
            if not self._sandbox and not all(_is_global(_translated(ipaddress.ip_address(entry["host"]))) for entry in found):
                raise NotGlobal("resolves to an address that is not global")
            self._known[key] = found
        return self._known[key]

    async def close(self) -> None:
        await self._inner.close()


def _host(name: str) -> str:
    """One spelling of a host: full-width letters and dots, the case, and a dot at the end make no other host.

    :raises ValueError: it is none that a resolver would be asked for.
    """
    return name.encode("idna").decode().lower().removesuffix(".") if name else name


def _is_public_host(host: str) -> bool:
    """A name is judged when it is resolved, an address now. What only a resolver takes for an address (``127.1``) is not public,
    nor is one that carries another inside.
    """
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return not host.rpartition(".")[2][:1].isdigit()
    return _is_global(address)


def _is_global(address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> bool:
    if isinstance(address, ipaddress.IPv6Address):
        if address.ipv4_mapped:
            return _is_global(address.ipv4_mapped)
        within = any(address in network for network in (_NAT64, _NAT64_LOCAL, _IPV4_COMPATIBLE))
        if within or address.sixtofour or address.teredo or address.is_site_local:
            return False
    return address.is_global and not address.is_multicast


def _translated(address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> ipaddress.IPv4Address | ipaddress.IPv6Address:
    """The address that a translator reaches, in a network that has IPv6 only."""
    return ipaddress.IPv4Address(address.packed[-4:]) if address.version == 6 and address in _NAT64 else address
