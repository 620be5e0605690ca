"""Landing zones: the files of one tenant's source, in a folder or a bucket, and which of them are complete.

A zone is read and never changed: what was met is remembered in ``landing.seen``, so the owner of the zone may clean it up when
he likes. Only ``ingest`` opens one.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path, PurePosixPath
from typing import Any

from upath import UPath

from fhir_writeback_dagster.config.tenants import SourceUse, load_tenant, tenant_ids
from fhir_writeback_dagster.errors import ConfigError
from fhir_writeback_dagster.ingest.landing.folder import list_files, read_file
from fhir_writeback_dagster.ingest.landing.places import Place, place_of
from fhir_writeback_dagster.ingest.readers.limits import MAX_FILE

MANIFEST = ".manifest.json"
_MAX_MANIFEST = 64 * 1024
_UNFINISHED = (".part", ".partial", ".tmp", ".crdownload", ".filepart")
_TIMES = ("mtime", "LastModified", "last_modified", "updated", "created")
_CHANGED = ("etag", "ETag", "md5", *_TIMES)


@dataclass(frozen=True, slots=True)
class Delivery:
    """A file as the zone lists it; ``stamp`` is equal as long as the file (and its manifest) is the same.

    ``changed`` (seconds) is when the zone says that it was written, 0 where it does not say. ``mark`` is equal as long as the
    file is the same too, and holds no name.
    """

    name: str
    size: int
    changed: float
    stamp: str
    manifest: str | None
    mark: str


class Zone:
    """One source's landing zone.

    :raises ConfigError: see :func:`~fhir_writeback_dagster.ingest.landing.places.place_of`.
    """

    def __init__(self, home: Path, use: SourceUse) -> None:
        self.place = place_of(home, use.landing)
        self.complete_by = use.complete_by
        self.strange = 0
        """How many entries the last listing found that are links or no plain files; they are never opened."""

    def deliveries(self) -> list[Delivery]:
        """Files that may be complete, the oldest first: hidden and unfinished names are left out, and, where manifests say
        so, files without one.

        :raises ConfigError: the zone cannot be listed.
        """
        files = {name: info for name, info in self._list() if not name.startswith(".") and not name.endswith(_UNFINISHED)}
        found = []
        for name, info in files.items():
            if name.endswith(MANIFEST):
                continue
            manifest = name + MANIFEST if self.complete_by == "manifest" else None
            if manifest is None or manifest in files:
                infos = [info, files[manifest]] if manifest else [info]
                stamp = "|".join(map(_stamp, infos)) + ("" if manifest else "|")
                mark = "|".join(map(_mark, infos))
                found.append(Delivery(name, int(info.get("size") or 0), _seconds(info), stamp, manifest, mark))
        return sorted(found, key=lambda delivery: (delivery.changed, delivery.name))

    def sha256(self, delivery: Delivery) -> bytes:
        """Of the file's bytes, of the first of them only where there are more than any extract may have.

        :raises OSError: it cannot be read.
        """
        return hashlib.sha256(self._bytes(delivery.name, MAX_FILE + 1)).digest()

    def promised(self, delivery: Delivery) -> bytes | None:
        """The SHA-256 that the manifest (``{"sha256": "<hex>"}``, written last of all) promises; None: it says none.

        :raises OSError: it cannot be read.
        """
        try:
            said = json.loads(self._bytes(str(delivery.manifest), _MAX_MANIFEST))
            return bytes.fromhex(said["sha256"])
        except (ValueError, KeyError, TypeError, RecursionError):
            return None

    def read(self, name: str) -> bytes:
        """:raises OSError: it is not there any more, or cannot be read."""
        return self._bytes(name, MAX_FILE + 1)

    def neighbours(self) -> list[Path]:
        """Folders beside a local zone: what somebody delivers there is in no zone."""
        folder = self.place.folder
        return sorted(p for p in folder.parent.iterdir() if p.is_dir()) if folder and folder.parent.is_dir() else []

    def _bytes(self, name: str, most: int) -> bytes:
        if PurePosixPath(name).name != name:
            raise FileNotFoundError
        if self.place.folder is not None:
            return read_file(self.place.folder, name, most)
        with (UPath(self.place.url) / name).open("rb") as file:
            return file.read(most)

    def _list(self) -> Iterator[tuple[str, dict[str, Any]]]:
        self.strange = 0
        try:
            for name, info in self._entries():
                if info is None:
                    self.strange += 1
                else:
                    yield name, info
        except (OSError, ImportError, ValueError) as error:
            raise ConfigError(
                "zone_unreadable",
                f"the landing zone cannot be listed ({type(error).__name__})",
                fix="create the folder or bucket, let this layer read it, and install its fsspec driver",
            ) from None

    def _entries(self) -> Iterator[tuple[str, dict[str, Any] | None]]:
        if self.place.folder is not None:
            yield from list_files(self.place.folder)
            return
        root = UPath(self.place.url)
        root.fs.invalidate_cache(root.path)
        for info in root.fs.ls(root.path, detail=True):
            if info.get("type") == "file":
                yield PurePosixPath(info["name"]).name, info


def owners(home: Path, tenants: Path) -> dict[str, set[str]]:
    """Name of every zone → the tenants whose files name it; a file that cannot be used names none."""
    found: dict[str, set[str]] = {}
    for tenant in tenant_ids(tenants):
        with suppress(ConfigError):
            for use in load_tenant(tenants, tenant).sources.values():
                with suppress(ConfigError):
                    for name in place_of(home, use.landing).names:
                        found.setdefault(name, set()).add(tenant)
    return found


def check_own(place: Place, tenant: str, everybodys: Mapping[str, set[str]]) -> None:
    """:raises ConfigError: it is another tenant's as well; ``everybodys`` is of :func:`owners`."""
    if others := set().union(*(everybodys.get(name, set()) for name in place.names)) - {tenant}:
        raise ConfigError(
            "shared_zone",
            f"it is the landing zone of {', '.join(sorted(others))} too: whose patients its rows tell of cannot be known",
            fix="give each tenant a zone of its own",
        )


def _seconds(info: dict[str, Any]) -> float:
    changed = next((info[key] for key in _TIMES if info.get(key) is not None), 0)
    return changed.timestamp() if isinstance(changed, datetime) else float(changed) if isinstance(changed, int | float) else 0.0


def _stamp(info: dict[str, Any]) -> str:
    changed = next((info[key] for key in _CHANGED if info.get(key) is not None), "")
    return f"{escaped(info['name'])}|{info.get('size')}|{changed}|{info.get('ino', '')}"


def _mark(info: dict[str, Any]) -> str:
    """With the time at which the entry changed (``ctime``), where the zone has it: a renamed file is another one."""
    return "|".join(str(info.get(key, "")) for key in ("size", *_CHANGED, "ctime", "ino"))


def escaped(name: str) -> str:
    """A file's name with the bytes that are no UTF-8 written out, so that it can be hashed and sealed; any other as it is."""
    return name.encode("utf-8", "backslashreplace").decode()
