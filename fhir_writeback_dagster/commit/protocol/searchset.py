"""Is a search answered completely? Absence needs all of it: half an answer proves that something is there, never that nothing is.

An answer is complete when its last page has no ``next``, no OperationOutcome among its entries says that something was left out,
and as many different resources came as ``total`` counts (R4: the number of matches over all pages). A server that sorts anew for
each page shows one resource twice and another never, so what came twice counts once; one that leads in a circle is found out by
a link, or by a page, that was seen before.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from fhir_writeback_dagster.commit.protocol.answer import dicts, issue_codes
from fhir_writeback_dagster.rules.fhir.resource import Resource

_LEFT_OUT = frozenset(
    {"exception", "incomplete", "lock-error", "no-store", "suppressed", "throttled", "timeout", "too-costly", "transient"}
)
"""Codes of R4's issue types that say, whatever their severity, that the answer may lack something."""


HALF_ANSWERS = frozenset({"incomplete_answer", "page_expired", "too_many_pages"})
"""Codes of searches that were answered, and not completely."""


class Incomplete(Exception):
    """The answer is not complete; ``code`` says how."""

    def __init__(self, code: str) -> None:
        super().__init__(code)
        self.code = code


@dataclass(slots=True)
class SearchSet:
    """The pages of one search, one after the other.

    :ivar informational: codes of this vendor's OperationOutcomes that leave nothing out.
    """

    resource_type: str
    informational: frozenset[str]
    most_pages: int
    total: int | None = None
    _links: set[str] = field(default_factory=set)
    _versions: dict[str, object] = field(default_factory=dict)

    def take(self, bundle: Resource) -> list[Resource]:
        """What a page brings: resources that were not seen yet, or not in this version.

        :raises Incomplete: it says that it is not the whole page.
        """
        if any(_leaves_out(issue, self.informational) for issue in _issues(bundle)):
            raise Incomplete("incomplete_answer")
        found = matches(bundle, self.resource_type)
        fresh = [one for one in found if one["id"] not in self._versions or self._versions[one["id"]] != _version(one)]
        if found and not fresh and next_link(bundle) is not None:
            raise Incomplete("incomplete_answer")
        self._versions.update((one["id"], _version(one)) for one in fresh)
        total = bundle.get("total")
        self.total = total if isinstance(total, int) and not isinstance(total, bool) else self.total
        return fresh

    def follow(self, url: str) -> None:
        """The next page is at ``url``.

        :raises Incomplete: it was read already, or so many pages nobody wants.
        """
        if url in self._links:
            raise Incomplete("incomplete_answer")
        if len(self._links) + 1 >= self.most_pages:
            raise Incomplete("too_many_pages")
        self._links.add(url)

    def end(self) -> None:
        """There are no more pages.

        :raises Incomplete: fewer resources came than there are.
        """
        if self.total is not None and len(self._versions) < self.total:
            raise Incomplete("incomplete_answer")


def matches(bundle: Resource, resource_type: str) -> list[Resource]:
    """The resources of ``resource_type`` that a searchset found; included ones and outcomes are left out."""
    found = []
    for entry in dicts(bundle.get("entry")):
        resource, search = entry.get("resource"), entry.get("search")
        mode = search.get("mode", "match") if isinstance(search, dict) else "match"
        if mode != "match" or not isinstance(resource, dict):
            continue
        if resource.get("resourceType") == resource_type and isinstance(resource.get("id"), str):
            found.append(resource)
    return found


def next_link(bundle: Resource) -> str | None:
    """Where the next page is; None: this is the last one."""
    urls = (link.get("url") for link in dicts(bundle.get("link")) if link.get("relation") == "next")
    return next((url for url in urls if isinstance(url, str) and url), None)


def _issues(bundle: Resource) -> list[Resource]:
    resources = [resource for entry in dicts(bundle.get("entry")) if isinstance(resource := entry.get("resource"), dict)]
    return [issue for one in resources if one.get("resourceType") == "OperationOutcome" for issue in dicts(one.get("issue"))]


def _leaves_out(issue: Resource, informational: frozenset[str]) -> bool:
    """Does the issue say that something may be missing? A warning that nobody knows may."""
    codes = frozenset(issue_codes(issue))
    if codes & informational:
        return False
    return not (issue.get("severity") in ("information", "success") or codes == {"informational"}) or bool(codes & _LEFT_OUT)


def _version(resource: Resource) -> object:
    meta = resource.get("meta")
    return meta.get("versionId") if isinstance(meta, dict) else None
