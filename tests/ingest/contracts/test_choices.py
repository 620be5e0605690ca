"""What a source cannot say is the tenant's word, of those that the contract offers."""

from __future__ import annotations

from pathlib import Path

import pytest
from support import write_tenant

from fhir_writeback_dagster.errors import ConfigError
from fhir_writeback_dagster.ingest.contracts.sources import source_of


@pytest.mark.parametrize(
    ("choices", "complaint"),
    [
        ({"ended_order": "finished"}, "ended_order cannot be finished"),
        ({"ended_orders": "completed"}, "the contract leaves no choice ended_orders"),
    ],
)
def test_another_choice_or_word_is_refused_with_what_there_is(home: Path, choices: dict[str, str], complaint: str) -> None:
    synthea = {"version": 1, "landing": "landing/x", "choices": choices}
    tenant = write_tenant(home, "chooser", {"sources": {"synthea_csv": synthea}})
    with pytest.raises(ConfigError, match=complaint) as refused:
        source_of(home / "mappings", tenant, "synthea_csv")
    assert refused.value.fix.startswith("one of ")


def test_a_word_that_the_contract_offers_is_taken(home: Path) -> None:
    synthea = {"version": 1, "landing": "landing/x", "choices": {"ended_order": "completed"}}
    tenant = write_tenant(home, "chooser", {"sources": {"synthea_csv": synthea}})
    assert source_of(home / "mappings", tenant, "synthea_csv").contract.source == "synthea_csv"
