"""One runner at a time: a lock file that goes with its process, and that tells other commands how to reach what it runs."""

from __future__ import annotations

import fcntl
import json
import os
from pathlib import Path
from typing import Any

from fhir_writeback_dagster.errors import ServiceError
from fhir_writeback_dagster.ops.folder import unusable


class Lock:
    """Held from construction to `release` or the end of the process, whatever ends it (flock)."""

    def __init__(self, path: Path, what: str) -> None:
        """:raises ServiceError: another process holds it; the text says ``what`` and which process."""
        try:
            self._descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise unusable(path, error) from None
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(self._descriptor)
            holder = _read(path).get("pid", "unknown")
            raise ServiceError(
                "already_running",
                f"process {holder} already runs {what}",
                where=str(path),
                fix="use that one, or stop it (Ctrl-C in its terminal)",
            ) from None
        self.publish()

    def publish(self, **values: object) -> None:
        """What `read` gives to others: the process id and ``values``."""
        text = json.dumps({"pid": os.getpid(), **values}).encode()
        os.ftruncate(self._descriptor, 0)
        os.pwrite(self._descriptor, text, 0)

    def release(self) -> None:
        os.close(self._descriptor)


def read(path: Path) -> dict[str, Any] | None:
    """What the living holder of the lock published; None where nobody holds it."""
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return _read(path)
    finally:
        os.close(descriptor)
    return None


def _read(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return {}  # it is being written
    return value if isinstance(value, dict) else {}
