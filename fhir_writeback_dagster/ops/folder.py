"""The project's state folder, ``<home>/.fhir-writeback``: passwords, logs, layers' environments; for its owner only."""

from __future__ import annotations

import json
import os
import re
import secrets
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fhir_writeback_dagster.errors import ServiceError

NAME = ".fhir-writeback"


def unusable(path: Path, error: OSError) -> ServiceError:
    """The one way to say that a path of ours cannot be used."""
    return ServiceError(
        "path_unusable", error.strerror or type(error).__name__, where=str(path), fix="make it a folder this user can write"
    )


def refuse_exposed(path: Path) -> None:
    """Nothing is read from, or written to, a place of secrets that others than its owner may read or change.

    :raises ServiceError: they may, or it is another user's.
    """
    found = path.stat()
    if found.st_mode & 0o077:
        mode = "700" if stat.S_ISDIR(found.st_mode) else "600"
        raise ServiceError("exposed", "others than its owner may read it", where=str(path), fix=f"chmod {mode} {path}")
    if os.geteuid() not in {0, found.st_uid}:
        raise ServiceError("exposed", "it belongs to another user", where=str(path), fix="work as that user, or remove it")


class StateFolder:
    """``<home>/.fhir-writeback`` (0700); every file in it is written whole, by rename, with mode 0600."""

    def __init__(self, home: Path) -> None:
        """:raises ServiceError: the folder cannot be made or written."""
        self.home = home.resolve()
        self.path = self.folder()

    def folder(self, *parts: str) -> Path:
        """A folder in it, made (0700) where it is missing."""
        path = self.home / NAME
        try:
            for part in ("", *parts):
                path = path / part
                path.mkdir(mode=0o700, exist_ok=True)
                refuse_exposed(path)
            if not os.access(path, os.W_OK | os.X_OK):
                raise PermissionError(13, "Permission denied")
        except OSError as error:
            raise unusable(path, error) from None
        return path

    def log(self, name: str) -> Path:
        """The log file of the service ``name``; made by who writes it."""
        words = re.sub(r"[^a-z0-9]+", "-", name.lower().removeprefix("the ").replace("'", ""))
        return self.folder("logs") / f"{words}.log"

    def write(self, name: str, text: str) -> Path:
        path = self.path / name
        fresh = path.with_name(f".{path.name}.{os.getpid()}")
        try:
            descriptor = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
            with os.fdopen(descriptor, "w", encoding="utf-8") as file:
                file.write(text)
            fresh.replace(path)
        except OSError as error:
            raise unusable(path, error) from None
        return path

    def read_json(self, name: str) -> dict[str, Any]:
        """The object in a file of ours; empty where there is none yet.

        :raises ServiceError: the file cannot be read or is no JSON object.
        """
        path = self.path / name
        try:
            refuse_exposed(path)
            value = json.loads(path.read_bytes())
        except FileNotFoundError:
            return {}
        except OSError as error:
            raise unusable(path, error) from None
        except ValueError:
            value = None
        if not isinstance(value, dict):
            raise ServiceError("bad_state", "is not what this program wrote", where=str(path), fix="restore it from backup")
        return value

    def write_json(self, name: str, value: Mapping[str, Any]) -> None:
        self.write(name, json.dumps(value, indent=2) + "\n")

    def passwords(self, *names: str) -> dict[str, str]:
        """A random password for each name, made at the first asking and kept."""
        known = self.read_json("passwords.json")
        missing = [name for name in names if name not in known]
        if missing:
            known.update({name: secrets.token_urlsafe(24) for name in missing})
            self.write_json("passwords.json", known)
        return {name: str(known[name]) for name in names}
