"""Which layer gets which secret, and what the user configures."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from support import write_tenant

from fhir_writeback_dagster.config.settings import LAYERS, Layer
from fhir_writeback_dagster.config.tenants import Tenant
from fhir_writeback_dagster.errors import ConfigError
from fhir_writeback_dagster.ops.configuration import ANY_PORT, LOCATIONS, load_configuration
from fhir_writeback_dagster.ops.environment import dagster_environment, layer_environment, needs, write_layer_file
from fhir_writeback_dagster.ops.folder import StateFolder
from fhir_writeback_dagster.ops.provision import Dsns
from fhir_writeback_dagster.ops.sockets import socket_of

DSNS = Dsns({name: f"postgresql://{name}@db/x" for name in (*LAYERS, "dagster", "migrator")})
ALL = {f"FHIR_WRITEBACK_DSN_{name.upper()}": f"postgresql://{name}@db/x" for name in (*LAYERS, "dagster")}
AUTH = {"type": "smart_backend", "client_id": "c", "private_key": "env:EHR_KEY", "scopes": ["system/*.cruds"]}
SECRETS = {"SEALING": "s", "IDENTITY_2": "i2", "IDENTITY_1": "i1", "EHR_KEY": "e", "UNRELATED": "u"}


@pytest.fixture
def tenant(home: Path) -> Tenant:
    keys = {"sealing": "env:SEALING", "identity": ["env:IDENTITY_2", "env:IDENTITY_1"]}
    return write_tenant(home, "mercy", {"keys": keys, "ehr": {"auth": AUTH}})


def _secrets(home: Path, layer: Layer, tenant: Tenant, environment: dict[str, str]) -> dict[str, str]:
    built, _ = layer_environment(load_configuration(home, environment), StateFolder(home), DSNS, layer, [tenant])
    return {name: value for name, value in built.items() if name in SECRETS}


@pytest.mark.parametrize(
    ("layer", "holds"),
    [
        ("ingest", {"SEALING", "IDENTITY_1", "IDENTITY_2"}),
        ("decide", {"SEALING", "IDENTITY_1", "IDENTITY_2"}),
        ("commit", {"SEALING", "IDENTITY_1", "IDENTITY_2", "EHR_KEY"}),
        ("audit", set()),
    ],
)
def test_each_layer_gets_the_secrets_that_it_may_hold_and_no_other(
    home: Path, tenant: Tenant, layer: Layer, holds: set[str]
) -> None:
    assert _secrets(home, layer, tenant, SECRETS) == {name: SECRETS[name] for name in holds}


@pytest.mark.parametrize("layer", LOCATIONS)
def test_a_layer_has_its_own_login_and_no_other(home: Path, tenant: Tenant, layer: Layer) -> None:
    built, _ = layer_environment(load_configuration(home, SECRETS | ALL), StateFolder(home), DSNS, layer, [tenant])
    text = json.dumps(built)
    assert built["FHIR_WRITEBACK_DSN"] == f"postgresql://{layer}@db/x"
    assert not [other for other in (*LAYERS, "migrator") if other != layer and f"//{other}@" in text]


def test_dagsters_own_processes_hold_no_layers_login_and_no_secret(home: Path, tenant: Tenant) -> None:
    built = dagster_environment(StateFolder(home), DSNS)
    text = json.dumps(built)
    assert not [name for name in (*LAYERS, "migrator") if f"//{name}@" in text]
    assert not SECRETS.keys() & built.keys()
    assert built["FHIR_WRITEBACK_SOCKET_COMMIT"] == str(socket_of(home, "commit"))


def test_the_users_environment_is_not_inherited(home: Path, tenant: Tenant, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "x")
    monkeypatch.setenv("PGPASSWORD", "x")
    for layer in LOCATIONS:
        built, _ = layer_environment(load_configuration(home), StateFolder(home), DSNS, layer, [tenant])
        assert not {"AWS_SECRET_ACCESS_KEY", "PGPASSWORD"} & built.keys()


def test_a_secret_can_be_given_to_one_layer_by_prefix_or_by_its_file_and_survives_quoting(home: Path, tenant: Tenant) -> None:
    state = StateFolder(home)
    jwk = json.dumps({"kty": "EC", "note": 'it\'s \\ "quoted" # $HOME'})
    write_layer_file(state, "commit", {"EHR_KEY": jwk})
    assert oct((state.path / "env" / "commit.env").stat().st_mode & 0o777) == "0o600"
    assert _secrets(home, "commit", tenant, {})["EHR_KEY"] == jwk
    assert _secrets(home, "commit", tenant, {"FHIR_WRITEBACK_COMMIT__EHR_KEY": "p"})["EHR_KEY"] == "p"
    assert _secrets(home, "ingest", tenant, {"FHIR_WRITEBACK_COMMIT__EHR_KEY": "p"}) == {}


def test_a_secret_that_nobody_gave_is_named_with_the_tenant_and_the_mend(home: Path, tenant: Tenant) -> None:
    given = {name: value for name, value in SECRETS.items() if name != "EHR_KEY"}
    missing = {
        layer: layer_environment(load_configuration(home, given), StateFolder(home), DSNS, layer, [tenant])[1]
        for layer in LOCATIONS
    }
    assert {layer: len(errors) for layer, errors in missing.items()} == {"ingest": 0, "decide": 0, "commit": 1, "audit": 0}
    assert "tenants/mercy.yaml: EHR_KEY is not set [secret_missing]" in str(missing["commit"][0])
    assert "commit.env" in str(missing["commit"][0])


def test_the_environment_wins_over_dotenv(home: Path) -> None:
    (home / ".env").touch(mode=0o600)
    (home / ".env").write_text("FHIR_WRITEBACK_PORT_WEB=4001\nFHIR_WRITEBACK_PORT_POSTGRES=4002\n")
    config = load_configuration(home, {"FHIR_WRITEBACK_PORT_WEB": "5001"})
    assert (config.ports["web"], config.ports["postgres"]) == (5001, 4002)


def test_with_no_login_configured_the_database_is_embedded_and_with_some_the_missing_are_named(home: Path) -> None:
    assert load_configuration(home, {}).dsns is None
    configured = load_configuration(home, ALL).dsns
    assert configured
    assert configured.of("decide") == "postgresql://decide@db/x"
    with pytest.raises(ConfigError, match="not FHIR_WRITEBACK_DSN_COMMIT, FHIR_WRITEBACK_DSN_DAGSTER"):
        _ = load_configuration(home, {k: v for k, v in ALL.items() if not k.endswith(("COMMIT", "DAGSTER"))}).dsns


@pytest.mark.parametrize("port", ["x", "-1", "65536", "30 00"])
def test_a_port_that_is_none_is_refused_by_the_name_of_its_variable(home: Path, port: str) -> None:
    with pytest.raises(ConfigError, match=r"FHIR_WRITEBACK_PORT_WEB: not a port number"):
        load_configuration(home, {"FHIR_WRITEBACK_PORT_WEB": port}, ANY_PORT)


def test_a_bad_tenant_file_stops_no_other_tenant(home: Path, tenant: Tenant) -> None:
    (home / "tenants" / "broken.yaml").write_text("tenant: broken\nehr: [\n")
    good, bad = load_configuration(home, {}).tenants()
    assert [t.tenant for t in good] == ["mercy"]
    assert [error.code for error in bad] == ["bad_yaml"]


def test_the_way_to_a_secrets_manager_goes_only_to_the_layers_that_hold_one_of_its_secrets(home: Path) -> None:
    auth = {"type": "smart_backend", "client_id": "us", "private_key": "vault:kv/mercy/ehr#key"}
    told: dict[str, object] = {
        one.variable: (one.layers, one.required) for one in needs(write_tenant(home, "vaulted", {"ehr": {"auth": auth}}))
    }
    assert told == {
        "VAULT_ADDR": ({"commit"}, True),
        "VAULT_TOKEN": ({"commit"}, True),
        "VAULT_CACERT": ({"commit"}, False),
    }
