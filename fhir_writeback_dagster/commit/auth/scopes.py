"""SMART scopes, version 1 and 2: which a tenant needs, and whether what was granted is as much, or more.

HL7 SMART App Launch 2.2, scopes-and-launch-context. ``system/Observation.write`` (v1) means create, update and delete;
``system/Observation.cu`` (v2) names letters of ``cruds``; ``*`` stands for every type, or for every letter.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

from pydantic import BaseModel, ConfigDict

from fhir_writeback_dagster.config.tenants import Tenant
from fhir_writeback_dagster.config.yaml_file import load_yaml
from fhir_writeback_dagster.rules.target.capabilities import NOT_READ, Target

_SCOPE = re.compile(
    r"(?P<context>system|user|patient)/(?P<type>\*|[A-Z][A-Za-z]+)\.(?P<rights>\*|read|write|[cruds]+)(?:\?(?P<query>.*))?"
)
_V1 = {"read": "rs", "write": "cud", "*": "cruds"}


class _Mapping(BaseModel):
    """What a mapping file says of the scopes that it needs."""

    model_config = ConfigDict(extra="ignore", frozen=True)
    resource: str


def needed(tenant: Tenant, mappings: Path, target: Target) -> list[str]:
    """The least that this tenant's mappings, its mirror and read-back need, in the version that the target knows.

    :param mappings: the folder of mappings, ``<kind>/<version>.yaml``.
    :raises ConfigError: a mapping that the tenant names is missing or wrong.
    """
    letters: dict[str, set[str]] = {"Patient": set("rs"), "Encounter": set("rs")}
    if tenant.consent.source == "ehr":
        letters["Consent"] = set("rs")
    for name in written_types(tenant, mappings):
        rights = letters.setdefault(name, set("rs"))
        # Before the CapabilityStatement is read first, what it may allow is asked for.
        rights |= {"c"} if target.refusal(name, "create") in (None, NOT_READ) else set()
        rights |= {"u"} if target.refusal(name, "update") in (None, NOT_READ) else set()
    v1 = target.vendor.access.scopes.value == ("v1",)
    return [scope for name, rights in sorted(letters.items()) for scope in _written(name, rights, v1=v1)]


def written_types(tenant: Tenant, mappings: Path) -> list[str]:
    """The resource types that this tenant's mappings create, those whose mode is off left out.

    :param mappings: the folder of mappings, ``<kind>/<version>.yaml``.
    :raises ConfigError: a mapping that the tenant names is missing or wrong.
    """
    named = {load_yaml(mappings / kind / f"{version}.yaml", _Mapping).resource for kind, version in tenant.mappings.items()}
    return sorted(name for name in named if name != "Patient" and tenant.modes.of(name) != "off")


def wanted(resource_type: str, rights: str, *, v1: bool) -> str:
    """The scope for one kind of request: ``rights`` are letters of ``cruds``.

    :param v1: the target knows the first version's scopes only.
    """
    return _written(resource_type, set(rights), v1=v1)[-1]


def missing(requested: Iterable[str], granted: Iterable[str]) -> list[str]:
    """The requested scopes that the granted ones together do not cover, in order. One that is no FHIR scope needs its equal."""
    given = list(granted)
    return [scope for scope in requested if not _covered(scope, given)]


def broader(granted: Iterable[str], enough: Iterable[str]) -> list[str]:
    """The granted scopes that allow what those that are ``enough`` do not, in order."""
    return missing([scope for scope in granted if _SCOPE.fullmatch(scope)], enough)


def _covered(wanted: str, given: list[str]) -> bool:
    want = _SCOPE.fullmatch(wanted)
    if wanted in given or want is None:
        return wanted in given
    letters: set[str] = set()
    for one in given:
        have = _SCOPE.fullmatch(one)
        if (
            have is not None
            and have["context"] == want["context"]
            and have["type"] in ("*", want["type"])
            and have["query"] in (None, want["query"])
        ):
            letters |= set(_letters(have["rights"]))
    return set(_letters(want["rights"])) <= letters


def _letters(rights: str) -> str:
    return _V1.get(rights, rights)


def _written(resource_type: str, rights: set[str], *, v1: bool) -> list[str]:
    if not v1:
        return [f"system/{resource_type}.{''.join(letter for letter in 'cruds' if letter in rights)}"]
    return [f"system/{resource_type}.read"] + ([f"system/{resource_type}.write"] if rights & {"c", "u"} else [])
