"""Local codes by FHIR ConceptMap (R4), ``mappings/concepts/<name>.json``: only what is equal or equivalent counts."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from fhir_writeback_dagster.canonical import Coding
from fhir_writeback_dagster.errors import ConfigError

_SAFE = {"equal", "equivalent"}


class _Part(BaseModel):
    model_config = ConfigDict(extra="ignore", frozen=True)


class _Target(_Part):
    code: str | None = None
    display: str | None = None
    equivalence: Literal[
        "relatedto", "equivalent", "equal", "wider", "subsumes", "narrower", "specializes", "inexact", "unmatched", "disjoint"
    ]


class _Element(_Part):
    code: str = Field(pattern=r"^\S+( \S+)*$")
    display: str | None = None
    target: tuple[_Target, ...] = ()


class _Group(_Part):
    source: str
    target: str
    element: Annotated[tuple[_Element, ...], Field(min_length=1)]


class _Resource(_Part):
    resourceType: Literal["ConceptMap"]  # noqa: N815 - FHIR's name
    status: Literal["active"]  # a draft or retired map is nothing to write charts with
    group: Annotated[tuple[_Group, ...], Field(min_length=1)]


@dataclass(frozen=True, slots=True)
class ConceptMap:
    """Local code → its codings: the standard ones in the map's order, then the source's own."""

    name: str
    codings: dict[str, tuple[Coding, ...]]


def load_concept_map(folder: Path, name: str) -> ConceptMap:
    """Read ``<folder>/<name>.json``.

    :raises ConfigError: no such file, not JSON, not an active ConceptMap, or a code with two targets in one system.
    """
    path = folder / f"{name}.json"
    try:
        resource = _Resource.model_validate(json.loads(path.read_text(encoding="utf-8")))
    except FileNotFoundError:
        known = ", ".join(sorted(p.stem for p in folder.glob("*.json"))) or "none"
        raise ConfigError("unknown_concept_map", "there is no such ConceptMap", where=str(path), fix=f"known: {known}") from None
    except json.JSONDecodeError as error:
        raise ConfigError("bad_json", error.msg, where=f"{path}:{error.lineno}", fix="fix the JSON") from None
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False, include_input=False)[0]
        raise ConfigError(
            "bad_concept_map", f"{'.'.join(map(str, first['loc']))}: {first['msg']}", where=str(path), fix="fix the map"
        ) from None
    return ConceptMap(name, _codings(resource, path))


def _codings(resource: _Resource, path: Path) -> dict[str, tuple[Coding, ...]]:
    standard: dict[str, list[Coding]] = {}
    own: dict[str, Coding] = {}
    for group in resource.group:
        for element in group.element:
            safe = [t for t in element.target if t.code and t.equivalence in _SAFE]
            if len(safe) > 1:
                raise ConfigError(
                    "ambiguous_concept_map",
                    f"the code {element.code} has {len(safe)} equivalent targets in one system",
                    where=str(path),
                    fix="keep one",
                )
            if safe:
                coding = Coding(system=group.target, code=safe[0].code or "", display=safe[0].display)
                standard.setdefault(element.code, []).append(coding)
                own.setdefault(element.code, Coding(system=group.source, code=element.code, display=element.display))
    return {code: (*codings, own[code]) for code, codings in standard.items()}
