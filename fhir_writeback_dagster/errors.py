"""Every error the product raises on purpose, in one tree.

::

    WritebackError             code, where and fix; its text never holds a value of a patient
    ├── ConfigError            a file or setting of ours is wrong          fix it, then go on
    │   └── SecretError        a secret reference does not resolve         fix the reference
    ├── ExtractRefused         a whole extract cannot be read              it stays where it was
    ├── CandidateProblem       one record cannot become a candidate        quarantine of that record
    ├── LaneHeld               another run holds the (lane, tenant)        end clean, say who
    ├── ServiceError           a process, port, path or database of ours   fix it, start again
    └── TargetError            the EHR or its token endpoint               see `commit.taxonomy`

The text of an error reaches event logs, terminals and tickets, so it is built from codes, names of columns, positions and
file names of *ours* — never from a value of an extract, a payload or an answer. Raise it ``from None`` where the cause
could hold one.
"""

from __future__ import annotations

import errno
from types import TracebackType

__all__ = [
    "CandidateProblem",
    "ConfigError",
    "ExtractRefused",
    "LaneHeld",
    "SecretError",
    "ServiceError",
    "TargetError",
    "WritebackError",
    "describe",
    "place_of",
]


class WritebackError(Exception):
    """What went wrong (``code``, a snake_case word), where, and the fix, as one line that is safe to log.

    ``where`` is a place of ours: ``tenants/mercy.yaml:12``, ``extract 3f9a… line 7``, ``port 5432``.
    """

    def __init__(self, code: str, message: str, *, where: str = "", fix: str = "") -> None:
        self.code, self.message, self.where, self.fix = code, message, where, fix
        super().__init__(code, message, where, fix)

    def __str__(self) -> str:
        place = f"{self.where}: " if self.where else ""
        fix = f" — {self.fix}" if self.fix else ""
        return f"{place}{self.message} [{self.code}]{fix}"


class ConfigError(WritebackError):
    """A tenant, source, mapping, suite, policy or setting that we read is wrong or missing."""


class SecretError(ConfigError):
    """A secret reference does not resolve; the text names the reference, never a value."""


class ExtractRefused(WritebackError):
    """An extract that cannot be read as a whole; ``line`` (1-based) or ``byte`` says where it breaks."""

    def __init__(
        self, code: str, message: str, *, line: int | None = None, byte: int | None = None, where: str = "", fix: str = ""
    ) -> None:
        self.line, self.byte = line, byte
        super().__init__(code, message, where=where, fix=fix)


class CandidateProblem(WritebackError):
    """One record cannot become a candidate: ``code`` is the reason, ``where`` the FHIR path; never a value."""


class LaneHeld(WritebackError):
    """Another run, ``holder``, has this (lane, tenant); the second comer ends clean."""

    def __init__(self, lane: str, tenant: str, holder: str) -> None:
        self.holder = holder
        fix = "nothing to do: that run takes the same work"
        super().__init__("lane_held", f"{lane} of {tenant} is held by {holder}", fix=fix)


class ServiceError(WritebackError):
    """A process, port, folder or database of ours cannot be used."""


class TargetError(WritebackError):
    """The EHR or its authorization server refused, failed or did not answer."""


def describe(error: BaseException) -> str:
    """One line for any exception that is safe to log: the text of ours, of others never more than class, code and place.

    A library's text can quote what it choked on (a row, a payload, an answer), so only where it happened is kept.
    """
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    if isinstance(error, WritebackError):
        return str(error)
    codes = [type(error).__qualname__]
    if sqlstate := getattr(error, "sqlstate", None):
        codes.append(f"sqlstate {sqlstate}")
    if isinstance(error, OSError) and error.errno:
        codes.append(errno.errorcode.get(error.errno, str(error.errno)))
    return f"{', '.join(codes)} at {place_of(error)} [unexpected] — a defect of ours: report this line"


def place_of(error: BaseException) -> str:
    """``module:line`` of the innermost frame, and of our own innermost one where that is another."""
    traceback: TracebackType | None = error.__traceback__
    ours = innermost = "an unknown place"
    while traceback is not None:
        module = traceback.tb_frame.f_globals.get("__name__", "?")
        innermost = f"{module}:{traceback.tb_lineno}"
        if module.startswith("fhir_writeback_dagster"):
            ours = innermost
        traceback = traceback.tb_next
    return innermost if ours == innermost else f"{innermost} called from {ours}"
