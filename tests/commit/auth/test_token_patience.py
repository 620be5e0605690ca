"""A token endpoint that is out of order for a moment: asked again, and told apart from one that refuses us."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path

import pytest
from commit.world import World

from fhir_writeback_dagster.commit.auth import tokens
from fhir_writeback_dagster.commit.fhir_client import open_ehr
from fhir_writeback_dagster.errors import TargetError
from fhir_writeback_dagster.sandbox.fault_proxy.faults import DropRequest, Fault, Say
from fhir_writeback_dagster.sandbox.fault_proxy.script import FaultRule
from fhir_writeback_dagster.sandbox.fault_proxy.server import FaultProxy
from fhir_writeback_dagster.sandbox.servers.sekmet import Sekmet


def test_it_is_asked_three_times(
    make_world: Callable[..., World], sekmet: Sekmet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tokens, "PAUSES_S", (0.0, 0.0))
    with FaultProxy() as proxy:
        origin = proxy.base_url.removesuffix("/fhir")
        with Sekmet(tmp_path / "public", client_jwks=sekmet.client_jwks, public_url=origin) as behind:
            proxy.lead_to(behind.base_url)
            world = make_world(ehr={"base_url": proxy.base_url})

            async def authorize() -> None:
                async with open_ehr(world.run) as ehr:
                    await ehr.authorize()

            def asked(fault: Fault, count: int) -> int:
                proxy.forget()
                proxy.script([FaultRule("out of order", fault, on=("token",), count=count)])
                asyncio.run(authorize())
                return proxy.requests["token"]

            assert asked(Say(503, "transient"), 2) == 3
            assert asked(DropRequest(), 1) == 2
            with pytest.raises(TargetError, match="token_unavailable"):
                asked(Say(503, "transient"), 9)
            with pytest.raises(TargetError, match="client_refused"):
                asked(Say(403, "forbidden"), 9)
            assert proxy.requests["token"] == 1, "a refusal is not asked again"
