"""Every fault at once: a share of the writes, half of it of the reads, and the tokens."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from fhir_writeback_dagster.sandbox.fault_proxy import faults as f
from fhir_writeback_dagster.sandbox.fault_proxy import misleading as m
from fhir_writeback_dagster.sandbox.fault_proxy.exchange import READS, WRITES, ProxyInteraction
from fhir_writeback_dagster.sandbox.fault_proxy.script import FaultRule

_WRITES: dict[str, f.Fault] = {
    "request_lost": f.DropRequest(),
    "answer_lost": f.DropAnswer(),
    "delayed": f.Delay(0.5),
    "arrived_late": f.Late(2.5),
    "arrived_twice": f.Repeat(),
    "token_expired": f.expired_token(),
    "said_408": f.Say(408, "timeout", after_commit=True),
    "said_409": f.Say(409, "conflict"),
    "said_429": f.Say(429, "throttled"),
    "said_429_wait": f.Say(429, "throttled", retry_after=1),
    "said_500_though_done": f.Say(500, "exception", after_commit=True),
    "said_502": f.Say(502, "transient"),
    "said_503": f.Say(503, "transient", after_commit=True),
    "said_503_wait": f.Say(503, "transient", retry_after=1),
    "malformed_json": f.Malformed(),
    "html_page": f.Html(),
    "empty_201": f.EmptyBody(),
    "wrong_location": f.WrongLocation(),
    "reset_mid_body": f.CutBody(),
    "slow_drip": f.Drip(0.5),
    "another_resource": m.AnothersResource(),
    "no_body_relative": m.NoBody("relative"),
    "no_body_of_the_backend": m.NoBody("of_the_backend"),
    "gateway_404": m.Gateway(404),
    "gateway_302": m.Gateway(302),
    "gateway_405_though_done": m.Gateway(405, acted=True),
    "said_503_wait_though_done": f.Say(503, "transient", retry_after=1, after_commit=True),
    "said_429_oddly": f.Say(429, "throttled", retry_after="\u00b2"),
    "byte_order_mark": m.OddBytes("bom"),
    "not_utf8": m.OddBytes("not_utf8"),
    "batch_in_part": f.PartialBatch(),
    "half_a_batch_lost": f.PartialBatch(lost=True),
    "answer_lacks_entries": f.FewerEntries(),
    "swapped_entries": m.SwapEntries(),
}
_ONLY_BUNDLES = ("batch_in_part", "half_a_batch_lost", "answer_lacks_entries", "swapped_entries")
_READS: dict[str, f.Fault] = {
    "read_lost": f.DropRequest(),
    "read_503": f.Say(503, "transient"),
    "read_malformed": f.Malformed(),
    "read_html": f.Html(),
    "read_drips": f.Drip(0.3),
    "read_gateway_404": m.Gateway(404),
    "read_not_utf8": m.OddBytes("not_utf8"),
    "search_stale": f.StaleSearch(1.0),
    "search_cut": m.CutSearch("total"),
    "search_incomplete": m.CutSearch("outcome"),
    "search_repeats": m.RepeatEntries(),
    "pages_go_round": m.LoopingPages(),
}
#: Answers that say that it can never be written, or that a person must look: so many of a run, because each ends with a person.
_FINAL: dict[str, f.Fault] = {
    "said_403": f.Say(403, "forbidden"),
    "said_412": f.Say(412, "multiple-matches"),
    "said_500": f.Say(500, "exception"),
}
WRITES_A_FINAL = 300


def storm(share: float, writes: int) -> Sequence[FaultRule]:
    """``share`` of all writes meet a fault, half that share of the reads.

    :param writes: how many there will be, for the few whose fault is final.
    """
    finals = max(1, writes // WRITES_A_FINAL)
    bundles: tuple[ProxyInteraction, ...] = ("bundle",)
    return [
        *(FaultRule(name, fault, on=WRITES, probability=0.01, count=finals) for name, fault in _FINAL.items()),
        *_spread(share, {name: fault for name, fault in _WRITES.items() if name not in _ONLY_BUNDLES}, WRITES),
        *_spread(share, {name: _WRITES[name] for name in _ONLY_BUNDLES}, bundles),
        *_spread(share / 2, _READS, READS),
        FaultRule("token_refused", f.Say(503, "transient"), on=("token",), probability=share),
    ]


def _spread(share: float, faults: dict[str, f.Fault], on: tuple[ProxyInteraction, ...]) -> Iterator[FaultRule]:
    """Together they meet ``share`` of the requests, each as often as the others: a rule sees what those before it left."""
    each = 1 - (1 - share) ** (1 / len(faults))
    yield from (FaultRule(name, fault, on=on, probability=each) for name, fault in faults.items())
