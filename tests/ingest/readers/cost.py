"""What reading a file costs: seconds of this process and the most memory above what it had before (Linux)."""

from __future__ import annotations

import gc
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fhir_writeback_dagster.errors import ExtractRefused
from fhir_writeback_dagster.ingest.contracts.contract import Table
from fhir_writeback_dagster.ingest.readers.read import read

MEGABYTE = 1_000_000


@dataclass(frozen=True)
class Cost:
    seconds: float
    megabytes: float
    code: str | None
    """Why it was refused; None: it was read."""


def table(form: str) -> Table:
    columns = {"a": "optional operational"} | ({"resourceType": "optional operational"} if form == "fhir" else {})
    document = {"files": "*", "format": form, "columns": columns, "rows": [{"not_written": "reference_only"}]}
    return Table.model_validate(document)


def cost(data: bytes, form: str, **named: Any) -> Cost:
    asked = table(form)
    gc.collect()
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # the peak of memory begins anew
    before, begun = _memory("VmRSS"), time.process_time()
    try:
        read(data, asked, whole=True, **named)
    except ExtractRefused as error:
        code: str | None = error.code
    else:
        code = None
    seconds = time.process_time() - begun
    return Cost(seconds, (_memory("VmHWM") - before) / 1_000, code)


def _memory(field: str) -> int:
    status = Path("/proc/self/status").read_text(encoding="ascii")
    return int(next(line for line in status.splitlines() if line.startswith(field)).split()[1])
