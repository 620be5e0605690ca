"""Sealed values: what opens them, what does not, and what shredding does."""

from __future__ import annotations

from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fhir_writeback_dagster.errors import SecretError, ServiceError
from fhir_writeback_dagster.store.db import Store, connect
from fhir_writeback_dagster.store.sealing import Identity, Sealer

KEY = b"k" * 32


@pytest.fixture
def store(database: Any, make_tenant: Any) -> Any:
    make_tenant("sealed")
    with Store(database.dsn("ingest"), "ingest") as store:
        yield store


def sealer(store: Store, key: bytes = KEY, at: datetime = datetime(2031, 3, 9, tzinfo=UTC)) -> Sealer:
    made = Sealer("sealed", key, lambda: at)
    with store.tenant("sealed") as connection:
        made.prepare(connection)
    return made


@pytest.fixture(autouse=True)
def _fresh_keys(database: Any, store: Store) -> None:
    with connect(database.superuser) as connection:
        connection.execute("DELETE FROM ops.data_key WHERE tenant = 'sealed'")


def test_a_value_opens_where_it_was_sealed_and_keeps_its_digits(store: Store) -> None:
    one, other = sealer(store), sealer(store)
    value = {"value": Decimal("72.50"), "name": "Ödön"}
    sealed = one.seal_json("canonical.record", "row-1", value)
    assert "Ödön".encode() not in sealed
    assert str(other.open_json("canonical.record", "row-1", sealed)["value"]) == "72.50"


@pytest.mark.parametrize(("table", "row"), [("canonical.record", "row-2"), ("canonical.row", "row-1")])
def test_a_value_that_was_moved_does_not_open(store: Store, table: str, row: str) -> None:
    made = sealer(store)
    sealed = made.seal("canonical.record", "row-1", b"secret")
    with pytest.raises(ServiceError, match="not_openable") as raised:
        made.open(table, row, sealed)
    assert "secret" not in str(raised.value)


@pytest.mark.parametrize("at", [0, 3, 15, -1], ids=["version", "nonce", "content", "tag"])
def test_an_altered_value_does_not_open(store: Store, at: int) -> None:
    made = sealer(store)
    sealed = bytearray(made.seal("canonical.record", "row-1", b"secret"))
    sealed[at] ^= 1
    with pytest.raises(ServiceError, match="not_openable"):
        made.open("canonical.record", "row-1", bytes(sealed))


@pytest.mark.parametrize("length", [0, 1, 3, 14, 30])
def test_a_value_that_was_cut_off_does_not_open(store: Store, length: int) -> None:
    made = sealer(store)
    with pytest.raises(ServiceError, match="not_openable"):
        made.open("canonical.record", "row-1", made.seal("canonical.record", "row-1", b"secret")[:length])


def test_a_month_is_shredded_by_destroying_its_key(store: Store, database: Any) -> None:
    march = sealer(store).seal("t", "r", b"march")
    april_sealer = sealer(store, at=datetime(2031, 4, 1, tzinfo=UTC))
    april = april_sealer.seal("t", "r", b"april")
    with connect(database.superuser) as connection:
        connection.execute("DELETE FROM ops.data_key WHERE tenant = 'sealed' AND month = '2031-03-01'")
    later = sealer(store, at=datetime(2031, 4, 2, tzinfo=UTC))
    assert later.open("t", "r", april) == b"april"
    with pytest.raises(ServiceError, match="2031-03"):
        later.open("t", "r", march)


def test_another_sealing_key_is_refused_and_said(store: Store) -> None:
    sealer(store)
    with pytest.raises(SecretError, match="wrong_sealing_key"):
        sealer(store, key=b"x" * 32)


@given(st.lists(st.text(), min_size=1, max_size=4), st.lists(st.text(), min_size=1, max_size=4))
def test_two_identities_have_two_digests(one: list[str], other: list[str]) -> None:
    identity = Identity([KEY])
    assert (identity.digest(*one) == identity.digest(*other)) == (one == other)
