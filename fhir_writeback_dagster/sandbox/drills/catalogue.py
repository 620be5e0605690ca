"""The drills of issue 4: what goes wrong, and what must hold. A drill is data and one short act on a ward."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, get_args

from fhir_writeback_dagster.sandbox.drills import scenarios
from fhir_writeback_dagster.sandbox.drills.fault_mix import storm
from fhir_writeback_dagster.sandbox.drills.tenant_under_test import TenantUnderTest
from fhir_writeback_dagster.sandbox.fault_proxy import faults as f
from fhir_writeback_dagster.sandbox.fault_proxy import misleading as m
from fhir_writeback_dagster.sandbox.fault_proxy.disguises import BACKEND, Disguise
from fhir_writeback_dagster.sandbox.fault_proxy.exchange import READS, WRITES
from fhir_writeback_dagster.sandbox.fault_proxy.personality import PLAIN, Personality
from fhir_writeback_dagster.sandbox.fault_proxy.script import FaultRule


@dataclass(frozen=True, slots=True)
class Drill:
    """``act`` is what happens on the ward; ``rules`` go wrong in the proxy all the while.

    :param promise: what must hold, for people; the counts that say so are the same for every drill.
    :param personality: what the EHR always does.
    :param ehr: laid over the tenant's `ehr`, and ``consent`` over its `consent`.
    :param writes: where no other number is asked for.
    :param reconciles: some of its writes have no answer and stand there: if none was found again, it proved nothing.
    :param may_ask: share of the writes that a person may be asked about, where a fault looks like a refusal.
    """

    name: str
    about: str
    promise: str
    act: Callable[[TenantUnderTest], None]
    rules: Sequence[FaultRule] | Callable[[int], Sequence[FaultRule]] = ()
    personality: Personality = PLAIN
    ehr: Mapping[str, Any] = field(default_factory=dict)
    consent: Mapping[str, Any] = field(default_factory=dict)
    writes: int = 200
    reconciles: bool = False
    may_ask: float = 0.0

    def script(self, writes: int) -> Sequence[FaultRule]:
        """The proxy's rules for so many writes."""
        return self.rules(writes) if callable(self.rules) else self.rules


def _gateway(writes: int) -> Sequence[FaultRule]:
    """A page of each kind in place of so many answers in a row that a run has to end, one kind after the other; and single ones,
    of writes that the EHR did.
    """
    kinds = (404, 302, 405, 200)
    return [
        *(
            FaultRule(f"gateway_{status}", m.Gateway(status), on=(*WRITES, *READS), after=writes * n // 2 + 5, count=12)
            for n, status in enumerate(kinds)
        ),
        FaultRule("page_though_done", m.Gateway(404, acted=True), on=WRITES, probability=0.1),
        FaultRule("page_for_a_read", m.Gateway(404), on=("read",), probability=0.1),
    ]


#: A mirror older than this is read again before anything is sent.
_FRESH = {"max_age": f"{scenarios.UNTIL_STALE_S:.0f}s"}
#: The lease of what may have been sent is ten seconds longer than the timeout, and is waited for; with few requests at once
#: there is always more to send when somebody dies.
_BRIEF = {"timeout": "2s", "concurrency": 2}
#: Before such an EHR a write that is sent again unseen makes a second resource; a server that looks first would hide it.
_MAKES_WHAT_IT_IS_TOLD = Personality(name="makes what it is told", ignores_if_none_exist=True)


DRILLS: tuple[Drill, ...] = (
    Drill(
        "downtime",
        "the EHR is killed in the middle of the work and comes back",
        "nothing is lost or written twice; the work goes on by itself",
        scenarios.downtime,
        [FaultRule("answer_lost", f.DropAnswer(), on=WRITES, probability=0.1)],
        personality=_MAKES_WHAT_IT_IS_TOLD,
        reconciles=True,
    ),
    Drill(
        "token-expiry",
        "access tokens expire on the way, and the token endpoint is out of order now and then",
        "a refused token costs a new one, never a write",
        scenarios.written,
        [
            FaultRule("token_expired", f.expired_token(), on=(*WRITES, *READS), probability=0.15),
            FaultRule("token_endpoint_503", f.Say(503, "transient"), on=("token",), probability=0.2),
            FaultRule("token_lost", f.DropAnswer(), on=("token",), probability=0.1),
        ],
    ),
    Drill(
        "consent-revoked",
        "patients withdraw consent after their writes were approved and before they are sent",
        "nothing is written that consent, as last read, does not allow",
        scenarios.consent_revoked,
        consent=_FRESH,
    ),
    Drill(
        "partial-transaction",
        "bundles are done in part, refused as a whole, answered without some entries, or lost",
        "each entry is written once, whatever became of its bundle",
        scenarios.partial_transaction,
        [
            FaultRule("batch_in_part", f.PartialBatch(), on=("bundle",), probability=0.2),
            FaultRule("half_a_batch_lost", f.PartialBatch(lost=True), on=("bundle",), probability=0.1),
            FaultRule("answer_lacks_entries", f.FewerEntries(), on=("bundle",), probability=0.15),
            FaultRule("bundle_refused", f.Say(422, "processing"), on=("bundle",), probability=0.1),
            FaultRule("answer_lost", f.DropAnswer(), on=("bundle",), probability=0.1),
        ],
        ehr={"bundle_size": 10},
    ),
    Drill(
        "duplicate-delivery",
        "the same file comes again, its rows come in another order, and requests arrive twice on the way",
        "one resource a fact; the second delivery writes nothing at all",
        scenarios.duplicate_delivery,
        [
            FaultRule("answer_lost", f.DropAnswer(), on=WRITES, probability=0.1),
            FaultRule("arrived_twice", f.Repeat(), on=WRITES, probability=0.1),
            FaultRule("arrived_late", f.Late(2.0), on=WRITES, probability=0.05),
        ],
    ),
    Drill(
        "old-file-again",
        "corrections are written, and then the file that they correct comes again",
        "what was corrected does not come back",
        scenarios.old_file_again,
        [FaultRule("answer_lost", f.DropAnswer(), on=WRITES, probability=0.1)],
    ),
    Drill(
        "patient-merged",
        "patients are merged into others after their writes were approved and before they are sent",
        "nothing goes into the chart of a merged patient; the survivor's gets it",
        scenarios.patient_merged,
        consent=_FRESH,
    ),
    Drill(
        "clinician-edited",
        "people change and delete what we wrote, and then the source corrects it",
        "what a person changed is not overwritten, what a person deleted is not made again: a person is asked",
        scenarios.clinician_edited,
        [FaultRule("answer_lost", f.DropAnswer(), on=WRITES, probability=0.1)],
    ),
    Drill(
        "two-workers",
        "two workers of one tenant at once, on a slow and lossy line, with a search that lags",
        "no write is sent by both",
        lambda ward: scenarios.written(ward, workers=2),
        [
            FaultRule("answer_lost", f.DropAnswer(), on=WRITES, probability=0.1),
            FaultRule("delayed", f.Delay(0.3), on=WRITES, probability=0.2),
            FaultRule("search_stale", f.StaleSearch(0.8), on=("search",), probability=0.5),
        ],
        personality=_MAKES_WHAT_IT_IS_TOLD,
        reconciles=True,
    ),
    Drill(
        "kill-worker",
        "the worker is killed (SIGKILL) twice while requests are in flight",
        "what it may have sent is looked up, what it had not sent is sent",
        scenarios.kill_worker,
        [FaultRule("delayed", f.Delay(0.2), on=WRITES)],
        personality=_MAKES_WHAT_IT_IS_TOLD,
        ehr=_BRIEF,
        reconciles=True,
    ),
    Drill(
        "kill-postgres",
        "the database server is killed (SIGKILL) in the middle of the work and comes back; then again, and the worker with it",
        "nothing that was recorded is gone, nothing that was sent is sent again unseen",
        scenarios.kill_postgres,
        [FaultRule("delayed", f.Delay(0.2), on=WRITES)],
        personality=_MAKES_WHAT_IT_IS_TOLD,
        ehr=_BRIEF,
        reconciles=True,
    ),
    Drill(
        "clock-jump",
        "the wall clock jumps a day ahead, then three hours back, and patients withdraw consent meanwhile",
        "leases, verdicts and the age of the mirror survive it; a mirror from the future is not fresh",
        scenarios.clock_jump,
        consent=_FRESH,
    ),
    Drill(
        "rate-limit",
        "the EHR takes 15 requests a second and answers the others with 429, without saying when to come again",
        "everything is written; a refusal for haste is no failure of a write",
        scenarios.written,
        personality=Personality(name="hasty", requests=15, window_s=1.0),
    ),
    Drill(
        "swapped-answers",
        "answers come in another order, show another patient's resource, or none at all",
        "what an answer shows is ours only if it says so: each correction goes where its fact stands",
        scenarios.corrected_too,
        [
            FaultRule("swapped_entries", m.SwapEntries(), on=("bundle",), probability=0.5),
            FaultRule("another_resource", m.AnothersResource(), on=("create", "update", "patch"), probability=0.3),
            *(FaultRule(f"no_body_{form}", m.NoBody(form), on=WRITES, probability=0.1) for form in m.FORMS),
        ],
        personality=_MAKES_WHAT_IT_IS_TOLD,
        ehr={"bundle_size": 4},
    ),
    Drill(
        "acknowledged",
        "creates are acknowledged without a body, by an EHR whose search does not show them for longer than anybody waits",
        "what was acknowledged is read where Location says, and is never sent again",
        scenarios.written,
        [
            *(FaultRule(f"no_body_{form}", m.NoBody(form), on=WRITES, probability=0.4) for form in m.FORMS),
            FaultRule("search_stale", f.StaleSearch(30), on=("search",)),
        ],
        personality=_MAKES_WHAT_IT_IS_TOLD,
    ),
    Drill(
        "gateway",
        "something before the EHR answers with pages of its own, for a while everything and now and then a single write",
        "a page that is not the EHR's is evidence of nothing: no write is given up for it, no resource is taken for deleted",
        scenarios.corrected_too,
        _gateway,
        ehr={"concurrency": 4},
    ),
    Drill(
        "refused-patient",
        "the EHR refuses every search for one patient of five",
        "nobody else's writes wait for them; they become a person's",
        scenarios.written,
        personality=Personality(name="refuses some", refuses_patients="p[0-9]*[05]$"),
        ehr={"refused_ttl": "3s"},
        may_ask=0.2,
    ),
    Drill(
        "denial-in-disguise",
        "patients deny consent, in Consents that name them by another scheme or host, a version, a number, or not at all",
        "a denial is a denial however it names its patient; one that names nobody holds every write that it may concern",
        scenarios.denial_in_disguise,
        personality=Personality(name="names patients otherwise", disguises_patients=tuple(get_args(Disguise))),
        ehr={"also_at": [BACKEND]},
        consent=_FRESH,
    ),
    Drill(
        "everything",
        "a fifth of all writes meets one of 37 faults, a tenth of the reads, a fifth of the facts is corrected midway, and a "
        "worker is killed every few seconds",
        "no duplicate, nothing lost, nothing unaccounted for",
        scenarios.everything,
        lambda writes: storm(0.2, writes),
        ehr={"bundle_size": 4, "concurrency": 16},  # batches, and single requests for what they leave
        may_ask=0.02,
    ),
)
BY_NAME = {drill.name: drill for drill in DRILLS}
