"""Commits: whole messages, as they are sent."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bema.contract import envelopes, operations
from bema.contract.effects import DeleteState, Effect, EmitEvent, SetState, UpdateState
from bema.contract.envelopes import Event
from bema.contract.triggers import Kind
from bema.ports.clocks import Moment
from bema.ports.connections import Message
from bema.ports.jetstream import Outgoing, Stored
from bema_runtime import arrivals, batches, commits
from bema_runtime.commits import Commit, RunOutcome
from tests.support import units

ROOT = units.ROOT
MARKER = Outgoing(
    "bema.shop.end.pay.event.r1",
    b'{"outcome":"ok","attempt":1,"started":0,"ended":1000500}',
    {},
    expected=0,
)
NOW = 1000.5


def batch(*effects: Effect, reads: dict[tuple[str, str], int] | None = None, **more: Any) -> list[Outgoing]:
    run = units.run(reads=reads or {})
    now = Moment(NOW, NOW + more.get("skew", 0.0))
    return batches.messages(Commit(run, RunOutcome.OK, effects), more.get("found", {}), now=now)


APPLE = "bema.shop.state.stock.apple"


def stored(subject: str, data: bytes = b"", sequence: int = 1, **headers: str) -> Stored:
    return Stored(subject, sequence, "1970-01-01T00:16:35Z", data, {k.replace("_", "-"): v for k, v in headers.items()})


UPDATE = UpdateState("stock", "apple", (operations.increment(),))


@pytest.mark.parametrize(
    ("found", "expected"),
    [
        pytest.param(batch(), [], id="no effects"),
        pytest.param(
            batch(SetState("stock", "a.b", b"1")),
            [Outgoing("bema.shop.state.stock.a=2Eb", b"1", {"Nats-Rollup": "sub"})],
            id="a write that nothing guards",
        ),
        pytest.param(
            batch(SetState("stock", "apple", b"1"), reads={("stock", "apple"): 7, ("stock", "pear"): 8}),
            [Outgoing("bema.shop.state.stock.apple", b"1", {"Nats-Rollup": "sub"}, expected=7)],
            id="a write of a key that was read",
        ),
        pytest.param(
            batch(SetState("stock", "apple", b"1"), reads={("stock", "apple"): 0}),
            [Outgoing("bema.shop.state.stock.apple", b"1", {"Nats-Rollup": "sub"}, expected=0)],
            id="a write of a key that was read and not there",
        ),
        pytest.param(
            batch(DeleteState("stock", "apple"), reads={("stock", "apple"): 7}),
            [
                Outgoing(
                    "bema.shop.state.stock.apple",
                    b"",
                    {"Nats-Rollup": "sub", "Bema-Deleted": "1", "Nats-TTL": "60s"},
                    expected=7,
                )
            ],
            id="a deletion is a tombstone that goes away by itself",
        ),
        pytest.param(
            batch(UPDATE, found={APPLE: stored(APPLE, b"4", 3)}),
            [Outgoing("bema.shop.state.stock.apple", b"5", {"Nats-Rollup": "sub"}, expected=3)],
            id="a blind change, guarded by what it was made from",
        ),
        pytest.param(
            batch(UPDATE, found={APPLE: stored(APPLE, b"4", 3, Nats_TTL="60s")}, skew=-20.0),
            [Outgoing(APPLE, b"5", {"Nats-Rollup": "sub", "Nats-TTL": "75s", "Bema-Expires": "1055.000"}, expected=3)],
            id="a blind change of what goes away by the broker's clock, which is 20 s behind",
        ),
        pytest.param(
            batch(EmitEvent("order.paid", b'{"n":1}', 1, "ann", {"X-Tenant": "acme"})),
            [
                Outgoing(
                    "bema.shop.evt.live.3.order.paid",
                    b'{"n":1}',
                    {
                        "X-Tenant": "acme",
                        "ce-specversion": "1.0",
                        "ce-id": "r1.1",
                        "ce-type": "order.paid",
                        "ce-source": "/apps/shop/steps/pay",
                        "ce-time": "1970-01-01T00:16:40.500Z",
                        "content-type": "application/json",
                        "ce-partitionkey": "ann",
                        "traceparent": f"00-{'a' * 32}-{'c' * 16}-01",
                    },
                )
            ],
            id="an event",
        ),
    ],
)
def test_a_batch_is_the_marker_and_then_the_effects(found: list[Outgoing], expected: list[Outgoing]) -> None:
    assert found == [MARKER, *expected]


def together(*changes: operations.Operation, found: dict[str, Stored]) -> list[Outgoing]:
    """The batch of runs `r1`, `r2`… that each make one of the changes."""
    group = [
        Commit(units.run(id=f"r{number}"), RunOutcome.OK, [UpdateState("stock", "apple", (change,))])
        for number, change in enumerate(changes, start=1)
    ]
    return batches.together(group, found, now=Moment(NOW, NOW))


def marker(run: str) -> Outgoing:
    return dataclasses.replace(MARKER, subject=f"bema.shop.end.pay.event.{run}")


@pytest.mark.parametrize(
    ("found", "expected"),
    [
        pytest.param({}, Outgoing(APPLE, b"12", {"Nats-Rollup": "sub"}, expected=0), id="of nothing"),
        pytest.param(
            {APPLE: stored(APPLE, b"4", 3)}, Outgoing(APPLE, b"16", {"Nats-Rollup": "sub"}, expected=3), id="of a value"
        ),
        pytest.param(
            {APPLE: stored(APPLE, b"4", 3, Nats_TTL="60s")},
            Outgoing(APPLE, b"16", {"Nats-Rollup": "sub", "Nats-TTL": "55s", "Bema-Expires": "1055.000"}, expected=3),
            id="of a value that goes away by itself",
        ),
        pytest.param(
            {APPLE: stored(APPLE, b"4", 3, Nats_TTL="7s", Bema_Expires="1000.750")},
            Outgoing(APPLE, b"16", {"Nats-Rollup": "sub", "Nats-TTL": "1s", "Bema-Expires": "1000.750"}, expected=3),
            id="of a value that was changed before and is about to go",
        ),
        pytest.param(
            {APPLE: stored(APPLE, b"4", 3, Nats_TTL="7s", Bema_Expires="1000.500")},
            Outgoing(APPLE, b"12", {"Nats-Rollup": "sub"}, expected=3),
            id="of a value whose time is over",
        ),
        pytest.param(
            {APPLE: stored(APPLE, b"4", 3, Nats_TTL="5s")},
            Outgoing(APPLE, b"12", {"Nats-Rollup": "sub"}, expected=3),
            id="of a value that the broker is about to remove",
        ),
        pytest.param(
            {APPLE: stored(APPLE, b"", 3, Bema_Deleted="1", Nats_TTL="60s")},
            Outgoing(APPLE, b"12", {"Nats-Rollup": "sub"}, expected=3),
            id="of what was removed",
        ),
    ],
)
def test_blind_changes_of_several_runs_are_one_message_guarded_by_what_was_found(
    found: dict[str, Stored], expected: Outgoing
) -> None:
    changes = [operations.increment("", by) for by in (2, 3, 7)]
    assert together(*changes, found=found) == [marker("r1"), expected, marker("r2"), marker("r3")]


@pytest.mark.parametrize("changes", [(), (operations.remove("x"),), (operations.remove("x"), operations.remove(""))])
@pytest.mark.parametrize(
    "found",
    [
        pytest.param({}, id="nothing"),
        pytest.param({APPLE: stored(APPLE, b"", 3, Bema_Deleted="1", Nats_TTL="60s")}, id="what was removed"),
        pytest.param({APPLE: stored(APPLE, b"4", 3, Nats_TTL="7s", Bema_Expires="1000.500")}, id="what is over"),
    ],
)
def test_a_change_that_leaves_nothing_where_nothing_is_writes_nothing(
    found: dict[str, Stored], changes: tuple[operations.Operation, ...]
) -> None:
    update = UpdateState("stock", "apple", changes)
    assert batch(update, found=found) == [MARKER]
    told = batches.messages(
        Commit(units.run(), RunOutcome.OK, [update]), found, now=Moment(NOW, NOW), watched=frozenset({"stock"})
    )
    assert told == [MARKER]


def test_a_null_is_a_value_where_it_was_set() -> None:
    update = UpdateState("stock", "apple", (operations.set("", None),))
    assert batch(update) == [MARKER, Outgoing(APPLE, b"null", {"Nats-Rollup": "sub"}, expected=0)]


def test_a_change_of_nothing_leaves_the_next_one_of_the_batch_what_was_found() -> None:
    written = Outgoing(APPLE, b"[1]", {"Nats-Rollup": "sub"}, expected=0)
    removal, change = operations.remove("x"), operations.append(1)
    assert together(removal, change, found={}) == [marker("r1"), marker("r2"), written]


def test_blind_changes_of_several_runs_are_made_in_their_order() -> None:
    changes = [operations.append(number) for number in range(5)]
    written = [json.loads(message.data) for message in together(*changes, found={}) if message.subject == APPLE]
    assert written == [[0, 1, 2, 3, 4]]


@pytest.mark.parametrize(
    ("kind", "headers"),
    [
        pytest.param(Kind.EVENT, {}, id="an event's, until its floor has passed"),
        pytest.param(Kind.API, {"Nats-TTL": "10m"}, id="a request's, for minutes"),
        pytest.param(Kind.CRON, {"Nats-TTL": "168h"}, id="a tick's, for a week"),
    ],
)
def test_how_long_a_marker_is_kept(kind: Kind, headers: dict[str, str]) -> None:
    found = commits.marker(units.run(kind=kind, attempt=2), RunOutcome.DEAD, NOW)
    body = b'{"outcome":"dead","attempt":2,"started":0,"ended":1000500}'
    assert found == Outgoing(f"bema.shop.end.pay.{kind}.r1", body, headers, expected=0)


ENTRY = {"attempt": 1, "type": "ValueError", "message": "no", "at": "1970-01-01T00:00:00.000Z"}
CARRIED = {
    "X-Tenant": "acme",
    "ce-specversion": "1.0",
    "ce-id": "e1",
    "ce-type": "order.created",
    "ce-source": "/test",
    "ce-time": "2026-01-01T00:00:00Z",
    "content-type": "application/json",
    "ce-partitionkey": "ann",
    "traceparent": f"00-{'a' * 32}-{'b' * 16}-01",
    "Bema-Run": "r1",
    "Bema-Errors": '[{"attempt":1,"type":"ValueError","message":"no","at":"1970-01-01T00:00:00.000Z"}]',
}


def test_a_retry_is_a_schedule_of_the_next_attempt() -> None:
    run = units.run(errors=[ENTRY])
    assert commits.retry(run, units.EVENT, at=NOW, attempt=2) == Outgoing(
        "bema.shop.timer.retry.pay.r1",
        b'{"id": 1}',
        {
            **CARRIED,
            "Bema-Attempt": "2",
            "Nats-Schedule": "@at 1970-01-01T00:16:40.500Z",
            "Nats-Schedule-Target": "bema.shop.retry.pay.r1",
        },
    )


@pytest.mark.parametrize(
    ("largest", "data", "more"),
    [
        pytest.param(9, b'{"id": 1}', {}, id="with its data"),
        pytest.param(8, b"", {"Bema-Omitted": "7"}, id="without data that is too large"),
    ],
)
def test_a_dead_letter_holds_the_event_and_what_happened(largest: int, data: bytes, more: dict[str, str]) -> None:
    run = units.run(errors=[ENTRY], attempt=3)
    assert commits.dead_letter(run, units.EVENT, reason="AttemptsExhausted", largest=largest) == Outgoing(
        "bema.shop.dlq.pay.r1",
        data,
        {**CARRIED, "Bema-Attempt": "3", "Bema-Reason": "AttemptsExhausted", "Bema-Kind": "event", **more},
    )


def test_a_redriven_run_keeps_its_ancestor_over_attempts_and_into_its_dead_letter() -> None:
    redrive = units.run(id="r1~2", errors=[ENTRY], attempt=3, ancestor="r1~1", retried=True)
    letter = commits.dead_letter(redrive, units.EVENT, reason="AttemptsExhausted", largest=9)
    expected = {**CARRIED, "Bema-Run": "r1~2", "Bema-Ancestor": "r1~1"}
    assert letter == Outgoing(
        "bema.shop.dlq.pay.r1~2",
        b'{"id": 1}',
        {**expected, "Bema-Attempt": "3", "Bema-Reason": "AttemptsExhausted", "Bema-Kind": "event"},
    )
    again = commits.retry(redrive, units.EVENT, at=NOW, attempt=4)
    message = Message("bema.shop.retry.pay.r1~2", "", again.data, again.headers)
    arrived = arrivals.run_of(units.unit(), message, units.DELIVERY, "")
    assert (arrived.id, arrived.attempt, arrived.ancestor) == ("r1~2", 4, "r1~1")


def test_headers_that_would_not_fit_are_left_out() -> None:
    event = Event("e1", "a", "/" + "s" * 60_000, "", b"", headers={"X-Large": "x" * 60_000, "X-Grüße": "ä"})
    found = commits.retry(units.run(), event, at=NOW, attempt=2).headers
    assert not any(name.startswith("X-") for name in found)
    assert found["ce-id"] == "e1"
    assert sum(len(name) + len(value) for name, value in found.items()) < 12_000


entries = st.lists(
    st.fixed_dictionaries(
        {"attempt": st.integers(1, 100), "type": st.text(max_size=50), "message": st.text(max_size=4000)},
        optional={
            "traceback": st.text(max_size=9000),
            "details": st.lists(st.dictionaries(st.text(max_size=20), st.text(max_size=200), max_size=3), max_size=200),
        },
    ),
    max_size=12,
)
WIDE = {
    "attempt": 9,
    "type": "☃" * 3000,
    "message": "😀" * 3000,
    "traceback": "é" * 9000,
    "details": [{"a": "b" * 9000}],
}


def check_header(given: list[dict[str, Any]]) -> None:
    text = commits.errors_header(given)
    assert len(text) <= envelopes.MAX_ERRORS_BYTES
    assert text.isascii()
    assert text.isprintable()
    found = json.loads(text)
    assert [entry["attempt"] for entry in found] == [entry["attempt"] for entry in given][-len(found) or len(given) :]
    assert bool(found) == bool(given)


@given(entries)
def test_the_history_of_a_run_fits_into_a_header(given: list[dict[str, Any]]) -> None:
    check_header(given)


def test_the_history_of_a_run_fits_into_a_header_in_any_alphabet() -> None:
    check_header([WIDE, WIDE])


def test_the_last_errors_are_kept_and_the_end_of_a_traceback() -> None:
    given = [{"attempt": n, "traceback": f"{n} " + "x" * 2000 + " the line"} for n in range(10)]
    found = json.loads(commits.errors_header(given))
    assert [entry["attempt"] for entry in found] == [7, 8, 9] or [entry["attempt"] for entry in found] == [6, 7, 8, 9]
    assert all(entry["traceback"].endswith("x the line") for entry in found)


def test_what_no_other_run_of_a_batch_may_touch() -> None:
    effects = [SetState("g", "a", b""), DeleteState("g", "b"), UPDATE, EmitEvent("order.paid", b"", 1)]
    assert set(Commit(units.run(), RunOutcome.OK, effects).subjects) == {
        "bema.shop.end.pay.event.r1",
        "bema.shop.state.g.a",
        "bema.shop.state.g.b",
        "bema.shop.state.stock.apple",
    }
