"""What the target said to one request, reduced to what decisions are made of."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from fhir_writeback_dagster import canonicaljson
from fhir_writeback_dagster.commit.protocol import headers
from fhir_writeback_dagster.commit.protocol.foreign_json import read_json
from fhir_writeback_dagster.rules.fhir.resource_url import Named

_CODE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")


@dataclass(frozen=True, slots=True)
class Answer:
    """Status, headers (lower-case names) and body of one HTTP answer, or of one entry of a bundle's answer."""

    status: int
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    body: bytes = field(default=b"", repr=False)
    parsed: Any = field(default=None, repr=False)
    """The body as JSON, where it came inside another one and has been read."""
    inner: bool = False
    """It is one entry of a bundle's answer, so that the EHR itself has spoken."""

    def json(self) -> Any:
        """The body as JSON; None where it is empty or something else (an HTML error page)."""
        if self.parsed is not None:
            return self.parsed
        return read_json(self.body) if self.body else None

    def resource(self) -> dict[str, Any] | None:
        """The body as a FHIR resource."""
        found = self.json()
        return found if isinstance(found, dict) and isinstance(found.get("resourceType"), str) else None

    def shown(self) -> dict[str, Any] | None:
        """The resource that it shows; an OperationOutcome shows none."""
        found = self.resource()
        return None if found is None or found["resourceType"] == "OperationOutcome" else found

    def text(self) -> bytes:
        """What to keep of it."""
        return self.body or (canonicaljson.encode(self.parsed) if self.parsed is not None else b"")

    def retry_after(self, now: datetime) -> float | None:
        """Seconds that the target asks us to stay away, at most an hour; None: it does not say."""
        return headers.retry_after(self.headers.get("retry-after", ""), now)

    @property
    def says_when(self) -> bool:
        """Does it say, so that it can be read, when we may come again?"""
        return self.retry_after(datetime.max.replace(tzinfo=UTC)) is not None

    def etag(self) -> str | None:
        """The ETag, verbatim; None where there is none that could be sent back."""
        return headers.validator(self.headers.get("etag", ""))

    def location(self) -> Named | None:
        """The resource that it says stands there."""
        return headers.location(self.headers.get("location", ""))

    def date(self) -> datetime | None:
        """When the target says that it answered (RFC 9110, 6.6.1), by its own clock."""
        return headers.http_date(self.headers.get("date", ""))

    def codes(self) -> frozenset[str]:
        """`issue.code` and `issue.details.coding.code` of an OperationOutcome. Its texts can quote the patient: never read."""
        found = self.resource()
        if found is None or found["resourceType"] != "OperationOutcome":
            return frozenset()
        return frozenset(code for issue in dicts(found.get("issue")) for code in issue_codes(issue))


def issue_codes(issue: dict[str, Any]) -> list[str]:
    """The codes of one issue: R4's and the vendor's."""
    details = issue.get("details")
    codings = dicts(details.get("coding")) if isinstance(details, dict) else []
    found = [issue.get("code"), *(coding.get("code") for coding in codings)]
    return [code for code in found if isinstance(code, str) and _CODE.fullmatch(code)]


def dicts(value: object) -> list[dict[str, Any]]:
    """The objects of a JSON array; nothing where the target sent something else."""
    return [item for item in value if isinstance(item, dict)] if isinstance(value, list) else []
