"""Access tokens by SMART Backend Services and its relatives: one for all requests of a run, kept until it nearly expires."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from urllib.parse import urlencode

from fhir_writeback_dagster.commit.auth.client_auth import Proof, prove
from fhir_writeback_dagster.commit.auth.discovery import issuer, token_endpoint, unreachable
from fhir_writeback_dagster.commit.auth.scopes import broader, missing
from fhir_writeback_dagster.commit.auth.token_answer import read_grant
from fhir_writeback_dagster.commit.http.request import Request
from fhir_writeback_dagster.commit.http.transport import Http, NoAnswer
from fhir_writeback_dagster.commit.protocol.answer import Answer
from fhir_writeback_dagster.config.tenants import Tenant
from fhir_writeback_dagster.errors import TargetError

SKEW_SECONDS = 30.0
"""A token is renewed so long before it expires; a quarter of its life where that is less."""
SECONDS = 60
"""A token lives so long where neither its answer nor the matrix says."""
PAUSES_S = (0.3, 1.0)
"""Between the tries for a token. A run need not end, nor the target be taken for down, because the token endpoint was out of
order for a moment; and asking again does no harm, because each assertion has a `jti` of its own."""

_FORM = {"Accept": "application/json", "Content-Type": "application/x-www-form-urlencoded"}


@dataclass(frozen=True, slots=True)
class Granted:
    """A token was had: with which credential (hash it before it is kept), which scopes, and which of them nothing needs."""

    credential: str
    scopes: tuple[str, ...]
    broader: tuple[str, ...]


OnGranted = Callable[[Granted], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class TokenClient:
    """For whom tokens are asked, and what they have to be good for.

    ``needed`` are the scopes that the tenant's mappings need, asked for where the tenant names none. ``approved`` is the token
    endpoint that the EHR named when it was approved; see :func:`token_endpoint`. A token lives ``token_seconds`` where its
    answer does not say. ``anywhere``: a person is about to approve what the EHR names; a sandbox needs nobody's approval.
    """

    tenant: Tenant
    home: Path
    needed: Sequence[str] = ()
    approved: str | None = None
    token_seconds: int = SECONDS
    anywhere: bool = False

    @property
    def scopes(self) -> tuple[str, ...]:
        """What is asked for."""
        return self.tenant.ehr.auth.scopes or tuple(self.needed)


class Tokens:
    """The tenant's access token: fetched once for all who wait, kept until shortly before it expires.

    :param on_granted: is told of each token that was had.
    :param renew: takes up a certificate of ours that was changed; True: it was.
    """

    def __init__(
        self, http: Http, client: TokenClient, on_granted: OnGranted | None = None, renew: Callable[[], bool] = lambda: False
    ) -> None:
        self._http, self._client, self._on_granted, self._renew = http, client, on_granted, renew
        self._tenant, self._home = client.tenant, client.home
        self._where = f"tenants/{client.tenant.tenant}.yaml ehr.auth"
        self._lock = asyncio.Lock()
        self._endpoint: str | None = None
        self._issuer: str | None = None
        self._token: str | None = None
        self._renew_at = 0.0
        self.fetched = 0

    async def header(self) -> dict[str, str]:
        """``Authorization`` for a request; nothing for a target without authorization.

        :raises TargetError: no token could be had, or it lacks a scope that the tenant asks for.
        :raises ConfigError: the client's key or secret is missing or wrong.
        """
        if self._tenant.ehr.auth.type == "none":
            return {}
        async with self._lock:
            if self._token is None or time.monotonic() >= self._renew_at:
                await self._fetch()
            return {"Authorization": f"Bearer {self._token}"}

    async def refused(self, header: dict[str, str]) -> bool:
        """The target answered 401 to ``header``: forget that token. True: a new one is worth a try.

        Many requests in flight are refused at once; the first forgets the token, the others then find a newer one.
        """
        async with self._lock:
            renewed = self._renew()
            if not header:
                return renewed
            if header["Authorization"] == f"Bearer {self._token}":
                self._token = None
        return True

    async def _fetch(self) -> None:
        if self._endpoint is None:
            stated, anywhere = self._tenant.ehr.auth.token_endpoint, self._client.anywhere or self._tenant.ehr.sandbox
            self._endpoint = await token_endpoint(self._http, stated, self._client.approved, anywhere=anywhere)
        proof, answer = await self._ask(self._endpoint)
        if answer.status in (400, 401):
            # Was the key or secret changed while we asked? Then the one that was refused is not the one that stands there.
            again, second = (proof, answer) if proof.credential == self._now() else await self._ask(self._endpoint)
            proof, answer = again, second
        granted = self._take(answer)
        if self._on_granted:
            await self._on_granted(
                Granted(proof.credential, granted, tuple(broader(granted, self._client.needed or self._client.scopes)))
            )

    async def _ask(self, endpoint: str) -> tuple[Proof, Answer]:
        for pause in PAUSES_S:
            try:
                proof, answer = await self._ask_once(endpoint)
            except NoAnswer as none:
                if none.code == "timeout":  # that was long enough
                    raise unreachable(self._http, "the token endpoint", none) from None
            else:
                if answer.status < 500:
                    return proof, answer
            await asyncio.sleep(pause)
        try:
            return await self._ask_once(endpoint)
        except NoAnswer as none:
            raise unreachable(self._http, "the token endpoint", none) from None

    async def _ask_once(self, endpoint: str) -> tuple[Proof, Answer]:
        self._renew()
        proof = prove(self._tenant, self._home, await self._audience(endpoint))
        form = {"grant_type": "client_credentials", "scope": " ".join(self._client.scopes), **proof.form}
        return proof, await self._http.request(Request("POST", endpoint, {**_FORM, **proof.headers}, urlencode(form).encode()))

    async def _audience(self, endpoint: str) -> str:
        """`aud` of our assertion: the token endpoint (SMART App Launch 2.2), unless the tenant says what its server wants."""
        stated = self._tenant.ehr.auth.audience
        if stated != "issuer":
            return stated or endpoint
        self._issuer = self._issuer or await issuer(self._http)
        if self._issuer is None:
            raise TargetError(
                "no_issuer",
                "smart-configuration names no issuer",
                where=f"{self._where}.audience",
                fix="write the authorization server's issuer into `ehr.auth.audience`",
            )
        return self._issuer

    def _now(self) -> str:
        return prove(self._tenant, self._home, self._endpoint or "").credential

    def _take(self, answer: Answer) -> tuple[str, ...]:
        """Keep the token; returns the scopes that it has."""
        if answer.status >= 500:
            raise TargetError(
                "token_unavailable",
                f"the token endpoint answered {answer.status}",
                where=self._where,
                fix="wait; nothing was written, nothing is lost",
            )
        if answer.status == 429:
            seconds = answer.retry_after(datetime.now(UTC))
            raise TargetError(
                "throttled",
                f"the token endpoint asks us to stay away {'for a while' if seconds is None else f'for {seconds:.0f} s'}",
                where=self._where,
                fix="wait; nothing was written, nothing is lost",
            )
        grant = read_grant(answer, self._where, self._tenant.ehr.auth.client_id)
        scopes = self._client.scopes if grant.scopes is None else grant.scopes  # RFC 6749, 5.1: left out where as asked
        if lacking := missing(self._client.scopes, scopes):
            raise TargetError(
                "scope_missing",
                f"not granted: {', '.join(lacking)}",
                where=self._where,
                fix="have the EHR grant these scopes, or take them out of `scopes`; nothing was written",
            )
        seconds = float(self._client.token_seconds) if grant.seconds is None else grant.seconds
        self._token, self._renew_at = grant.token, time.monotonic() + seconds - min(SKEW_SECONDS, seconds / 4)
        self.fetched += 1
        return scopes
