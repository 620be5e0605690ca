"""HAPI FHIR's JPA server (H2 in memory) as a sandbox EHR, from published artifacts only: Java 17 and Maven 3.8 run it.

HAPI publishes no server that one could start; its test utilities hold a whole one. Maven fetches them from Maven Central, checks
each against its checksum (``--strict-checksums``) and keeps them in its own repository: 525 MB and two to three minutes the first
time, forty seconds to start afterwards. It forgets everything when it ends, and has no OAuth.
"""

from __future__ import annotations

import os
import shutil
import time
from contextlib import suppress
from pathlib import Path
from typing import Self

import httpx

from fhir_writeback_dagster.errors import ServiceError
from fhir_writeback_dagster.ops.process import Child, Program, died
from fhir_writeback_dagster.sandbox.servers.ehr_client import EhrClient

VERSION = "8.8.0"
START_SECONDS = 900

_POM = f"""\
<project xmlns="http://maven.apache.org/POM/4.0.0">
  <modelVersion>4.0.0</modelVersion>
  <groupId>sandbox</groupId><artifactId>hapi</artifactId><version>1</version>
  <properties>
    <maven.compiler.release>17</maven.compiler.release>
    <project.build.sourceEncoding>UTF-8</project.build.sourceEncoding>
  </properties>
  <dependencyManagement><dependencies><dependency>
    <groupId>ca.uhn.hapi.fhir</groupId><artifactId>hapi-deployable-pom</artifactId><version>{VERSION}</version>
    <type>pom</type><scope>import</scope>
  </dependency></dependencies></dependencyManagement>
  <dependencies><dependency>
    <groupId>ca.uhn.hapi.fhir</groupId><artifactId>hapi-fhir-jpaserver-test-utilities</artifactId><version>{VERSION}</version>
  </dependency></dependencies>
  <build><plugins>
    <plugin><artifactId>maven-surefire-plugin</artifactId><version>3.2.5</version></plugin>
    <plugin><artifactId>maven-compiler-plugin</artifactId><version>3.13.0</version></plugin>
  </plugins></build>
</project>
"""
#: It serves inside of one test, so that the base class's purge does not run meanwhile; its address goes to `target/url`.
_SERVE = """\
import ca.uhn.fhir.jpa.provider.BaseResourceProviderR4Test;
import ca.uhn.fhir.rest.api.EncodingEnum;
import java.nio.file.Files;
import java.nio.file.Path;
import org.junit.jupiter.api.Test;

class ServeTest extends BaseResourceProviderR4Test {
  @Test void serve() throws Exception {
    myServer.getRestfulServer().setDefaultResponseEncoding(EncodingEnum.JSON);
    Files.writeString(Path.of("target/url"), myServerBase);
    Thread.sleep(24L * 3600 * 1000);
  }
}
"""


class Hapi:
    """``with Hapi(folder) as hapi`` starts the server and waits until it answers at ``hapi.base_url``.

    :param folder: its project and log; made if missing.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.base_url = ""
        self.chart: EhrClient
        self._child: Child | None = None

    def __enter__(self) -> Self:
        """:raises ServiceError: no Java or Maven here, or the server ends or stays silent for a quarter of an hour."""
        maven = shutil.which("mvn")
        if maven is None or shutil.which("java") is None:
            raise ServiceError("hapi_missing", "HAPI FHIR needs Java and Maven", fix="install Java 17 and Maven 3.8")
        sources, url = self.folder / "src" / "test" / "java", self.folder / "target" / "url"
        sources.mkdir(parents=True, exist_ok=True)
        (self.folder / "pom.xml").write_text(_POM)
        (sources / "ServeTest.java").write_text(_SERVE)
        url.unlink(missing_ok=True)
        command = [maven, "--batch-mode", "--no-transfer-progress", "--strict-checksums", "--quiet", "test", "-Dtest=ServeTest"]
        kept = ("PATH", "HOME", "JAVA_HOME", "MAVEN_OPTS", "MAVEN_ARGS")
        environment = {name: os.environ[name] for name in kept if name in os.environ}
        self._child = Child(Program("HAPI FHIR", command, environment, self.folder / "hapi.log", self.folder))
        try:
            self._await_answer(self._child, url)
        except BaseException:
            self._child.stop()
            raise
        self.chart = EhrClient(self.base_url)
        return self

    def __exit__(self, *_: object) -> None:
        self.chart.close()
        if self._child is not None:
            self._child.stop()
            self._child = None

    def _await_answer(self, child: Child, url: Path) -> None:
        deadline = time.monotonic() + START_SECONDS
        while time.monotonic() < deadline:
            if child.exit_code is not None:
                raise died(child)
            with suppress(httpx.HTTPError, FileNotFoundError):
                self.base_url = url.read_text().strip()
                if self.base_url and httpx.get(f"{self.base_url}/metadata", timeout=30, trust_env=False).status_code == 200:
                    return
            time.sleep(0.5)
        raise ServiceError(
            "hapi_silent",
            f"HAPI FHIR did not answer within {START_SECONDS} s",
            where=self.base_url or str(self.folder),
            fix=f"read {child.program.log}; is Maven Central reachable?",
        )
