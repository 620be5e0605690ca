"""Whom this process runs as: a container may have a number without a name, and no home folder."""

from __future__ import annotations

import getpass
import os
import tempfile
from pathlib import Path


def current_user() -> str:
    """Who types a command, for the audit log: the name of the user, else ``uid 54321``."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # no variable says it, and the number has no entry (KeyError before Python 3.13)
        return f"uid {os.getuid()}"


def cache_folder() -> Path:
    """Where what can be fetched again is kept for this user: ``XDG_CACHE_HOME``, ``~/.cache``, else below the temporary files."""
    if told := os.environ.get("XDG_CACHE_HOME"):
        return Path(told) / "fhir-writeback"
    try:
        home = Path.home()
    except RuntimeError:
        home = Path("/nonexistent")
    if home.is_dir() and os.access(home, os.W_OK):
        return home / ".cache" / "fhir-writeback"
    return Path(tempfile.gettempdir()) / f"fhir-writeback-cache-{os.getuid()}"
