"""A commit worker as a process of its own: ``python worker.py HOME TENANT``, its DSN in the environment. Prints its counts."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

from fhir_writeback_dagster.commit.pipeline import commit
from fhir_writeback_dagster.config.settings import DSN, Settings
from fhir_writeback_dagster.orchestration.run_context import open_run


def main(home: str, tenant: str) -> None:
    with open_run(Settings(Path(home), "commit", os.environ[DSN]), tenant, f"worker-{os.getpid()}") as run:
        print(json.dumps(commit(run).counts))  # noqa: T201 - what the test reads


if __name__ == "__main__":
    main(*sys.argv[1:])
