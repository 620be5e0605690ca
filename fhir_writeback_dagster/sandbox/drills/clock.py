"""A wall clock that can be set wrong for every process of a drill at once."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Clock:
    """Off by the seconds that the file ``<home>/clock`` says; right where there is none."""

    home: Path

    def now(self) -> datetime:
        try:
            off = timedelta(seconds=float(self._file.read_text()))
        except FileNotFoundError:
            off = timedelta()
        return datetime.now(UTC) + off

    def jump(self, off: timedelta) -> None:
        """From now on it is off by ``off``."""
        fresh = self._file.with_suffix(".new")
        fresh.write_text(str(off.total_seconds()))
        fresh.replace(self._file)

    def right(self) -> None:
        self._file.unlink(missing_ok=True)

    @property
    def _file(self) -> Path:
        return self.home / "clock"
