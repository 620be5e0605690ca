"""Dagster's own webserver behind our guard: ``python -m …ops.web PORT SECRET_FILE WORKSPACE``.

Behind an operator's own proxy, ``FHIR_WRITEBACK_WEB_HOSTS`` are the further names that the page is reached by (as a browser
writes them, by commas), and ``FHIR_WRITEBACK_WEB_TOKEN`` is what the proxy sends as bearer token.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

from fhir_writeback_dagster.ops.ports import HOST
from fhir_writeback_dagster.ops.webguard import Guard, PageAccess
from fhir_writeback_dagster.ops.webtoken import read_secret

HOSTS, TOKEN = "FHIR_WRITEBACK_WEB_HOSTS", "FHIR_WRITEBACK_WEB_TOKEN"


def main(port: str, secret: str, workspace: str) -> None:
    """Serve until a signal ends it."""
    from dagster_webserver import cli

    access = PageAccess(
        secret=read_secret(Path(secret)),
        hosts=frozenset({f"{HOST}:{port}", f"localhost:{port}", *_names(os.environ.get(HOSTS, ""))}),
        cookie=f"fhir_writeback_{port}",  # a cookie knows no port, and two installations may stand on one machine
        proxy_token=os.environ.pop(TOKEN, None),
    )
    make = cli.create_app_from_workspace_process_context  # type: ignore[attr-defined]

    def guarded(*args: Any, **kwargs: Any) -> Any:
        return Guard(make(*args, **kwargs), access)

    cli.create_app_from_workspace_process_context = guarded  # type: ignore[attr-defined]
    sys.argv = ["dagster-webserver", "-h", HOST, "-p", port, "-w", workspace]
    sys.argv += ["--dagster-log-level", "warning", "--uvicorn-log-level", "warning"]
    cli.main()  # type: ignore[no-untyped-call]


def _names(text: str) -> list[str]:
    return [name for part in text.split(",") if (name := part.strip().lower())]


if __name__ == "__main__":
    main(*sys.argv[1:])
