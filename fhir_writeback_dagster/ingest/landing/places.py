"""What `landing` of a tenant's source names, whatever way it is written: one place has one name.

Two tenants that share a place would share patients, so a place is compared by what it is: a folder by its path without links and
by its inode, a bucket by its service and path. A chain of file systems (``simplecache::s3://…``) could name any place in ever new
ways and is refused, as is a file system that is none of the stores that deliveries come by.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from fhir_writeback_dagster.errors import ConfigError

#: Schemes of object stores and servers, each with the one that stands for all of its spellings.
_STORES = {
    "s3": "s3",
    "s3a": "s3",
    "gs": "gs",
    "gcs": "gs",
    "az": "az",
    "abfs": "az",
    "abfss": "az",
    "sftp": "sftp",
    "ssh": "sftp",
    "smb": "smb",
    "memory": "memory",
}
_LOCAL = {"file", "local"}
_URL = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://(.*)", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Place:
    """``folder`` is a path without links where the zone is local, ``url`` what fsspec opens where it is not."""

    folder: Path | None
    url: str
    name: str

    @property
    def names(self) -> tuple[str, ...]:
        """Equal names are the same zone; a folder that is there also has its device and inode, for mounts and letter case."""
        if self.folder is not None:
            try:
                found = self.folder.stat()
            except OSError:
                return (self.name,)
            return (self.name, f"inode {found.st_dev}:{found.st_ino}")
        return (self.name,)


def place_of(home: Path, landing: str) -> Place:
    """Read ``landing`` of a tenant's source; a relative path is below the home folder.

    :raises ConfigError: a chain, an unknown scheme, a path with ``..``, or a relative one that leads out of the home folder.
    """
    if "::" in landing:
        raise ConfigError("landing_chained", "`landing` is a chain of file systems", fix="name the folder or bucket itself")
    if "\0" in landing or ".." in PurePosixPath(landing.replace("\\", "/")).parts:
        raise ConfigError("landing_escapes", "`landing` has a `..`", fix="name the folder without it")
    url = _URL.fullmatch(landing)
    if url is None:
        folder = (home / landing).resolve()
        if not Path(landing).is_absolute() and not folder.is_relative_to(home.resolve()):
            raise ConfigError("landing_escapes", "`landing` leads out of the home folder", fix="name one below it")
        return Place(folder, str(folder), str(folder))
    scheme, rest = url[1].lower(), url[2]
    if scheme in _LOCAL:
        if not rest.startswith("/"):
            raise ConfigError("landing_relative", "a URL of a folder is absolute", fix="write file:///path, or the path alone")
        folder = Path(rest).resolve()
        return Place(folder, str(folder), str(folder))
    if scheme not in _STORES or any(mark in rest for mark in "?#"):
        raise ConfigError(
            "landing_scheme",
            "`landing` is no URL of a store that deliveries come by",
            fix=f"a folder, or one of {', '.join(f'{known}://' for known in _STORES)} without a query",
        )
    return Place(None, f"{scheme}://{rest}", f"{_STORES[scheme]}://{_bucket(_STORES[scheme], rest)}")


def _bucket(store: str, rest: str) -> str:
    """Host or bucket and path with one spelling; who logs in, and a port, make no other place of it."""
    host, *path = [part for part in rest.split("/") if part not in {"", "."}] or [""]
    before, _, after = host.rpartition("@")
    host = before or after if store == "az" else after  # az: container@account.dfs.core.windows.net/path, or container/path
    if store in {"sftp", "smb"}:
        host = host.rpartition(":")[0] or host
    return "/".join((host.lower(), *path))
