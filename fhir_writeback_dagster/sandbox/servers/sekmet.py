"""A real FHIR R4 server, sekmet-fhir, as the sandbox's EHR: a process of its own that is gone when the block ends."""

from __future__ import annotations

import json
import os
import signal
import sqlite3
import sys
import time
from collections.abc import Iterable, Sequence
from contextlib import closing, suppress
from pathlib import Path
from typing import Any, Self

import httpx

from fhir_writeback_dagster.errors import ServiceError
from fhir_writeback_dagster.ops.ports import HOST, claim
from fhir_writeback_dagster.ops.process import Child, Program, died
from fhir_writeback_dagster.rules.fhir.resource import Resource
from fhir_writeback_dagster.sandbox.keys import make_client_key
from fhir_writeback_dagster.sandbox.servers.ehr_client import EhrClient

CLIENT_ID = "fhir-writeback"
START_SECONDS = 60

_ADMIN = "sandbox-admin"


class Sekmet:
    """``with Sekmet(folder, client_jwks=jwks) as ehr`` starts the server and waits until it answers.

    :param folder: its database, settings and log; made if missing. A server that starts there again finds its data.
    :param port: 0 takes a free one.
    :param client_jwks: public keys of the client ``fhir-writeback``; SMART Backend Services is on. None: an open server.
    :param client_scopes: what that client may be granted at most.
    :param token_seconds: lifetime of access tokens.
    :param public_url: origin that clients reach it by (a fault proxy's): its token endpoint is there.
    """

    def __init__(
        self,
        folder: Path,
        port: int = 0,
        client_jwks: dict[str, Any] | None = None,
        *,
        client_scopes: str = "system/*.cruds",
        token_seconds: int = 3600,
        public_url: str = "",
    ) -> None:
        self.folder = folder
        self.client_jwks = client_jwks
        self.port = claim("the sandbox EHR", port, "the demo's port of it")
        self.base_url = f"http://{HOST}:{self.port}/fhir"
        self._client_scopes, self._token_seconds, self._public_url = client_scopes, token_seconds, public_url
        self._admin_key, self._admin_jwks = make_client_key("admin")
        self._child: Child | None = None
        self.chart = (
            EhrClient(self.base_url)
            if client_jwks is None
            else EhrClient(self.base_url, client_id=_ADMIN, private_jwk=self._admin_key)
        )

    @property
    def pid(self) -> int | None:
        """Its process id while it runs."""
        return self._child.pid if self._child else None

    def start(self) -> Self:
        """:raises ServiceError: the port is taken, or the server ends or stays silent within a minute."""
        claim("the sandbox EHR", self.port, "the demo's port of it")
        self.folder.mkdir(parents=True, exist_ok=True)
        settings = self.folder / "settings.yaml"
        settings.write_text(json.dumps(self._settings()), encoding="utf-8")  # JSON is YAML
        settings.chmod(0o600)
        program = str(Path(sys.executable).with_name("sekmet"))
        if not Path(program).is_file():
            raise ServiceError("sekmet_missing", "sekmet-fhir is not installed", where=program, fix="install the extra `sandbox`")
        self._child = Child(
            Program(
                "sekmet",
                [program, "serve", "--config", str(settings)],
                {"PATH": os.environ.get("PATH", ""), "HOME": str(self.folder)},
                self.folder / "sekmet.log",
                self.folder,
            )
        )
        try:
            self._await_answer(self._child)
        except BaseException:
            self.stop()
            raise
        return self

    def stop(self) -> None:
        """End the server and all that it started; killed if it stays longer than ten seconds."""
        self.chart.close()
        if self._child is not None:
            self._child.stop()
            self._child = None

    def kill(self) -> None:
        """What a power cut does; `start` brings it up again with what it had committed."""
        if self._child is not None:
            os.killpg(self._child.pid, signal.SIGKILL)
            self._child.wait(10)
            self._child = None

    def load(self, resources: Iterable[Resource]) -> int:
        """See :meth:`EhrClient.load`."""
        return self.chart.load(resources)

    def search(self, resource_type: str, **params: str | Sequence[str]) -> list[Resource]:
        """See :meth:`EhrClient.search`."""
        return self.chart.search(resource_type, **params)

    def wipe(self) -> None:
        """Forget every resource and version; tokens stay valid. Faster than a new server, for tests."""
        with closing(sqlite3.connect(self.folder / "data" / "sekmet.db", timeout=30)) as database, database:
            for table in ("resources", "versions", "idx"):
                database.execute(f"DELETE FROM {table}")  # noqa: S608 - names of ours

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.stop()

    def _settings(self) -> dict[str, Any]:
        settings: dict[str, Any] = {
            "base_url": self.base_url,
            "host": HOST,
            "port": self.port,
            "data_dir": str(self.folder / "data"),
            "simulator": {"enabled": False},
            "log_inbound": False,
            **({"public_url": self._public_url} if self._public_url else {}),
        }
        if self.client_jwks is not None:
            settings["server_auth"] = {
                "types": ["smart"],
                "token_lifetime": self._token_seconds,
                "smart_clients": [
                    {"client_id": CLIENT_ID, "jwks": self.client_jwks, "scopes": self._client_scopes},
                    {"client_id": _ADMIN, "jwks": self._admin_jwks, "scopes": "system/*.cruds"},
                ],
            }
        return settings

    def _await_answer(self, child: Child) -> None:
        deadline = time.monotonic() + START_SECONDS
        while time.monotonic() < deadline:
            if child.exit_code is not None:
                raise died(child)
            with suppress(httpx.HTTPError):
                if httpx.get(f"{self.base_url}/metadata", timeout=5, trust_env=False).status_code == 200:
                    return
            time.sleep(0.1)
        raise ServiceError(
            "sekmet_silent",
            f"the sandbox EHR did not answer within {START_SECONDS} s",
            where=f"{HOST}:{self.port}",
            fix=f"read {child.program.log}",
        )
