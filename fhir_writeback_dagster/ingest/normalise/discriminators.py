"""Rows of one identity that a discriminator tells apart: which row states which of the facts that an earlier extract stated?

Within one extract their order numbers them (:mod:`.records`). A later extract may hold only some of them, or more, so the numbers
are remembered with what each said: a row keeps the number of the one that it agrees with, where a column that one of the two
does not fill (an order without an end yet) agrees with anything. Whether a row is an old one changed or a new one is not guessed.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any
from uuid import UUID

from psycopg import Connection

from fhir_writeback_dagster.ingest.normalise.records import Record
from fhir_writeback_dagster.orchestration.run_context import RunContext
from fhir_writeback_dagster.store.advisory_locks import lock_transaction, number_of
from fhir_writeback_dagster.store.db import copy_rows

Parts = tuple[bytes | None, ...]

AMBIGUOUS = "ambiguous_discriminator"


@dataclass(frozen=True, slots=True)
class Numbered:
    """``numbers``: what tells which of the family is; None: it cannot be told. ``learnt``: what to remember from now on."""

    numbers: Mapping[Parts, int | None]
    learnt: Mapping[int, Parts]


def number(known: Mapping[int, Parts], told: Sequence[Parts]) -> Numbered:
    """Number the members of one family, ``told`` in their order in the extract; ``known`` is what earlier extracts left."""
    numbers: dict[Parts, int | None] = {}
    learnt: dict[int, Parts] = {}
    for parts in told:
        exact = next((n for n, said in known.items() if said == parts), None)
        if exact is not None:
            numbers[parts] = exact
    free = {n: said for n, said in known.items() if n not in numbers.values()}
    left = [parts for parts in told if parts not in numbers]
    fits = {parts: [n for n, said in free.items() if _agree(said, parts)] for parts in left}
    for parts, possible in fits.items():
        if len(possible) == 1 and sum(possible[0] in others for others in fits.values()) == 1:
            (mine,) = possible
            numbers[parts] = mine
            learnt[mine] = tuple(new if old is None else old for old, new in zip(free.pop(mine), parts, strict=True))
    fresh = max(known, default=0)
    for parts in (one for one in left if one not in numbers):
        if free:
            numbers[parts] = None
        else:
            fresh += 1
            numbers[parts], learnt[fresh] = fresh, parts
    return Numbered(numbers, learnt)


def settle(
    connection: Connection[Any], run: RunContext, source: str, records: Mapping[UUID, Record]
) -> tuple[dict[UUID, Record], dict[UUID, str]]:
    """``records`` with the numbers that stand for good, and those of them that cannot be told apart, with the reason."""
    parts = {record_id: _parts(run, record) for record_id, record in records.items() if record.family}
    families: dict[bytes, list[UUID]] = defaultdict(list)
    for record_id in parts:
        record = records[record_id]
        families[_digest(run, "family", source, record.record.kind, *record.family)].append(record_id)
    if not families:
        return dict(records), {}
    lock_transaction(connection, number_of("discriminators", run.id, source))
    known: dict[bytes, dict[int, Parts]] = defaultdict(dict)
    for family, n, said in connection.execute(
        "SELECT family, number, parts FROM canonical.sibling WHERE tenant = %s AND source = %s AND family = ANY (%s)",
        (run.id, source, list(families)),
    ):
        known[bytes(family)][n] = tuple(None if part is None else bytes(part) for part in said)
    settled, failed, rows = dict(records), dict[UUID, str](), []
    for family, members in families.items():
        numbered = number(known[family], list(dict.fromkeys(parts[member] for member in members)))
        rows += [(run.id, source, family, n, list(said)) for n, said in numbered.learnt.items()]
        for member in members:
            n = numbered.numbers[parts[member]]
            if n is None:
                failed[member] = AMBIGUOUS
            else:
                settled[member] = _marked(records[member], n)
    key = ["tenant", "source", "family", "number"]
    copy_rows(connection, "canonical.sibling", [*key, "parts"], rows, replace_by=key)
    return settled, failed


def _digest(run: RunContext, *parts: str) -> bytes:
    """Under the oldest generation of the identity key, which is never dropped: what is remembered is compared for good."""
    return run.identity.all(*parts)[-1]


def _agree(one: Parts, other: Parts) -> bool:
    return all(a is None or b is None or a == b for a, b in zip(one, other, strict=True))


def _parts(run: RunContext, record: Record) -> Parts:
    return tuple(None if text is None else _digest(run, "discriminator", text) for text in record.discriminator_values)


def _marked(record: Record, n: int) -> Record:
    mark = str(n) if n > 1 else None
    if record.record.discriminator == mark:
        return record
    identity = (*record.family, *([mark] if mark else ()))
    return replace(record, record=record.record.model_copy(update={"discriminator": mark}), identity=identity)
