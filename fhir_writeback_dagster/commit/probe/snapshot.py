"""What a target says of itself, reduced to what writing depends on; and what changed in it since somebody approved it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from fhir_writeback_dagster.commit.auth.discovery import oauth_uri
from fhir_writeback_dagster.rules.target.capabilities import Target, resources, server

_FLAGS = ("versioning", "conditionalCreate", "updateCreate", "readHistory")
_SMART = ("token_endpoint", "token_endpoint_auth_signing_alg_values_supported", "token_endpoint_auth_methods_supported",
          "capabilities")  # fmt: skip
_ALGORITHMS = "token_endpoint_auth_signing_alg_values_supported"

Snapshot = dict[str, Any]
"""``{"fhir": version, "software": …, "system": [codes], "types": {type: {"interactions": [codes], flags}}, "smart": {…}}``"""


@dataclass(frozen=True, slots=True)
class Difference:
    """``where`` it is, what was approved, what is there now. ``breaking``: what we rely on is not there any more."""

    where: str
    approved: Any
    now: Any
    breaking: bool

    def to_json(self) -> dict[str, Any]:
        return {"where": self.where, "approved": self.approved, "now": self.now, "breaking": self.breaking}


def take(statement: Mapping[str, Any], smart: Mapping[str, Any]) -> Snapshot:
    """The snapshot of a CapabilityStatement and a smart-configuration."""
    software = statement.get("software")
    # An EHR from before SMART 2 names its token endpoint in the CapabilityStatement: it counts as much.
    said = {"token_endpoint": oauth_uri(dict(statement)), **smart}
    return {
        "fhir": str(statement.get("fhirVersion", "")),
        "software": str(software.get("version", "")) if isinstance(software, dict) else "",
        "system": sorted(_codes(server(statement).get("interaction"))),
        "types": {
            str(one.get("type")): {"interactions": sorted(_codes(one.get("interaction")))}
            | {flag: one[flag] for flag in _FLAGS if flag in one}
            for one in resources(statement)
        },
        "smart": {name: said[name] for name in _SMART if said.get(name) is not None},
    }


def differences(approved: Snapshot, now: Snapshot, target: Target, used: Iterable[str]) -> list[Difference]:
    """What is not as approved.

    :param target: by the matrix and the *approved* statement: how it is written to.
    :param used: the resource types that the tenant writes.
    """
    found = [
        Difference("fhirVersion", approved["fhir"], now["fhir"], breaking=approved["fhir"][:3] != now["fhir"][:3]),
        Difference("software.version", approved["software"], now["software"], breaking=False),
        *(_list("interaction", approved["system"], now["system"], set())),
    ]
    wanted = set(used)
    for name in sorted({*approved["types"], *now["types"]}):
        before, after = approved["types"].get(name, {}), now["types"].get(name, {})
        relied = _relied_on(target, name) if name in wanted else set()
        found += _list(f"{name}.interaction", before.get("interactions", []), after.get("interactions", []), relied)
        for flag in _FLAGS:
            lost = name in wanted and _loses(target, name, flag, after.get(flag))
            found.append(Difference(f"{name}.{flag}", before.get(flag), after.get(flag), breaking=lost))
    for name in _SMART:
        before, after = approved["smart"].get(name), now["smart"].get(name)
        gone = name == _ALGORITHMS and isinstance(after, list) and not {"RS384", "ES384"} & set(after)
        found.append(Difference(f"smart.{name}", before, after, breaking=gone or name == "token_endpoint"))
    return [one for one in found if one.approved != one.now]


def _relied_on(target: Target, resource_type: str) -> set[str]:
    form = {"patch": {"patch"}, "put": {"update"}, "none": set()}[target.update_form(resource_type)]
    return {"create", "read", "search-type"} | form


def _loses(target: Target, resource_type: str, flag: str, now: object) -> bool:
    if flag == "conditionalCreate":
        return target.create_precondition(resource_type) == "if_none_exist" and now is not True
    if flag == "versioning":
        return target.vendor.update.precondition.value == "if_match" and now == "no-version"
    return False


def _list(where: str, before: list[str], after: list[str], relied: set[str]) -> list[Difference]:
    gone = set(before) - set(after)
    return [Difference(where, before, after, breaking=bool(gone & relied))]


def _codes(interactions: object) -> set[str]:
    return {str(one.get("code")) for one in interactions if isinstance(one, dict)} if isinstance(interactions, list) else set()
