"""Floors and their records: what counts, what is remembered, and who hears what."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bema.contract import floors
from bema.contract.floors import Identity, Record, Subscriber

HOUR = 3600.0
PAY = Identity("pay", "u1", "2026-01-01T00:00:00Z")
FILTERS = ("bema.shop.evt.*.*.order", "bema.shop.retry.pay.>")


@pytest.mark.parametrize(
    ("ack_floor", "backlog", "last", "expected"),
    [
        pytest.param(10, 0, 90, 90, id="an idle consumer has done with all there was"),
        pytest.param(10, 1, 90, 10, id="one with work has done with what it answered"),
        pytest.param(95, 0, 90, 95, id="what it answered since counts too"),
    ],
)
def test_a_consumers_floor(ack_floor: int, backlog: int, last: int, expected: int) -> None:
    assert floors.floor_of(ack_floor=ack_floor, backlog=backlog, last=last) == expected


def seen(record: Record, now: float, floor: int, of: Identity = PAY) -> Record:
    return record.seen(of, FILTERS, now=now, floor=floor, span=HOUR)


def test_nothing_new_is_the_same_record() -> None:
    record = Record(PAY, FILTERS, 0, 10)
    assert seen(record, 100, 10) is record


def test_the_floor_of_one_consumer_never_falls() -> None:
    """The ack floor of an idle one lies far behind once it has work."""
    record = Record(PAY, FILTERS, 0, 10)
    assert seen(record, 100, 3) is record


def test_a_consumer_made_anew_begins_where_it_is_and_takes_the_past_with_it() -> None:
    record = seen(seen(Record(PAY, FILTERS, 0, 10), HOUR, 20), 2 * HOUR, 30)
    again = seen(record, 2 * HOUR + 30, 15, Identity("pay", "u1", "2026-02-02T00:00:00Z"))
    assert again.floor == 15
    assert [again.as_of(time) for time in (0, HOUR, 2 * HOUR, 3 * HOUR)] == [0, 15, 15, 15]


def test_another_step_of_the_same_name_has_no_past() -> None:
    again = seen(Record(PAY, FILTERS, 0, 10), HOUR, 0, Identity("pay", "u2", "2026-02-02T00:00:00Z"))
    assert (again.floor, again.samples, again.as_of(HOUR - 1)) == (0, (), 0)


def test_what_was_before_anybody_looked_is_not_known() -> None:
    record = Record(PAY, FILTERS, 100, 10)
    assert (record.as_of(99), record.as_of(100)) == (0, 10)


@given(st.lists(st.tuples(st.floats(1, 2 * HOUR), st.integers(0, 1000)), max_size=200))
def test_the_floor_of_an_hour_ago_is_never_too_high_and_the_history_stays_short(steps: list[tuple[float, int]]) -> None:
    now, floor = 0.0, 0
    record = Record(PAY, FILTERS, now, floor)
    truth = [(now, floor)]
    for seconds, more in steps:
        now, floor = now + seconds, floor + more
        record = floors.read(seen(record, now, floor).to_json())
        truth.append((now, floor))
        an_hour_ago = [was for at, was in truth if at <= now - HOUR + 0.001]
        assert record.as_of(now - HOUR) <= (an_hour_ago[-1] if an_hour_ago else 0)
        assert len(record.samples) <= floors.SAMPLES + 2


def test_a_steady_consumer_is_known_to_a_twelfth_of_an_hour() -> None:
    record = Record(PAY, FILTERS, 0, 0)
    for tick in range(1, 500):
        record = seen(record, 30.0 * tick, tick)
    now = 30.0 * 499
    assert 379 - 11 <= record.as_of(now - HOUR) <= 379


@pytest.mark.parametrize("data", [b"", b"{}", b"[]", b'{"step":1}', b"\xff"])
def test_what_is_no_record_is_refused_with_what_was_found(data: bytes) -> None:
    with pytest.raises(ValueError, match="expected the record of a floor as JSON, found"):
        floors.read(data)


@pytest.mark.parametrize(
    ("one", "other", "expected"),
    [
        ("a.b.c", "a.b.c", True),
        ("a.b.c", "a.b", False),
        ("a.b", "a.b.c", False),
        ("a.*.c", "a.b.*", True),
        ("a.*.c", "a.b.d", False),
        ("a.>", "a.b.c", True),
        ("a.b.c", "a.*.>", True),
        ("a.b", "a.b.>", False),
        (">", "a", True),
        ("evt.*.*.order", "evt.live.3.order", True),
        ("evt.*.*.order", "evt.*.*.order.created", False),
    ],
)
def test_patterns_overlap(one: str, other: str, expected: bool) -> None:
    assert floors.overlap(one, other) is expected
    assert floors.overlap(other, one) is expected


def test_the_lowest_floor_is_of_those_who_hear_it() -> None:
    everybody = [Subscriber(["evt.*.*.a", "retry.x.>"], 5), Subscriber(["evt.*.*.b"], 2), Subscriber([">"], 9)]
    assert floors.lowest("evt.*.*.a", everybody) == 5
    assert floors.lowest("evt.*.*.b", everybody) == 2
    assert floors.lowest("evt.*.*.c", everybody) == 9
    assert floors.lowest("evt.*.*.c", everybody[:2]) is None
