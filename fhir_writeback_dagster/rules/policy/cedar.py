"""Who may write what: Cedar, with default deny; `forbid` wins over `permit`.

Two questions are asked about each write. `propose`: may it become one at all? `autoCommit`: without a person? No to the first is
*denied*, no to the second *review*, yes to both *automatic*. What cannot be asked or evaluated counts as no.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import ROUND_DOWN, Decimal
from pathlib import Path
from typing import Any, Literal

import cedarpy

from fhir_writeback_dagster import canonicaljson
from fhir_writeback_dagster.rules.policy.files import compile_policies, compile_schema, policy_path

SCHEMA_FILE = "schema.cedarschema"
NAMESPACE = "Writeback"

_ENTITY_TYPES = {"source": f"{NAMESPACE}::Source", "agent": f"{NAMESPACE}::Agent"}
_ACTIONS = ("propose", "autoCommit")


@dataclass(frozen=True, slots=True)
class PolicyRequest:
    """One write, as the policies see it; what the fields mean stands in ``policies/schema.cedarschema``.

    ``codes`` and ``labels`` are ``system|code``, ``now`` is an instant with offset. Cedar sees ``confidence`` cut (not rounded)
    to four digits.
    """

    tenant: str
    source: str
    actor_type: str
    actor_id: str
    kind: str
    resource_type: str
    interaction: str
    confidence: Decimal | None
    basis: str
    codes: tuple[str, ...]
    encounter_status: str | None
    now: datetime
    labels: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        return {
            "tenant": self.tenant,
            "source": self.source,
            "actor_type": self.actor_type,
            "actor_id": self.actor_id,
            "kind": self.kind,
            "resource_type": self.resource_type,
            "interaction": self.interaction,
            "confidence": None if self.confidence is None else str(self.confidence),
            "basis": self.basis,
            "codes": list(self.codes),
            "encounter_status": self.encounter_status,
            "now": self.now.isoformat(),
            "labels": list(self.labels),
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> PolicyRequest:
        confidence = data["confidence"]
        return cls(
            **{
                **data,
                "confidence": None if confidence is None else Decimal(confidence),
                "codes": tuple(data["codes"]),
                "now": datetime.fromisoformat(data["now"]),
                "labels": tuple(data.get("labels", ())),
            }
        )


@dataclass(frozen=True, slots=True)
class PolicyDecision:
    """``policy_ids`` are the ``@id``s that decided: what forbade, or for ``automatic`` what permitted; none: nothing permits."""

    outcome: Literal["denied", "review", "automatic"]
    policy_ids: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class _Answer:
    allowed: bool
    reasons: tuple[str, ...]


class PolicySet:
    """A tenant's policies, parsed once. ``version`` is the SHA-256 over the names and bytes of schema and files, for verdicts."""

    def __init__(self, version: str, ids: Sequence[str], policies: Any, schema: Any) -> None:
        self.version = version
        self.ids = tuple(ids)
        self._policies, self._schema = policies, schema
        self._entities = cedarpy.Entities.from_json_str("[]")

    def decide(self, asks: Sequence[PolicyRequest]) -> list[PolicyDecision]:
        """One decision for each of ``asks``, in their order; equal asks (the many rows of a batch) are asked once."""
        distinct = list(dict.fromkeys(asks))
        requests = [request for ask in distinct for request in _requests(ask)]
        answers = [
            _answer(result) for result in cedarpy.is_authorized_batch(requests, self._policies, self._entities, self._schema)
        ]
        decided = {
            ask: _decision(propose, commit) for ask, propose, commit in zip(distinct, answers[::2], answers[1::2], strict=True)
        }
        return [decided[ask] for ask in asks]


def load_policies(folder: Path, names: Sequence[str]) -> PolicySet:
    """Read ``<folder>/<name>.cedar`` for each of ``names`` and the schema beside them.

    :raises ConfigError: a file is missing, is not Cedar, speaks of what the schema does not know, or a policy has no ``@id`` of
        its own; with file and position.
    """
    schema_path = folder / SCHEMA_FILE
    schema = compile_schema(schema_path)
    paths = [policy_path(folder, name) for name in dict.fromkeys(names)]
    policies, ids = compile_policies(paths, schema)
    version = hashlib.sha256()
    for name, path in [(SCHEMA_FILE, schema_path), *zip(dict.fromkeys(names), paths, strict=True)]:
        content = path.read_bytes()
        version.update(f"{name}\0{len(content)}\0".encode())
        version.update(content)
    return PolicySet(version.hexdigest(), ids, policies, schema)


def _requests(ask: PolicyRequest) -> list[dict[str, Any]]:
    context: dict[str, Any] = {
        "tenant": ask.tenant,
        "source": ask.source,
        "resourceType": ask.resource_type,
        "interaction": ask.interaction,
        "basis": ask.basis,
        "codes": sorted(set(ask.codes)),
        "labels": sorted(set(ask.labels)),
        "now": f"{ask.now.astimezone(UTC):%Y-%m-%dT%H:%M:%SZ}",
    }
    if ask.confidence is not None:
        context["confidence"] = f"{ask.confidence.quantize(Decimal('0.0001'), ROUND_DOWN):f}"
    if ask.encounter_status is not None:
        context["encounterStatus"] = ask.encounter_status
    text = canonicaljson.encode(context).decode()
    # An unknown kind of actor is an entity type that the schema does not have: the request is refused, which denies.
    principal = {"type": _ENTITY_TYPES.get(ask.actor_type, f"{NAMESPACE}::Unknown"), "id": ask.actor_id}
    return [
        {
            "principal": principal,
            "action": {"type": f"{NAMESPACE}::Action", "id": action},
            "resource": {"type": f"{NAMESPACE}::Kind", "id": ask.kind},
            "context": text,
        }
        for action in _ACTIONS
    ]


def _answer(result: Any) -> _Answer:
    # A policy that fails to evaluate is left out by Cedar, also a forbid: with any error the answer is no.
    failed = bool(result.diagnostics.errors)
    return _Answer(result.decision is cedarpy.Decision.Allow and not failed, tuple(sorted(result.diagnostics.reasons)))


def _decision(propose: _Answer, commit: _Answer) -> PolicyDecision:
    if not propose.allowed:
        return PolicyDecision("denied", propose.reasons)
    if not commit.allowed:
        return PolicyDecision("review", commit.reasons)
    return PolicyDecision("automatic", (*propose.reasons, *commit.reasons))
