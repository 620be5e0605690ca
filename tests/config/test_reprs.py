"""What is printed of an object by accident, in a log, a traceback or a failed assertion, holds no password and no key."""

from __future__ import annotations

import dataclasses
import importlib
import pkgutil
import re
from pathlib import Path
from typing import Any

from conftest import MakeTenant, OpenLayer

import fhir_writeback_dagster
from fhir_writeback_dagster.config.settings import Settings
from fhir_writeback_dagster.ops.configuration import load_configuration
from fhir_writeback_dagster.ops.environment import layer_environment
from fhir_writeback_dagster.ops.folder import StateFolder
from fhir_writeback_dagster.ops.process import Program
from fhir_writeback_dagster.ops.provision import Dsns

_SECRET = re.compile(r"dsn|passwords?|secret|token|proxy_token|environment|wrapping_key|private_jwk")
_SEEN = {"ops.privacy", "ops.launch", "__main__"}  # importing them does something


def test_a_runs_context_and_what_it_holds_show_no_password_and_no_key(
    make_tenant: MakeTenant, open_run: OpenLayer, home: Path
) -> None:
    tenant = make_tenant()
    keys = [(home / "keys" / f"{tenant.tenant}.{kind}").read_text() for kind in ("sealing", "identity")]
    with open_run("commit", tenant) as run:
        shown = "".join(map(repr, (run, run.settings, run.store, run.sealer, run.identity, vars_of(run.store))))
        password = run.settings.dsn.partition(":")[2].partition(":")[2].partition("@")[0]
        assert len(password) > 10
        assert password not in shown
        assert not [key for key in keys if key in shown]


def vars_of(thing: Any) -> list[str]:
    return [repr(value) for value in getattr(thing, "__dict__", {}).values() if dataclasses.is_dataclass(value)]


def test_settings_programs_and_configurations_show_none(home: Path) -> None:
    config = load_configuration(home, {"FHIR_WRITEBACK_COMMIT__EHR": "hush-hush"})
    dsns = Dsns({"commit": "postgresql://u:hush-hush@h/d", "dagster": "postgresql://u:hush-hush@h/d"})  # pragma: allowlist secret
    environment, _ = layer_environment(config, StateFolder(home), dsns, "commit", [])
    assert environment["EHR"] == "hush-hush"
    program = Program("x", ["x"], environment, home / "log", home)
    assert "hush" not in repr((config, dsns, program, Settings(home, "commit", dsns.of("commit"))))


def test_every_field_that_is_named_as_a_secret_is_left_out_of_what_is_printed() -> None:
    told = []
    for module in pkgutil.walk_packages(fhir_writeback_dagster.__path__, "fhir_writeback_dagster."):
        if module.name.removeprefix("fhir_writeback_dagster.") in _SEEN or ".sandbox" in module.name:
            continue
        for thing in vars(importlib.import_module(module.name)).values():
            if isinstance(thing, type) and dataclasses.is_dataclass(thing) and thing.__module__ == module.name:
                hidden = thing.__repr__ is object.__repr__
                told += [
                    f"{thing.__qualname__}.{field.name}"
                    for field in dataclasses.fields(thing)
                    if _SECRET.fullmatch(field.name) and field.repr and not hidden and field.type not in {"float", "int"}
                ]
    assert told == []
