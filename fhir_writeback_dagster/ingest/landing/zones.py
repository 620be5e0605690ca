"""Landing zones: the files of one tenant's source, in a folder or a bucket, and which of them are complete.

A zone is read and never changed: what was met is remembered in ``landing.seen``, so the owner of the zone may clean it up when
he likes. Only ``ingest`` opens one.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from functools import lru_cache
from pathlib import Path, PurePosixPath
from typing import Any

from upath import UPath

from fhir_writeback_dagster.config.tenants import SourceUse, load_tenant, tenant_ids
from fhir_writeback_dagster.errors import ConfigError

MANIFEST = ".manifest.json"
_UNFINISHED = (".part", ".partial", ".tmp", ".crdownload", ".filepart")
_TIMES = ("mtime", "LastModified", "last_modified", "updated", "created")
_CHANGED = ("etag", "ETag", "md5", *_TIMES)


@dataclass(frozen=True, slots=True)
class Delivery:
    """A file as the zone lists it; ``stamp`` is equal as long as the file (and its manifest) is the same.

    ``changed`` (seconds) is when the zone says that it was written, 0 where it does not say.
    """

    name: str
    size: int
    changed: float
    stamp: str
    manifest: str | None


class Zone:
    """One source's landing zone.

    :raises ConfigError: a path with ``..``, or a relative one that leads out of the home folder.
    """

    def __init__(self, home: Path, use: SourceUse) -> None:
        if ".." in PurePosixPath(use.landing.replace("\\", "/")).parts:
            raise ConfigError("landing_escapes", "`landing` has a `..`", fix="name the folder without it")
        if "://" in use.landing:
            self.root = UPath(use.landing)
        else:
            folder = (home / use.landing).resolve()
            if not Path(use.landing).is_absolute() and not folder.is_relative_to(home.resolve()):
                raise ConfigError("landing_escapes", "`landing` leads out of the home folder", fix="name one below it")
            self.root = UPath(folder)
        self.complete_by = use.complete_by

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
                said = [_stamp(info), _stamp(files[manifest]) if manifest else ""]
                found.append(Delivery(name, int(info.get("size") or 0), _seconds(info), "|".join(said), manifest))
        return sorted(found, key=lambda delivery: (delivery.changed, delivery.name))

    def sha256(self, delivery: Delivery) -> bytes:
        """Of the file's bytes, read in pieces.

        :raises OSError: it cannot be read.
        """
        digest = hashlib.sha256()
        with (self.root / delivery.name).open("rb") as file:
            while piece := file.read(1 << 20):
                digest.update(piece)
        return digest.digest()

    def promised(self, delivery: Delivery) -> bytes | None:
        """The SHA-256 that the manifest (``{"sha256": "<hex>"}``, written last of all) promises; None: it says none.

        :raises OSError: it cannot be read.
        """
        try:
            said = json.loads((self.root / str(delivery.manifest)).read_bytes())
            return bytes.fromhex(said["sha256"])
        except (ValueError, KeyError, TypeError):
            return None

    def read(self, name: str) -> bytes:
        """:raises OSError: it is not there any more, or cannot be read."""
        if PurePosixPath(name).name != name:
            raise FileNotFoundError
        return (self.root / name).read_bytes()

    @property
    def place(self) -> str:
        """The same for the same zone, however it is written."""
        return str(self.root).rstrip("/")

    def neighbours(self) -> list[Path]:
        """Folders beside a local zone: what somebody delivers there is in no zone."""
        folder = Path(self.root.path) if self.root.protocol in {"", "file"} else None
        return sorted(p for p in folder.parent.iterdir() if p.is_dir()) if folder and folder.parent.is_dir() else []

    def _list(self) -> Iterator[tuple[str, dict[str, Any]]]:
        try:
            self.root.fs.invalidate_cache(self.root.path)
            infos = self.root.fs.ls(self.root.path, detail=True)
        except (OSError, ImportError, ValueError) as error:
            raise ConfigError(
                "zone_unreadable",
                f"the landing zone cannot be listed ({type(error).__name__})",
                fix="create the folder or bucket, let this layer read it, and install its fsspec driver",
            ) from None
        for info in infos:
            if info.get("type") == "file":
                yield PurePosixPath(info["name"]).name, info


def owners(home: Path, tenants: Path) -> dict[str, set[str]]:
    """Place of every zone → the tenants whose files name it; a file that cannot be used names none."""
    found: dict[str, set[str]] = {}
    for tenant in tenant_ids(tenants):
        path = tenants / f"{tenant}.yaml"
        with suppress(OSError):
            for place in _places(home, path, path.stat().st_mtime_ns):
                found.setdefault(place, set()).add(tenant)
    return found


@lru_cache(maxsize=4096)
def _places(home: Path, path: Path, _changed: int) -> tuple[str, ...]:
    """Kept for as long as the file does not change: every tenant's look asks for the zones of all."""
    places = []
    with suppress(ConfigError):
        for use in load_tenant(path.parent, path.stem).sources.values():
            with suppress(ConfigError):
                places.append(Zone(home, use).place)
    return tuple(places)


def _seconds(info: dict[str, Any]) -> float:
    changed = next((info[key] for key in _TIMES if info.get(key) is not None), 0)
    return changed.timestamp() if isinstance(changed, datetime) else float(changed) if isinstance(changed, int | float) else 0.0


def _stamp(info: dict[str, Any]) -> str:
    changed = next((info[key] for key in _CHANGED if info.get(key) is not None), "")
    return f"{info['name']}|{info.get('size')}|{changed}|{info.get('ino', '')}"
