"""A vendor's idempotency key (HealthLake): it is the fact's, so that no two revisions of one ever stand side by side."""

from __future__ import annotations

import json
from collections.abc import Callable

from commit.faults import Fault, FaultyLine, LoseRequest, Say, Seen, Twist
from commit.world import World, heart_rate, patient

AT = "2024-03-01T10:00:00Z"
HEADER = "x-amz-fhir-idempotency-key"


class Keys:
    """A server that remembers keys: a repeat is a 409 with the original, whatever its body says."""

    def __init__(self) -> None:
        self._made: dict[str, bytes] = {}

    def __call__(self, seen: Seen) -> Fault | None:
        if seen.method != "POST" or HEADER not in seen.headers:
            return None
        key = seen.headers[HEADER]
        if key in self._made:
            return Say(409, (("Content-Type", "application/fhir+json"),), self._made[key])

        def keep(status: int, headers: list[tuple[str, str]], body: bytes) -> tuple[int, list[tuple[str, str]], bytes]:
            self._made[key] = body
            return status, headers, body

        return Twist(keep)

    def knows(self, seen: Seen) -> bool:
        return seen.headers[HEADER] in self._made


def test_a_late_first_revision_makes_no_second_resource(make_world: Callable[..., World], line: FaultyLine) -> None:
    world, keys = make_world(ehr={"base_url": line.base_url, "vendor": "healthlake", "quiet": "1h"}), Keys()
    world.load(patient("a", "a"))
    first = world.approve(heart_rate("a", AT, 72))
    line.on("POST", "Observation", LoseRequest())
    line.rules.append(keys)
    world.commit()
    world.approve(heart_rate("a", AT, 80), key=first.business_key, revision=2)
    world.change("UPDATE ledger.work SET not_before = now() WHERE tenant = %s")
    world.commit()
    late, sent = line.sent("POST", "Observation")
    assert json.loads(sent.body)["valueQuantity"]["value"] == 80
    if not keys.knows(late):  # now it arrives
        world.ehr.chart.create(json.loads(late.body))
    assert [one["valueQuantity"]["value"] for one in world.in_ehr(first.business_key)] == [80]


def test_what_stands_there_under_the_key_and_says_something_else_is_a_persons(
    make_world: Callable[..., World], line: FaultyLine
) -> None:
    world, keys = make_world(ehr={"base_url": line.base_url, "vendor": "healthlake"}), Keys()
    world.load(patient("a", "a"))
    line.rules.append(keys)
    first = world.approve(heart_rate("a", AT, 72))
    world.commit()
    world.change("DELETE FROM ledger.link WHERE tenant = %s")  # as if nobody had heard of it
    nothing = Say(200, (), b'{"resourceType": "Bundle", "type": "searchset"}')
    line.rules.insert(0, lambda seen: nothing if seen.path == "Observation/_search" else None)
    world.approve(heart_rate("a", AT, 80), key=first.business_key, revision=2)
    world.commit()
    assert world.intents()[1] == ("in_review", None, "existed_differently")
    assert [one["valueQuantity"]["value"] for one in world.in_ehr(first.business_key)] == [72]
