"""What lies in the landing zones of a tenant: found without a key, a database or the content of any file."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from fhir_writeback_dagster.config.settings import Settings
from fhir_writeback_dagster.config.tenants import Tenant
from fhir_writeback_dagster.errors import ConfigError, describe
from fhir_writeback_dagster.ingest.contracts.sources import Source, source_of
from fhir_writeback_dagster.ingest.landing.zones import Delivery, Zone, check_own, owners


@dataclass(frozen=True, slots=True)
class ListedZone:
    """A source that can be used, and the files that its zone holds."""

    source: str
    version: int
    loaded: Source
    zone: Zone
    deliveries: tuple[Delivery, ...]

    def digest(self) -> bytes:
        """Equal as long as contract and files are the same; made of sizes and times, because a name can be a patient's."""
        marks = "\n".join(sorted(delivery.mark for delivery in self.deliveries))
        return hashlib.sha256(self.loaded.sha256 + marks.encode()).digest()


def list_zones(
    settings: Settings, tenant: Tenant, problems: list[str], everybodys: Mapping[str, set[str]] | None = None
) -> Iterator[ListedZone]:
    """Each source that can be used; complaints about the others are added to ``problems``.

    :param everybodys: the zones of all tenants, where the caller has just looked for them (:func:`~.zones.owners`).
    """
    everybodys = owners(settings.home, settings.tenants) if everybodys is None else everybodys
    zones: list[Zone] = []
    for source, use in tenant.sources.items():
        place = f"tenants/{tenant.tenant}.yaml: sources.{source}"
        try:
            zone = Zone(settings.home, use)
            check_own(zone.place, tenant.tenant, everybodys)
            zones.append(zone)
            loaded = source_of(settings.mappings, tenant, source)
            deliveries = tuple(d for d in zone.deliveries() if not loaded.contract.ignores(d.name))
        except ConfigError as error:
            problems.append(str(ConfigError(error.code, error.message, where=error.where or place, fix=error.fix)))
            continue
        except Exception as error:  # noqa: BLE001 - what nobody foresaw in one source leaves the others alone
            problems.append(f"{place}: {describe(error)}")
            continue
        problems += _strange_entries(place, zone)
        yield ListedZone(source, use.version, loaded, zone, deliveries)
    problems += _strangers(tenant.tenant, zones)


def _strange_entries(place: str, zone: Zone) -> Iterator[str]:
    if zone.strange:
        yield str(
            ConfigError(
                "not_a_file",
                f"{zone.strange} entries of the zone are links, pipes or devices; they are not read",
                where=place,
                fix="deliver the files themselves",
            )
        )


def _strangers(tenant: str, zones: Sequence[Zone]) -> Iterator[str]:
    """A folder of no source beside the zones, where all of these lie in a folder named for the tenant."""
    known = {zone.place.folder for zone in zones if zone.place.folder}
    for parent in sorted({folder.parent for folder in known if folder.parent.name == tenant}):
        strange = [p for zone in zones for p in zone.neighbours() if p.parent == parent and p not in known]
        if strange:
            yield str(
                ConfigError(
                    "unknown_source",
                    f"{len(set(strange))} folders here belong to no source of this tenant; what lies there is not read",
                    where=str(parent),
                    fix=f"add the source to tenants/{tenant}.yaml, or move the folder away",
                )
            )
