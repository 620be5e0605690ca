"""What happens in each drill: short acts on a ward. What goes wrong on the line meanwhile is in the catalogue."""

from __future__ import annotations

import time
from datetime import timedelta

from fhir_writeback_dagster.sandbox.drills.clinician_actions import (
    denied_by_nobody,
    deny_by_number,
    edit_resources,
    merge_patients,
    revoke_consent,
)
from fhir_writeback_dagster.sandbox.drills.tenant_under_test import TenantUnderTest, corrected

#: The oldest mirror that may be sent on; longer than a slow server needs to be read.
UNTIL_STALE_S = 3.0


def written(ward: TenantUnderTest, *, workers: int = 1) -> None:
    ward.deliver(ward.rows())
    ward.work(workers)
    ward.settle()


def corrected_too(ward: TenantUnderTest) -> None:
    """Creates, and then an update of each: to where its link says."""
    rows = ward.rows()
    ward.deliver(rows)
    ward.work()
    ward.settle()
    ward.deliver(corrected(rows))
    ward.settle()


def denial_in_disguise(ward: TenantUnderTest) -> None:
    """Patients deny, in Consents that name them in another form than ours: of what waits and of what comes later nothing may be
    written for them. Then comes a denial that names nobody: nothing at all may be written.
    """
    quarter = ward.writes // 4
    ward.deliver(ward.rows(quarter))
    ward.work()
    ward.settle()
    ward.crew.dismiss()
    approved = ward.rows(quarter)
    ward.deliver(approved)
    revoke_consent(ward, approved)
    deny_by_number(ward, approved)
    time.sleep(UNTIL_STALE_S)
    ward.work()
    ward.settle()
    denied = {row.fact.chart_id for row in approved if row.fact and ward.wanted[row.fact] is None}
    later = ward.rows(quarter)
    ward.deliver(later)
    ward.wanted.update({row.fact: None for row in later if row.fact and row.fact.chart_id in denied})
    ward.settle()
    with denied_by_nobody(ward):
        time.sleep(UNTIL_STALE_S)
        last = ward.rows(ward.writes - 3 * quarter)
        ward.deliver(last)
        ward.wanted.update({row.fact: None for row in last if row.fact})
        ward.settle()


def duplicate_delivery(ward: TenantUnderTest) -> None:
    rows = ward.rows()
    file = ward.deliver(rows)
    ward.drop(file)
    ward.deliver(rows[::-1])
    ward.work()
    ward.settle()
    with ward.nothing_is_written():
        ward.deliver(sorted(rows, key=lambda row: str(row.columns["mrn"])))
        ward.settle()


def old_file_again(ward: TenantUnderTest) -> None:
    rows = ward.rows()
    ward.deliver(rows)
    ward.work()
    ward.settle()
    newer = corrected(rows[::2])
    ward.deliver(newer)
    ward.settle()
    with ward.nothing_is_written():
        ward.deliver(rows[::-1], old=True)
        ward.settle()


def downtime(ward: TenantUnderTest) -> None:
    ward.deliver(ward.rows())
    ward.work()
    ward.until(0.3)
    ward.outage(3)
    ward.settle()


def kill_worker(ward: TenantUnderTest) -> None:
    ward.deliver(ward.rows())
    ward.work()
    for share in (0.3, 0.7):
        ward.until(share)
        ward.until_in_flight()
        ward.kill_worker()
    ward.settle()


def kill_postgres(ward: TenantUnderTest) -> None:
    ward.deliver(ward.rows())
    ward.work()
    ward.until(0.3)
    ward.kill_postgres(2)
    ward.until(0.5)
    ward.until_in_flight()
    ward.kill_postgres(2, ward.kill_worker)
    ward.settle()


def consent_revoked(ward: TenantUnderTest) -> None:
    half = ward.writes // 2
    ward.deliver(ward.rows(half))
    ward.work()
    ward.settle()
    ward.crew.dismiss()
    approved = ward.rows(ward.writes - half)
    ward.deliver(approved)
    revoke_consent(ward, approved)
    time.sleep(UNTIL_STALE_S)
    ward.work()
    ward.settle()


def patient_merged(ward: TenantUnderTest) -> None:
    ward.deliver(ward.rows())
    merge_patients(ward)
    time.sleep(UNTIL_STALE_S)
    ward.work()
    ward.settle()


def clinician_edited(ward: TenantUnderTest) -> None:
    rows = ward.rows()
    ward.deliver(rows)
    ward.work()
    ward.settle()
    edit_resources(ward, rows)
    ward.deliver(corrected(rows))
    ward.settle()


def clock_jump(ward: TenantUnderTest) -> None:
    """A day ahead, then three hours back: verdicts expire, and what was read "in the future" must not count as fresh."""
    half = ward.writes // 2
    ward.deliver(ward.rows(half))
    ward.jump(timedelta(hours=25))
    ward.work()
    ward.settle()
    ward.crew.dismiss()
    approved = ward.rows(ward.writes - half)
    ward.deliver(approved)
    ward.jump(timedelta(hours=-3))
    revoke_consent(ward, approved)
    time.sleep(UNTIL_STALE_S)
    ward.work()
    ward.settle()


def partial_transaction(ward: TenantUnderTest) -> None:
    half = ward.writes // 2
    ward.deliver(ward.rows(half))
    ward.work()
    ward.settle()
    ward.crew.dismiss()
    ward.configure(ehr={"bundle": "transaction"})
    ward.deliver(ward.rows(ward.writes - half))
    ward.work()
    ward.settle()


def everything(ward: TenantUnderTest) -> None:
    rows, killing = ward.rows(), ward.killing_workers(every_s=6)
    ward.deliver(rows)
    ward.work(2)
    ward.until(0.5, killing)
    ward.deliver(corrected(rows[::5]))
    ward.settle(killing)
