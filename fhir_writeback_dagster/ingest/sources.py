"""A source as a tenant uses it: a version of its contract with the ConceptMaps that it names."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

from fhir_writeback_dagster.errors import ConfigError
from fhir_writeback_dagster.ingest.concepts import ConceptMap, load_concept_map
from fhir_writeback_dagster.ingest.contract import Contract, Rule
from fhir_writeback_dagster.ingest.fields import ConceptFrom
from fhir_writeback_dagster.tenants import TENANT_ID
from fhir_writeback_dagster.yamlfile import file_sha256, load_yaml


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
        raise ConfigError("unknown_source", "there is no contract for this source", where=str(folder), mend=f"known: {known}")
    if not path.is_file():
        versions = ", ".join(sorted(p.stem for p in path.parent.glob("*.yaml"))) or "none"
        raise ConfigError("unknown_source_version", "no such version", where=str(path), mend=f"there are: {versions}")
    contract = load_yaml(path, Contract)
    if (contract.source, contract.version) != (source, version):
        raise ConfigError(
            "source_mismatch", "`source` and `version` differ from the file's place", where=f"{path}:1", mend="make them equal"
        )
    maps = {name: load_concept_map(mappings / "concepts", name) for name in sorted(_maps(contract))}
    digest = hashlib.sha256(file_sha256(path).encode())
    for name in maps:
        digest.update(f"|{name}|{file_sha256(mappings / 'concepts' / f'{name}.json')}".encode())
    return Source(contract, maps, digest.digest())


def _maps(contract: Contract) -> set[str]:
    return {
        part.concept_map
        for table in contract.tables.values()
        for rule in table.rows
        if isinstance(rule, Rule)
        for alternatives in rule.fields.specs().values()
        for spec in alternatives
        for part in spec.parts()
        if isinstance(part, ConceptFrom) and part.concept_map
    }
