"""What was delivered: every complete file of a tenant's zones becomes a ``landing.extract``, once for its bytes and contract."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from psycopg import Connection

from fhir_writeback_dagster.errors import describe
from fhir_writeback_dagster.ids import new_id
from fhir_writeback_dagster.ingest.contracts.sources import Source
from fhir_writeback_dagster.ingest.landing.listing import ListedZone, list_zones
from fhir_writeback_dagster.ingest.landing.watch import STABLE_FOR, remember_listing
from fhir_writeback_dagster.ingest.landing.zones import Delivery, Zone, escaped
from fhir_writeback_dagster.ingest.readers.limits import MAX_FILE
from fhir_writeback_dagster.orchestration.run_context import RunContext
from fhir_writeback_dagster.store.db import copy_rows, record_event

#: Refusals that say nothing about the bytes, or that another version of ours may take back: the same bytes may land again.
AGAIN = ("bad_manifest", "manifest_mismatch", "no_table", "file_gone", "changed_since", "bad_file_name", "defect", "too_costly")


@dataclass(frozen=True, slots=True)
class LandReport:
    """Counts of one look into all zones; ``problems`` are lines that name files of ours, never a delivered one."""

    files: int = 0
    landed: int = 0
    known: int = 0
    unsettled: int = 0
    refused: dict[str, int] = field(default_factory=dict)
    sources: dict[str, int] = field(default_factory=dict)
    sha256: tuple[str, ...] = ()
    problems: tuple[str, ...] = ()

    def metadata(self) -> dict[str, int | float | str]:
        return {
            "files": self.files,
            "landed": self.landed,
            "already_known": self.known,
            "size_not_settled": self.unsettled,
            "refused": sum(self.refused.values()),
            "refusals": _counts(self.refused),
            "sources": _counts(self.sources, "v"),
            "extracts": ", ".join(self.sha256[:20]),
            "problems": "\n".join(self.problems),
        }


@dataclass(frozen=True, slots=True)
class ZoneListing:
    """A zone, the files in it that no earlier look has dealt with, and how many must keep their size for a while first."""

    listed: ListedZone
    new: tuple[tuple[Delivery, bytes], ...]
    unsettled: int

    @property
    def source(self) -> str:
        return self.listed.source

    @property
    def loaded(self) -> Source:
        return self.listed.loaded

    @property
    def zone(self) -> Zone:
        return self.listed.zone


def land(run: RunContext) -> LandReport:
    """Look into every zone of the tenant and land what is new; one source's trouble leaves the others alone."""
    problems: list[str] = []
    tally: Counter[str] = Counter()
    refused: Counter[str] = Counter()
    versions: dict[str, int] = {}
    digests: list[str] = []
    for look in look_around(run, problems):
        versions[look.source] = look.listed.version
        tally["files"] += len(look.listed.deliveries)
        tally["unsettled"] += look.unsettled
        found = list(_read(run, look, problems))
        with run.store.tenant(run.id) as connection:
            landed = _store(connection, run, look, found)
            if len(found) == len(look.new):  # else a file could not be read: the sensor is to ask again
                remember_listing(connection, run, look.listed, unsettled=look.unsettled > 0)
        refused.update(file.refusal for file in landed if file.refusal)
        tally["landed"] += sum(file.refusal is None for file in landed)
        tally["known"] += len(found) - len(landed)
        digests += [file.sha256.hex()[:12] for file in landed]
    return LandReport(
        tally["files"],
        tally["landed"],
        tally["known"],
        tally["unsettled"],
        dict(refused),
        versions,
        tuple(digests),
        tuple(problems),
    )


def look_around(run: RunContext, problems: list[str]) -> Iterator[ZoneListing]:
    """Each source that can be used; complaints about the others are added to ``problems``."""
    for listed in list_zones(run.settings, run.tenant, problems):
        stamps = [_stamp(run, listed, delivery) for delivery in listed.deliveries]
        new, unsettled = _unseen(run, listed.zone, list(zip(listed.deliveries, stamps, strict=True)))
        yield ZoneListing(listed, tuple(new), unsettled)


def _stamp(run: RunContext, listed: ListedZone, delivery: Delivery) -> bytes:
    # With the contract: a new version looks at every file again, and a refused one gets its second chance.
    return run.identity.digest("landing", listed.source, listed.loaded.sha256.hex(), delivery.stamp)


def _unseen(run: RunContext, zone: Zone, stamped: Sequence[tuple[Delivery, bytes]]) -> tuple[list[tuple[Delivery, bytes]], int]:
    """Files to read now, and how many must first keep their size for a while."""
    with run.store.tenant(run.id) as connection:
        rows = connection.execute(
            "SELECT stamp, extract_id, since FROM landing.seen WHERE tenant = %s AND stamp = ANY(%s)",
            (run.id, [stamp for _, stamp in stamped]),
        ).fetchall()
        seen = {bytes(stamp): (extract, since) for stamp, extract, since in rows}
        if zone.complete_by != "stable_size":
            return [(delivery, stamp) for delivery, stamp in stamped if stamp not in seen], 0
        fresh = [stamp for _, stamp in stamped if stamp not in seen]
        copy_rows(connection, "landing.seen", ("tenant", "stamp", "since"), [(run.id, stamp, run.now()) for stamp in fresh])
    settled = {stamp for stamp, (extract, since) in seen.items() if extract is None and run.now() - since >= STABLE_FOR}
    unsettled = len(fresh) + sum(extract is None for extract, _ in seen.values()) - len(settled)
    return [(delivery, stamp) for delivery, stamp in stamped if stamp in settled], unsettled


@dataclass(frozen=True, slots=True)
class _File:
    """A file that was read once; ``refusal`` is the code of what is wrong with it, None where it lands."""

    delivery: Delivery
    stamp: bytes
    sha256: bytes
    refusal: str | None


def _read(run: RunContext, look: ZoneListing, problems: list[str]) -> Iterator[_File]:
    for delivery, stamp in look.new:
        try:
            digest = look.zone.sha256(delivery)
            refusal = _refusal(look, delivery, digest)
        except OSError as error:
            place = f"tenants/{run.id}.yaml: sources.{look.source}"
            problems.append(f"{place}: a file cannot be read ({type(error).__name__}) [file_unreadable] — let this layer read it")
            continue
        except Exception as error:  # noqa: BLE001 - what nobody foresaw in one file leaves the others alone
            problems.append(f"tenants/{run.id}.yaml: sources.{look.source}: a file cannot be landed: {describe(error)}")
            continue
        yield _File(delivery, stamp, digest, refusal)


def _refusal(look: ZoneListing, delivery: Delivery, digest: bytes) -> str | None:
    """Why the file cannot land, as a code; docs/adding-a-source.md has what to do about each."""
    if escaped(delivery.name) != delivery.name:
        return "bad_file_name"
    if delivery.manifest:
        promised = look.zone.promised(delivery)
        if promised != digest:
            return "manifest_mismatch" if promised else "bad_manifest"
    if delivery.size > MAX_FILE:
        return "file_too_large"
    return None if look.loaded.contract.table_of(delivery.name) else "no_table"


def _store(connection: Connection[Any], run: RunContext, look: ZoneListing, found: Sequence[_File]) -> list[_File]:
    """Insert what is new, remember all; returns the files that were new."""
    contract = look.loaded.sha256
    known = {
        bytes(digest): (extract, again)
        for digest, extract, again in connection.execute(
            "SELECT sha256, extract_id, refusal = ANY(%s) FROM landing.extract "
            "WHERE tenant = %s AND source = %s AND contract_sha256 = %s AND sha256 = ANY(%s)",
            (list(AGAIN), run.id, look.source, contract, [file.sha256 for file in found]),
        )
    }
    fresh: dict[bytes, tuple[UUID, _File]] = {}
    again: dict[bytes, tuple[UUID, _File]] = {}
    for file in sorted(found, key=lambda file: file.refusal is not None):  # a copy under a good name is the one to read
        if file.sha256 not in known:
            fresh.setdefault(file.sha256, (new_id(), file))
        elif known[file.sha256][1]:
            again.setdefault(file.sha256, (known[file.sha256][0], file))
    new = fresh | again
    # In the order of delivery, also within one look: a later file may correct an earlier one.
    rows = {
        extract: _row(run, look, extract, file, run.now() + n * timedelta.resolution)
        for n, (extract, file) in enumerate(new.values())
    }
    inserted = [rows[extract] for extract, _ in fresh.values()]
    if inserted:
        copy_rows(connection, "landing.extract", tuple(inserted[0]), (tuple(row.values()) for row in inserted))
    if again:
        _land_again(connection, run, [rows[extract] for extract, _ in again.values()])
    extracts = {digest: extract for digest, (extract, _) in (known | new).items()}
    _remember(connection, run, [(file.stamp, extracts[file.sha256]) for file in found])
    for event, wanted in (("extract.landed", False), ("extract.refused", True)):
        told = [(extract, file) for extract, file in new.values() if (file.refusal is not None) == wanted]
        record_event(connection, event, [str(e) for e, _ in told], [_details(look, file) for _, file in told])
    return [file for _, file in new.values()]


def _row(run: RunContext, look: ZoneListing, extract: UUID, file: _File, now: datetime) -> dict[str, Any]:
    return {
        "tenant": run.id,
        "extract_id": extract,
        "source": look.source,
        "source_version": look.listed.version,
        "contract_sha256": look.loaded.sha256,
        "sha256": file.sha256,
        "bytes": file.delivery.size,
        "name_sealed": run.sealer.seal_json("landing.extract", extract, escaped(file.delivery.name)),
        "state": "refused" if file.refusal else "landed",
        "refusal": file.refusal,
        "received_at": now,
        "finished_at": now if file.refusal else None,
        "run_id": run.run_id,
    }


def _land_again(connection: Connection[Any], run: RunContext, rows: Sequence[dict[str, Any]]) -> None:
    changed = [
        [row[name] for row in rows] for name in ("extract_id", "name_sealed", "state", "refusal", "received_at", "finished_at")
    ]
    connection.execute(
        "UPDATE landing.extract x SET name_sealed = n.name, state = n.state, refusal = n.refusal, received_at = n.received, "
        "finished_at = n.finished, run_id = %s "
        "FROM unnest(%s::uuid[], %s::bytea[], %s::text[], %s::text[], %s::timestamptz[], %s::timestamptz[]) "
        "AS n (extract_id, name, state, refusal, received, finished) WHERE x.tenant = %s AND x.extract_id = n.extract_id",
        (run.run_id, *changed, run.id),
    )


def _remember(connection: Connection[Any], run: RunContext, met: Sequence[tuple[bytes, UUID]]) -> None:
    if met:
        stamps, extracts = zip(*met, strict=True)
        connection.execute(
            "INSERT INTO landing.seen (tenant, stamp, extract_id) "
            "SELECT %s, m.stamp, m.extract_id FROM unnest(%s::bytea[], %s::uuid[]) AS m (stamp, extract_id) "
            "ON CONFLICT (tenant, stamp) DO UPDATE SET extract_id = excluded.extract_id",
            (run.id, list(stamps), list(extracts)),
        )


def _details(look: ZoneListing, file: _File) -> dict[str, Any]:
    said: dict[str, Any] = {
        "source": look.source,
        "version": look.listed.version,
        "sha256": file.sha256.hex(),
        "bytes": file.delivery.size,
    }
    return said | ({"code": file.refusal} if file.refusal else {})


def _counts(counts: dict[str, int], before: str = "") -> str:
    return ", ".join(f"{name} {before}{number}" for name, number in sorted(counts.items()))
