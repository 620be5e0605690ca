"""A local landing zone, opened once and without following a link: who may write into a zone may not choose what is read.

A zone's path has no links when it is compared with those of other tenants (:mod:`.places`); a link that is put into it
afterwards, or instead of a file, is not followed.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

_FOLDER = os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_THROUGH = getattr(os, "O_PATH", os.O_RDONLY) | _FOLDER
#: A named pipe must not wait for a writer.
_FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC


@contextmanager
def opened(folder: Path) -> Iterator[int]:
    """A descriptor of the folder, with no link anywhere on the way.

    :raises OSError: it cannot be opened, or a part of its path is a link.
    """
    *above, last = folder.parts[1:] or (".",)
    descriptor = os.open(folder.anchor, _THROUGH)
    try:
        for part, how in (*((one, _THROUGH) for one in above), (last, os.O_RDONLY | _FOLDER)):
            inner = os.open(part, how, dir_fd=descriptor)
            os.close(descriptor)
            descriptor = inner
        yield descriptor
    finally:
        os.close(descriptor)


def list_files(folder: Path) -> Iterator[tuple[str, dict[str, Any] | None]]:
    """Every entry that is no folder: its name, and what is known of it; None where it is a link, a pipe or a device.

    :raises OSError: the folder cannot be read.
    """
    with opened(folder) as descriptor, os.scandir(descriptor) as entries:
        for entry in entries:
            try:
                found = entry.stat(follow_symlinks=False)
            except FileNotFoundError:  # it went away meanwhile
                continue
            if stat.S_ISREG(found.st_mode):
                yield (
                    entry.name,
                    {
                        "name": str(folder / entry.name),
                        "size": found.st_size,
                        "mtime": found.st_mtime,
                        "ctime": found.st_ctime_ns,
                        "ino": found.st_ino,
                    },
                )
            elif not stat.S_ISDIR(found.st_mode):
                yield entry.name, None


def read_file(folder: Path, name: str, most: int) -> bytes:
    """The first ``most`` bytes of a file of the folder.

    :raises OSError: it is not there, a link, no plain file, or cannot be read.
    """
    with opened(folder) as descriptor:
        file = os.open(name, _FILE, dir_fd=descriptor)
    with os.fdopen(file, "rb") as stream:
        if not stat.S_ISREG(os.fstat(file).st_mode):
            raise FileNotFoundError
        return stream.read(most)
