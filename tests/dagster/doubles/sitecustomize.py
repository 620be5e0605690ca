"""Python imports this at the start of every process of a layer whose ``PYTHONPATH`` has this folder (see ``test_live.py``).

The layers' pipelines are replaced by ones that wait until the test lets them go on; all else is as shipped.
"""

from __future__ import annotations

import importlib.abc
import importlib.machinery
import importlib.util
import sys
from pathlib import Path

DOUBLED = {
    f"fhir_writeback_dagster.{name}"
    for name in ("ingest.pipeline", "decide.pipeline", "commit.mirror.refresh", "commit.pipeline")
}


class Doubles(importlib.abc.MetaPathFinder):
    def find_spec(self, fullname: str, *_: object) -> importlib.machinery.ModuleSpec | None:
        if fullname not in DOUBLED:
            return None
        return importlib.util.spec_from_file_location(fullname, Path(__file__).with_name("pipelines.py"))


sys.meta_path.insert(0, Doubles())
