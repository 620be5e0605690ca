"""A source as a tenant uses it: a version of its contract with the ConceptMaps that it names."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from fhir_writeback_dagster.config.tenants import TENANT_ID, Tenant
from fhir_writeback_dagster.config.yaml_file import file_sha256, load_yaml
from fhir_writeback_dagster.errors import ConfigError
from fhir_writeback_dagster.ingest.contracts.concept_maps import ConceptMap, load_concept_map
from fhir_writeback_dagster.ingest.contracts.contract import Contract, Table
from fhir_writeback_dagster.ingest.contracts.fields import ConceptFrom, IdentifierFrom, TextFrom
from fhir_writeback_dagster.ingest.contracts.reserved_columns import PATIENT_URL
from fhir_writeback_dagster.ingest.contracts.row_rules import RowRule


@dataclass(frozen=True, slots=True)
class Source:
    """A contract with the ConceptMaps it names; ``sha256`` (32 bytes) covers them all."""

    contract: Contract
    concept_maps: dict[str, ConceptMap]
    sha256: bytes


def load_source(mappings: Path, source: str, version: int) -> Source:
    """Read ``<mappings>/sources/<source>/<version>.yaml`` and its ConceptMaps.

    :raises ConfigError: an unknown source or version, or a bad contract or map, with file, line and what was expected.
    """
    folder = mappings / "sources"
    path = folder / source / f"{version}.yaml"
    if not TENANT_ID.fullmatch(source) or not (folder / source).is_dir():
        known = ", ".join(sorted(p.name for p in folder.glob("*") if p.is_dir())) or "none"
        raise ConfigError("unknown_source", "there is no contract for this source", where=str(folder), fix=f"known: {known}")
    if not path.is_file():
        versions = ", ".join(sorted(p.stem for p in path.parent.glob("*.yaml"))) or "none"
        raise ConfigError("unknown_source_version", "no such version", where=str(path), fix=f"there are: {versions}")
    contract = load_yaml(path, Contract)
    if (contract.source, contract.version) != (source, version):
        raise ConfigError(
            "source_mismatch", "`source` and `version` differ from the file's place", where=f"{path}:1", fix="make them equal"
        )
    maps = {name: load_concept_map(mappings / "concepts", name) for name in sorted(map_names(contract))}
    digest = hashlib.sha256(file_sha256(path).encode())
    for name in maps:
        digest.update(f"|{name}|{file_sha256(mappings / 'concepts' / f'{name}.json')}".encode())
    return Source(contract, maps, digest.digest())


def source_of(mappings: Path, tenant: Tenant, source: str, version: int | None = None) -> Source:
    """A source that the tenant uses, in the version that it runs or a given one, with a system for each identifier name.

    :raises ConfigError: the tenant does not name it, the contract is wrong, an identifier's name has no system, or relative
        references are the EHR's and the contract reads no reference.
    """
    where = f"tenants/{tenant.tenant}.yaml"
    use = tenant.sources.get(source)
    if use is None:
        raise ConfigError("unknown_source", f"{source} is no source of this tenant", where=where, fix="add it to `sources`")
    loaded = load_source(mappings, source, use.version if version is None else version)
    if missing := sorted(identifier_names(loaded.contract) - use.patient_systems.keys()):
        raise ConfigError(
            "unknown_identifier_name",
            f"no identifier system for {', '.join(missing)}",
            where=f"{where}: sources.{source}",
            fix=f"add patient_systems.{missing[0]}",
        )
    _check_choices(loaded.contract, use.choices, f"{where}: sources.{source}")
    # An extract that landed by an older version is still read by that: only the version that the tenant runs must fit.
    runs = version in (None, use.version)
    if runs and use.relative_references == "ehr" and not any(map(_reads_references, loaded.contract.tables.values())):
        raise ConfigError(
            "references_not_read",
            "no table of the contract reads whom a reference names",
            where=f"{where}: sources.{source}.relative_references",
            fix="take a version whose `patient` has the column @patient, or leave the key out",
        )
    return loaded


def _check_choices(contract: Contract, chosen: Mapping[str, str], where: str) -> None:
    """Refuse a choice that the contract does not leave to the tenant, and a word that it does not offer.

    :raises ConfigError: names the choice and what may be chosen.
    """
    offered = {spec.choice: spec.words for spec in _texts(contract) if spec.choice is not None}
    for name, word in chosen.items():
        if word not in offered.get(name, ()):
            raise ConfigError(
                "unknown_choice",
                f"{name} cannot be {word}" if name in offered else f"the contract leaves no choice {name}",
                where=f"{where}.choices.{name}",
                fix=f"one of {', '.join(offered.get(name, offered))}" if offered else "leave `choices` out",
            )


def _texts(contract: Contract) -> Iterator[TextFrom]:
    for rule in _rules(contract):
        for alternatives in rule.fields.specs().values():
            yield from (part for spec in alternatives for part in spec.parts() if isinstance(part, TextFrom))


def _rules(contract: Contract) -> Iterator[RowRule]:
    for table in contract.tables.values():
        yield from (rule for rule in table.rows if isinstance(rule, RowRule))


def identifier_names(contract: Contract) -> set[str]:
    """Names of identifiers whose system the tenant gives."""
    return {one.name for table in contract.tables.values() for one in _identifiers(table) if one.name}


def _reads_references(table: Table) -> bool:
    return table.patient is not None and any(one.column == PATIENT_URL for one in table.patient.identifiers)


def _identifiers(table: Table) -> Iterator[IdentifierFrom]:
    if table.patient:
        yield from table.patient.identifiers
    yield from table.encounter
    for rule in table.rows:
        if isinstance(rule, RowRule):
            for alternatives in rule.fields.specs().values():
                yield from (spec for spec in alternatives if isinstance(spec, IdentifierFrom))


def map_names(contract: Contract) -> set[str]:
    """ConceptMaps that the contract names."""
    return {
        part.concept_map
        for rule in _rules(contract)
        for alternatives in rule.fields.specs().values()
        for spec in alternatives
        for part in spec.parts()
        if isinstance(part, ConceptFrom) and part.concept_map
    }
