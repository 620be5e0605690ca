"""The demo's home: tenants that load, and keys that only the right layers can see."""

from __future__ import annotations

import stat
from pathlib import Path

from fhir_writeback_dagster.config.settings import LAYERS, Layer
from fhir_writeback_dagster.config.tenants import tenant_ids
from fhir_writeback_dagster.ops.configuration import load_configuration
from fhir_writeback_dagster.ops.environment import layer_environment
from fhir_writeback_dagster.ops.provision import Dsns
from fhir_writeback_dagster.sandbox.demo_home import KINDS, SOURCES, make_home
from fhir_writeback_dagster.sandbox.keys import make_client_key
from fhir_writeback_dagster.sandbox.story.hospitals import make_world

DSNS = Dsns({name: f"postgresql://{name}@127.0.0.1/x" for name in (*LAYERS, "dagster")})


def _environment(home: Path, layer: Layer) -> dict[str, str]:
    private, _ = make_client_key()
    state = make_home(home, [(hospital, "http://127.0.0.1:9/fhir", private) for hospital in make_world()])
    config = load_configuration(home, {})
    tenants, bad = config.tenants()
    assert not bad
    environment, missing = layer_environment(config, state, DSNS, layer, tenants)
    assert not missing
    return environment


def test_only_commit_gets_the_key_of_the_ehr(tmp_path: Path) -> None:
    for layer in ("ingest", "decide", "commit", "audit"):
        home = tmp_path / layer
        home.mkdir()
        environment = _environment(home, layer)
        held = {name for name in environment if name.endswith(("_EHR_KEY", "_SEALING_KEY", "_IDENTITY_KEY"))}
        keys = {f"{tenant}_{key}_KEY" for tenant in ("MERCY", "STVINCENT") for key in ("SEALING", "IDENTITY")}
        ehr = {"MERCY_EHR_KEY", "STVINCENT_EHR_KEY"}
        assert held == {"ingest": keys, "decide": keys, "commit": keys | ehr, "audit": set()}[layer]


def test_every_tenant_runs_every_source_and_mapping(tmp_path: Path) -> None:
    _environment(tmp_path, "ingest")
    tenants, _ = load_configuration(tmp_path, {}).tenants()
    assert [t.tenant for t in tenants] == tenant_ids(tmp_path / "tenants") == ["mercy", "stvincent"]
    for tenant in tenants:
        assert set(tenant.sources) == set(SOURCES)
        assert set(tenant.mappings) == set(KINDS)
        assert all((tmp_path / use.landing).is_dir() for use in tenant.sources.values())


def test_no_secret_stands_in_a_file_that_others_can_read(tmp_path: Path) -> None:
    _environment(tmp_path, "ingest")
    texts = {path: path.read_text() for path in (tmp_path / "tenants").iterdir()}
    files = list((tmp_path / ".fhir-writeback").rglob("*.env"))
    assert {path.stem for path in files} == {"ingest", "decide", "commit"}
    for path in files:
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        for line in path.read_text().splitlines():
            assert not any(line.split("'")[1] in text for text in texts.values())
