"""Mappings: from a canonical record to a FHIR payload, as immutable versions in ``mappings/fhir/<kind>/<n>.yaml``.

A version is compiled once a process and content. Its identity fields say what the clinical fact *is*; neither the mapping's
version nor a hash of a file or row is among them.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, Literal, get_args

from pydantic import BaseModel, Field

from fhir_writeback_dagster.canonical import KINDS, CanonicalRecord
from fhir_writeback_dagster.config.strict_model import StrictModel
from fhir_writeback_dagster.config.yaml_file import file_sha256, line_of, load_yaml
from fhir_writeback_dagster.decide.mapping.expressions import Expression, Names
from fhir_writeback_dagster.decide.mapping.skeleton import BadSkeleton, Loc, compile_leaf, compile_skeleton
from fhir_writeback_dagster.errors import CandidateProblem, ConfigError
from fhir_writeback_dagster.rules.fhir.r4 import definitions, types_of
from fhir_writeback_dagster.rules.fhir.time import Precision, normalise

MappedInteraction = Literal["create", "update"]
Risk = Literal["low", "medium", "high"]


_MODELS: dict[str, type[BaseModel]] = {
    model.model_fields["kind"].default: model for model in get_args(get_args(CanonicalRecord)[0])
}


@dataclass(frozen=True, slots=True)
class Refs:
    """What only the match knows: chart references, and the business key with the tenant's identifier system."""

    patient: str
    """``Patient/123``"""
    encounter: str | None
    identifier_system: str
    business_key: str


class _RefsNames(BaseModel):
    """The same, as names and types for expressions: ``refs.patient``."""

    patient: str
    encounter: str | None
    identifier_system: str
    business_key: str


class IdentityField(StrictModel):
    value: str = Field(description="an expression")
    precision: Precision | None = Field(None, description="of a time: what is finer tells no two facts apart")
    optional: bool = Field(False, description="may be empty; otherwise such a record is quarantined")


class MappingFile(StrictModel):
    """A version's file; see docs/adding-a-mapping.md."""

    kind: Literal[KINDS]  # type: ignore[valid-type]
    version: int = Field(ge=1)
    about: str = Field(min_length=1, description="what it makes and after which profile")
    resource: str = Field(description="R4 resource type")
    interaction: MappedInteraction
    risk: Risk
    identity: dict[str, IdentityField | str] = Field(min_length=1)
    bindings: dict[str, tuple[str, ...]] = Field(
        default_factory=dict, description="code systems of which one must code an element, by the element's name"
    )
    must_keep: tuple[str, ...] = Field(min_length=1, description="elements that must survive the EHR")
    skeleton: dict[str, Any] = Field(min_length=1)


@dataclass(frozen=True, slots=True)
class _Identified:
    name: str
    value: Expression
    precision: Precision | None
    optional: bool


@dataclass(frozen=True, slots=True)
class Mapping:
    """One version of one kind's mapping; ``sha256`` (hex) is of the file's bytes."""

    kind: str
    version: int
    resource_type: str
    interaction: MappedInteraction
    risk: Risk
    sha256: str
    must_keep: tuple[str, ...]
    _skeleton: Expression = field(repr=False)
    _identity: tuple[_Identified, ...] = field(repr=False)
    _bindings: tuple[tuple[str, frozenset[str]], ...] = field(repr=False)

    def render(self, record: dict[str, Any], refs: Refs) -> dict[str, Any]:
        """The FHIR payload of a record in the form of :func:`canonical.to_json`; a new object that shares nothing.

        :raises CandidateProblem: an element lacks a coding of the systems that the mapping binds it to.
        """
        scope = {
            **record,
            "refs": {
                "patient": refs.patient,
                "encounter": refs.encounter,
                "identifier_system": refs.identifier_system,
                "business_key": refs.business_key,
            },
        }
        payload: dict[str, Any] = {"resourceType": self.resource_type, **(self._skeleton(scope) or {})}
        for element, systems in self._bindings:
            codings = payload.get(element, {}).get("coding", ())
            if not any(coding.get("system") in systems for coding in codings):
                raise CandidateProblem("code_system", "not coded in a system that the mapping asks for", where=element)
        return payload

    def identity(self, record: dict[str, Any]) -> tuple[str, ...]:
        """What the clinical fact is: the identity fields in the file's order, empty text for one that is not said.

        Times are UTC, cut to the declared precision, so that one instant in two offsets is one identity.

        :raises CandidateProblem: a field that is not optional has no value.
        """
        values: list[str] = []
        for part in self._identity:
            value = part.value(record)
            if value is None and not part.optional:
                raise CandidateProblem("no_identity", "a field of the identity is empty", where=part.name)
            text = "" if value is None else str(value)
            values.append(normalise(text, part.precision) if text and part.precision else text)
        return tuple(values)


def load_mapping(folder: Path, kind: str, version: int) -> Mapping:
    """Read and compile ``<folder>/<kind>/<version>.yaml``; compiled once for each content.

    :raises ConfigError: no such version, or a file that is wrong, with its line and what was expected.
    """
    path = folder / kind / f"{version}.yaml"
    if kind not in KINDS or not path.is_file():
        known = sorted(int(p.stem) for p in (folder / kind).glob("*.yaml") if p.stem.isdigit()) if kind in KINDS else []
        fix = f"versions of {kind}: {', '.join(map(str, known)) or 'none'}" if kind in KINDS else f"kinds: {', '.join(KINDS)}"
        raise ConfigError("unknown_mapping", f"there is no mapping {kind}/{version}", where=str(path), fix=fix)
    return _compiled(path, file_sha256(path))


@cache
def _compiled(path: Path, sha256: str) -> Mapping:
    file = load_yaml(path, MappingFile)
    if (file.kind, str(file.version)) != (path.parent.name, path.stem):
        raise _wrong(path, ("kind",), "`kind` and `version` differ from the file's place")
    if file.resource not in definitions().written:
        raise _wrong(path, ("resource",), f"expected one of {', '.join(definitions().written)}")
    named: list[tuple[Loc, str]] = [(("bindings", element), element) for element in file.bindings]
    named += [(("must_keep", index), element) for index, element in enumerate(file.must_keep)]
    for loc, element in named:
        if element not in types_of(file.resource):
            raise _wrong(path, loc, f"R4 has no element {element!r} in {file.resource}")
    names = Names.of_model(_MODELS[file.kind])
    try:
        skeleton = compile_skeleton(file.skeleton, file.resource, names.plus(refs=_RefsNames), ("skeleton",))
        identity = tuple(_identified(name, value, names) for name, value in file.identity.items())
    except BadSkeleton as error:
        raise _wrong(path, error.loc, str(error)) from None
    return Mapping(
        file.kind,
        file.version,
        file.resource,
        file.interaction,
        file.risk,
        sha256,
        file.must_keep,
        skeleton.make,
        identity,
        tuple((element, frozenset(systems)) for element, systems in file.bindings.items()),
    )


def _identified(name: str, declared: IdentityField | str, names: Names) -> _Identified:
    whole = declared if isinstance(declared, IdentityField) else IdentityField(value=declared, precision=None, optional=False)
    return _Identified(name, compile_leaf(whole.value, names, ("identity", name)), whole.precision, whole.optional)


def _wrong(path: Path, loc: Loc, message: str) -> ConfigError:
    return ConfigError("bad_mapping", message, where=f"{path}:{line_of(path, loc)}", fix="fix the named place")
