"""A commit worker as a process of its own: ``python -m …drills.worker HOME TENANT``, its DSN in the environment.

It starts one commit run after the other, as Dagster's sensor would, until a signal ends it. Its clock is off by the seconds
that ``HOME/clock`` says.
"""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

import structlog

from fhir_writeback_dagster.commit.pipeline import commit
from fhir_writeback_dagster.config.settings import DSN, Settings
from fhir_writeback_dagster.errors import ServiceError, TargetError
from fhir_writeback_dagster.orchestration.logs import configure
from fhir_writeback_dagster.orchestration.run_context import open_run
from fhir_writeback_dagster.sandbox.drills.clock import Clock

_NOTHING_TO_DO_S = 0.2
_OUT_OF_ORDER_S = 0.5


def main(home: Path, tenant: str) -> None:
    configure()
    settings = Settings(home, "commit", os.environ[DSN])
    now = Clock(home).now
    while True:
        try:
            with open_run(settings, tenant, "drill", now) as run:
                busy = commit(run).requests > 0
            time.sleep(0 if busy else _NOTHING_TO_DO_S)
        except (ServiceError, TargetError) as error:
            structlog.get_logger().warning(str(error), code=error.code)
            time.sleep(_OUT_OF_ORDER_S)


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])
