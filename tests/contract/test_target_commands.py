"""`target probe`, `target keys` and `target validate` as they are typed."""

from __future__ import annotations

import json
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner, Result
from commit.world import World, heart_rate
from contract.counterparts import Counterpart

from fhir_writeback_dagster.commit.auth import client_keys
from fhir_writeback_dagster.commit.commands.probe_commands import keys_command, probe_command
from fhir_writeback_dagster.commit.commands.target_commands import show_command
from fhir_writeback_dagster.commit.commands.validate_command import validate_command
from fhir_writeback_dagster.commit.probe import drift
from fhir_writeback_dagster.errors import TargetError

Typed = Callable[..., Result]


@pytest.fixture
def smart(counterpart: Callable[[str], Counterpart], world_on: Callable[..., World]) -> World:
    return world_on(counterpart("sekmet-smart"))


@pytest.fixture
def typed(smart: World) -> Typed:
    @contextmanager
    def open_runs(layer: str, tenant: str | None) -> Iterator[Iterator[Any]]:
        assert (layer, tenant) == ("commit", smart.run.id)
        yield iter([smart.run])

    def run(command: click.Command, *arguments: str) -> Result:
        return CliRunner().invoke(command, [smart.run.id, *arguments], obj=open_runs)

    return run


def test_a_probe_tells_every_cell_and_stores_what_agrees(typed: Typed, smart: World) -> None:
    result = typed(probe_command, "--json", "--by", "ada")
    told = json.loads(result.stdout)
    assert (result.exit_code, told["safe"], told["approved"]) == (0, True, True), result.output
    assert {"create.precondition", "update.precondition", "bundles.atomic"} <= {one["cell"] for one in told["findings"]}
    assert smart.rows("SELECT approved_by, drifted FROM ledger.snapshot WHERE tenant = %s") == [("ada", False)]
    assert smart.events("ehr").count("target.approved") == 1
    assert "since approved" not in typed(probe_command, "--read-only").stdout


def test_what_changed_for_the_worse_since_it_was_approved_is_approved_by_saying_so_only(typed: Typed, smart: World) -> None:
    assert typed(probe_command, "--read-only", "--by", "ada").exit_code == 0
    smart.change(
        "UPDATE ledger.snapshot SET drifted = true, body = jsonb_set(body, '{types,Observation,interactions}', "
        "body #> '{types,Observation,interactions}' || '[\"search-type\", \"never-again\"]') WHERE tenant = %s"
    )
    smart.change("UPDATE ledger.snapshot SET body = jsonb_set(body, '{fhir}', '\"4.3.0\"') WHERE tenant = %s")
    again = typed(probe_command, "--read-only", "--by", "ben")
    assert (again.exit_code, "not stored" in again.stdout) == (1, True), again.output
    assert smart.rows("SELECT approved_by, drifted FROM ledger.snapshot WHERE tenant = %s") == [("ada", True)]
    assert "stored as approved" in typed(probe_command, "--read-only", "--approve", "--by", "ben").stdout
    assert smart.rows("SELECT approved_by, drifted FROM ledger.snapshot WHERE tenant = %s") == [("ben", False)]


def test_what_was_relied_on_when_it_was_approved_is_missed_although_something_else_would_do(typed: Typed, smart: World) -> None:
    """Updates were PATCHes then; now there are none, and a PUT would do."""
    typed(probe_command, "--read-only")
    with smart.run.store.tenant(smart.run.id) as connection:
        before = drift.approved(connection, smart.run)
    assert before is not None
    types = before["types"]

    def with_(*interactions: str) -> dict[str, Any]:
        return {**before, "types": types | {"Observation": {**types["Observation"], "interactions": sorted(interactions)}}}

    rest = {"create", "read", "search-type", "update"}
    lost = drift.since(with_(*rest, "patch"), with_(*rest), smart.run)
    assert [(one.where, one.breaking) for one in lost] == [("Observation.interaction", True)]
    assert not drift.since(with_(*rest), with_(*rest, "patch"), smart.run)[0].breaking


def test_what_needs_a_look_is_shown(typed: Typed) -> None:
    before = typed(show_command).stdout
    assert "never probed" in before
    typed(probe_command, "--read-only")
    after = typed(show_command).stdout
    assert "never probed" not in after
    assert "granted more than anything here needs: system/*.cruds" in after


def test_keys_are_rotated_step_by_step_and_what_is_published_comes_first(typed: Typed, home: Path, smart: World) -> None:
    key_file, jwks = home / "keys" / "client.jwk", home / "jwks" / f"{smart.run.id}.json"
    assert typed(keys_command, "publish").exit_code == 0
    assert len(json.loads(jwks.read_text())["keys"]) == 2
    early = typed(keys_command, "switch")
    assert "too soon" in str(early.exception)
    shown = typed(keys_command, "switch", "--wait", "0").stdout.splitlines()
    assert [line.split()[-1] for line in shown] == ["retired", "current"]
    assert typed(keys_command, "retire", "--wait", "0").exit_code == 0
    assert len(json.loads(jwks.read_text())["keys"]) == 1
    assert stat.S_IMODE(key_file.stat().st_mode) == 0o600
    keys = client_keys.read_keys(key_file.read_bytes(), "here")
    assert json.loads(typed(keys_command, "jwks").stdout.partition("\n")[2]) == client_keys.public(keys)
    assert all("d" not in one for one in json.loads(jwks.read_text())["keys"])


def test_a_key_in_a_secrets_manager_is_not_rotated_from_here(typed: Typed, smart: World, home: Path, monkeypatch: Any) -> None:
    secret = (home / "keys" / "client.jwk").read_text()
    monkeypatch.setenv("CLIENT_KEY", secret)
    object.__setattr__(smart.run.tenant.ehr.auth, "private_key", "env:CLIENT_KEY")
    assert "env secrets are changed in their own store" in str(typed(keys_command, "publish").exception)


def test_a_staging_ehr_is_asked_whether_it_would_take_a_payload(typed: Typed, tmp_path: Path) -> None:
    good, bad = tmp_path / "good.json", tmp_path / "bad.json"
    good.write_text(json.dumps(heart_rate("nobody", "2024-03-01T10:00:00Z", 72)))
    bad.write_text(json.dumps({"resourceType": "Observation", "status": "no such status of hunter2"}))
    result = typed(validate_command, str(good), str(bad))
    assert result.exit_code == 1
    assert f"{good}: valid" in result.stdout
    assert f"{bad}: not valid" in result.stdout
    assert "hunter2" not in result.stdout


def test_a_server_of_another_version_is_refused(typed: Typed, smart: World, monkeypatch: pytest.MonkeyPatch) -> None:
    from fhir_writeback_dagster.commit.fhir_client import FhirClient

    read = FhirClient._resource

    async def newer(self: FhirClient, *arguments: Any, **more: Any) -> Any:
        return {**await read(self, *arguments, **more), "fhirVersion": "5.0.0"}

    monkeypatch.setattr(FhirClient, "_resource", newer)
    result = typed(probe_command, "--read-only")
    assert isinstance(result.exception, TargetError)
    assert "FHIR version 5.0.0" in str(result.exception)
