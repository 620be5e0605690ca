"""Where code locations listen: Unix sockets, each in a folder (0700) that only its own user may enter.

Dagster's gRPC has no authentication: whoever connects has what the process has. On a TCP port of loopback that is every user of
the machine.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import socket
import stat
import tempfile
from pathlib import Path

from fhir_writeback_dagster.config.settings import Layer
from fhir_writeback_dagster.errors import ServiceError
from fhir_writeback_dagster.ops.folder import NAME, unusable

_FILE = "grpc.sock"
_LONGEST = 100
"""Bytes of a socket's path: `sockaddr_un` has 108 of them on Linux and 104 on macOS, with a NUL at the end."""
_OF_ROOT = Path("/run/fhir-writeback")


def socket_of(home: Path, layer: Layer) -> Path:
    """The socket of a layer's code location; the same for every command of the project at ``home``."""
    return _base(home.resolve()) / layer / _FILE


def claim_socket(home: Path, layer: Layer) -> Path:
    """Make the socket's folder, and the way to it; what a dead process left there is removed.

    :raises ServiceError: something answers there, or the folder is not this user's alone.
    """
    path = socket_of(home, layer)
    base = path.parent.parent
    try:
        base.parent.mkdir(mode=0o755 if base.parent == _OF_ROOT else 0o700, exist_ok=True)
        for folder in (base, path.parent):
            folder.mkdir(mode=0o700, exist_ok=True)
            _only_ours(folder)
        if answers(path):
            raise ServiceError(
                "socket_taken", f"another process is the {layer} location", where=str(path), fix="stop it, and start again"
            )
        path.unlink(missing_ok=True)
    except OSError as error:
        raise unusable(path, error) from None
    return path


def forget_sockets(home: Path) -> None:
    """Remove the folder of the sockets: nothing listens there any more."""
    shutil.rmtree(_base(home.resolve()), ignore_errors=True)


def answers(path: Path) -> bool:
    """Whether something accepts connections on the socket."""
    with socket.socket(socket.AF_UNIX) as probe:
        probe.settimeout(1)
        try:
            probe.connect(str(path))
        except OSError:
            return False
        return True


def _base(home: Path) -> Path:
    """In the project's state folder, where the path is short enough; for root, who may run layers as other users, in /run."""
    inside = home / NAME / "run"
    short = hashlib.sha256(str(home).encode()).hexdigest()[:16]
    if os.geteuid() == 0:
        return _OF_ROOT / short
    if len(os.fsencode(inside / "commit" / _FILE)) <= _LONGEST:
        return inside
    return Path(tempfile.gettempdir()) / f"fhir-writeback-{os.geteuid()}" / short


def _only_ours(folder: Path) -> None:
    """A folder below /tmp may be somebody else's, who made it before us to listen in our place."""
    found = folder.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.geteuid() or stat.S_IMODE(found.st_mode) & 0o077:
        raise ServiceError(
            "folder_exposed", "it is not a folder of this user alone", where=str(folder), fix="remove it, and start again"
        )
