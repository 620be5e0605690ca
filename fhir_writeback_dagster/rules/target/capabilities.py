"""May this target be written so, and how: its vendor's matrix and its own CapabilityStatement, both of which have to agree.

The statement narrows what the matrix allows and never widens it; where the matrix does not know, the statement alone decides.
A statement that lists no resource types tells nothing, so that what the matrix does not know may not be done.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from fhir_writeback_dagster import canonicaljson
from fhir_writeback_dagster.rules.target.forms import Unwritable, fields
from fhir_writeback_dagster.rules.target.matrix import BundleKind, CreatePrecondition, Types, UpdateForm, Vendor

Interaction = Literal["create", "update"]

NOT_READ = "target_not_read"
"""A refusal that ends with the mirror's next refresh: the matrix leaves it to the CapabilityStatement, which nobody has read."""
TOO_LARGE = "too_large_for_ehr"


@dataclass(frozen=True, slots=True)
class Target:
    """One EHR: ``statement`` is its CapabilityStatement as last read, None before the first time."""

    vendor: Vendor
    statement: Mapping[str, Any] | None = None
    _by_type: Mapping[str, Mapping[str, Any]] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        # Asked for each record, and a statement lists 150 types.
        by_type = {str(one.get("type")): one for one in reversed(resources(self.statement))}
        object.__setattr__(self, "_by_type", by_type)

    def refusal(self, resource_type: str, interaction: Interaction, payload: dict[str, Any] | None = None) -> str | None:
        """Why this may not be sent, as a reason code; None: it may.

        :param payload: of a create; without it only the type is asked for.
        """
        if interaction == "update":
            put, patch = self.vendor.update.put.value, self.vendor.update.patch.value
            if self.update_form(resource_type) != "none":
                return None
            return NOT_READ if self.statement is None and None in (put, patch) else "target_cannot_update"
        own, types = self.own_api(resource_type), self.vendor.create.types
        if not own and self.statement is None and types.value is None:
            return NOT_READ
        if not own and not self._may(types, resource_type, "create"):
            return "target_cannot_create"
        return None if payload is None else self._unsayable(payload, own=own)

    def _unsayable(self, payload: dict[str, Any], *, own: bool) -> str | None:
        if not own:
            return None if self.takes(payload) else TOO_LARGE
        try:
            fields(self.vendor, payload)
        except Unwritable as reason:
            return reason.code
        return None

    def takes(self, body: object) -> bool:
        """Is the JSON ``body`` small enough for it, as far as is known?"""
        most = self.vendor.limits.body_bytes.value
        return most is None or len(canonicaljson.encode(body)) <= most

    def own_api(self, resource_type: str) -> bool:
        """Is the type created over the vendor's own API? Its CapabilityStatement says nothing about that one."""
        return resource_type in self.vendor.create.own_api.get(())

    def create_precondition(self, resource_type: str) -> CreatePrecondition:
        """The strongest that makes a repeated create harmless here; a search before it where nothing else is known."""
        by_matrix = self.vendor.create.precondition.value
        advertised = self._resource(resource_type).get("conditionalCreate")
        if by_matrix is None:
            return "if_none_exist" if advertised is True else "search"
        return "search" if by_matrix == "if_none_exist" and advertised is False else by_matrix

    def can_be_found(self, resource_type: str) -> bool:
        """Does a search by our identifier prove that something of ours is there, or is not?

        Servers that drop foreign identifiers show what they stored by its content only.
        """
        return self.vendor.create.keeps_identifier.get(False) and not self.own_api(resource_type)

    def bundle_size(self, kind: BundleKind, wanted: int) -> int:
        """How many creates may share a bundle of ``kind``, at most ``wanted``; 1 where the target takes none."""
        bundles = self.vendor.bundles
        if kind not in bundles.kinds.get(()) or not self._system_may(kind):
            return 1
        most = [wanted, bundles.entries.get(wanted)]
        if kind == "transaction" and self.vendor.create.precondition.value == "if_none_exist":
            most.append(bundles.conditional_entries.get(wanted))
        return max(1, min(most))

    def update_form(self, resource_type: str) -> UpdateForm:
        """``patch`` where the target takes one, because it says the least; a ``put`` of the whole resource, or nothing."""
        update = self.vendor.update
        if update.patch_precondition.value is not False and self._may(update.patch, resource_type, "patch"):
            return "patch"
        return "put" if self._may(update.put, resource_type, "update") else "none"

    def _may(self, types: Types, resource_type: str, interaction: str) -> bool:
        if types.value is not None and not {"*", resource_type} & set(types.value):
            return False
        listed = self._interactions(resource_type)
        return types.value is not None if listed is None else interaction in listed

    def _system_may(self, kind: BundleKind) -> bool:
        found = server(self.statement).get("interaction")
        return not isinstance(found, list) or any(isinstance(one, dict) and one.get("code") == kind for one in found)

    def _interactions(self, resource_type: str) -> set[str] | None:
        """What the statement lists for the type; None: it tells nothing about any type."""
        if not self._by_type:
            return None
        found = self._resource(resource_type).get("interaction")
        return {str(one.get("code")) for one in found if isinstance(one, dict)} if isinstance(found, list) else set()

    def _resource(self, resource_type: str) -> Mapping[str, Any]:
        return self._by_type.get(resource_type, {})


def server(statement: Mapping[str, Any] | None) -> Mapping[str, Any]:
    """What a CapabilityStatement says of the target as a server; empty where it says nothing. R4 lets it say so in several
    parts: the server does what any of them says, and of what stands once (`versioning`, say) the first counts.
    """
    whole: dict[str, Any] = {}
    for rest in _dicts((statement or {}).get("rest")):
        if rest.get("mode") != "client":
            whole = _joined(whole, {**rest, "resource": _by_type(rest)})
    return {**whole, "resource": list(whole["resource"].values())} if whole else {}


def _by_type(rest: Mapping[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for one in _dicts(rest.get("resource")):
        if isinstance(one.get("type"), str):
            found[one["type"]] = _joined(found.get(one["type"], {}), one)
    return found


def _joined(first: dict[str, Any], second: Mapping[str, Any]) -> dict[str, Any]:
    """Lists follow each other, objects are joined; of anything else the first stands, and a yes before a no."""
    joined = dict(first)
    for name, value in second.items():
        before = joined.get(name)
        if isinstance(before, list) and isinstance(value, list):
            joined[name] = [*before, *value]
        elif isinstance(before, dict) and isinstance(value, dict):
            joined[name] = _joined(before, value)
        elif before is None or (before is False and value is True):
            joined[name] = value
    return joined


def _dicts(value: object) -> list[dict[str, Any]]:
    return [one for one in value if isinstance(one, dict)] if isinstance(value, list) else []


def resources(statement: Mapping[str, Any] | None) -> list[dict[str, Any]]:
    """What it says of each resource type."""
    listed = server(statement).get("resource")
    return [one for one in listed if isinstance(one, dict)] if isinstance(listed, list) else []
