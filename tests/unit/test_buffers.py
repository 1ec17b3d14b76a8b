"""Buffers: what a run asked for, coalesced, bounded, and seen by its own reads."""

from __future__ import annotations

import datetime
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, ClassVar

import orjson
import pytest
from pydantic import BaseModel, field_serializer

from bema.contract import errors, operations
from bema.contract.effects import DeleteState, EmitEvent, SetState, UpdateState
from bema_runtime import commits, payloads
from bema_runtime.buffers import Buffer, Entry
from bema_runtime.outboxes import Emission
from tests.support import units

K = ("stock", "apple")
INCREMENT = operations.increment("n", 2)
REMOVE = operations.remove("n")
APPEND = operations.append("x", "all")


def _asked(*calls: Callable[[Buffer], Any]) -> Buffer:
    buffer = units.buffer()
    for call in calls:
        call(buffer)
    return buffer


def reads(value: bytes | None) -> Callable[[Buffer], Any]:
    return lambda buffer: buffer.has_read(K, Entry(value, 5))


def sets(value: Any) -> Callable[[Buffer], Any]:
    return lambda buffer: buffer.set(K, value)


def deletes(buffer: Buffer) -> None:
    buffer.delete(K)


def updates(*changes: operations.Operation) -> Callable[[Buffer], Any]:
    return lambda buffer: buffer.update(K, changes)


def emits(data: Any) -> Callable[[Buffer], Any]:
    return lambda buffer: buffer.emit("paid", data)


@pytest.mark.parametrize(
    ("calls", "effects"),
    [
        pytest.param([], [], id="nothing"),
        pytest.param([reads(b"1")], [], id="a read alone is no effect"),
        pytest.param([sets({"n": 1})], [SetState(*K, b'{"n":1}')], id="a write"),
        pytest.param([sets(1), sets(2)], [SetState(*K, b"2")], id="the last write of a key counts"),
        pytest.param([sets(None)], [SetState(*K, b"null")], id="null is a value"),
        pytest.param([sets(1), deletes], [DeleteState(*K)], id="a write, then a deletion"),
        pytest.param([deletes, sets(1)], [SetState(*K, b"1")], id="a deletion, then a write"),
        pytest.param([updates(INCREMENT)], [UpdateState(*K, (INCREMENT,))], id="a change without a read is blind"),
        pytest.param(
            [updates(INCREMENT), updates(APPEND)], [UpdateState(*K, (INCREMENT, APPEND))], id="blind changes add up"
        ),
        pytest.param([updates(INCREMENT), sets(1)], [SetState(*K, b"1")], id="a write replaces blind changes"),
        pytest.param([updates(INCREMENT), deletes], [DeleteState(*K)], id="a deletion replaces blind changes"),
        pytest.param(
            [reads(b'{"n":5}'), updates(INCREMENT)], [SetState(*K, b'{"n":7}')], id="a change of what was read"
        ),
        pytest.param([reads(None), updates(INCREMENT)], [SetState(*K, b'{"n":2}')], id="a change of nothing"),
        pytest.param([sets({"n": 1}), updates(INCREMENT)], [SetState(*K, b'{"n":3}')], id="a change of an own write"),
        pytest.param([deletes, updates(INCREMENT)], [SetState(*K, b'{"n":2}')], id="a change after a deletion"),
        pytest.param(
            [updates(INCREMENT), reads(b'{"n":5}')],
            [SetState(*K, b'{"n":7}')],
            id="a read makes a blind change guarded",
        ),
        pytest.param([updates()], [], id="a change of nothing in nothing"),
        pytest.param([sets(None), updates()], [SetState(*K, b"null")], id="no change of an own write"),
        pytest.param([reads(None), updates(REMOVE)], [], id="a removal where nothing was read"),
        pytest.param([updates(REMOVE)], [UpdateState(*K, (REMOVE,))], id="a removal from what is not known"),
        pytest.param([updates(REMOVE), reads(None)], [], id="a removal, and then a read of nothing"),
        pytest.param([deletes, updates(REMOVE)], [DeleteState(*K)], id="a removal from what the run has removed"),
        pytest.param([reads(b'{"n":1}'), updates(REMOVE)], [SetState(*K, b"{}")], id="a removal from what was read"),
        pytest.param(
            [reads(None), updates(operations.set("", None))], [SetState(*K, b"null")], id="a null that was asked for"
        ),
        pytest.param(
            [emits(1), sets(1), emits(2)],
            [SetState(*K, b"1"), EmitEvent("paid", b"1", 1), EmitEvent("paid", b"2", 2)],
            id="state first, then events in their order",
        ),
    ],
)
def test_what_is_asked_for_is_coalesced(calls: list[Callable[[Buffer], Any]], effects: list[Any]) -> None:
    assert list(_asked(*calls).effects()) == effects


@pytest.mark.parametrize(
    ("calls", "known"),
    [
        pytest.param([reads(b"1")], b"1", id="what was read"),
        pytest.param([reads(None)], None, id="that there was nothing"),
        pytest.param([sets(2)], b"2", id="an own write"),
        pytest.param([sets(None)], b"null", id="an own null, which is not nothing"),
        pytest.param([reads(b"1"), sets(2)], b"2", id="an own write over what was read"),
        pytest.param([reads(b"1"), deletes], None, id="an own deletion"),
        pytest.param([updates(INCREMENT), reads(b'{"n":5}')], b'{"n":7}', id="blind changes over what was read"),
        pytest.param([updates(REMOVE), reads(None)], None, id="a blind removal over nothing"),
        pytest.param([sets(2), reads(b"1")], b"2", id="an own write while the answer was on its way"),
    ],
)
def test_reads_see_the_runs_own_writes(calls: list[Callable[[Buffer], Any]], known: bytes | None) -> None:
    assert _asked(*calls).known(K) == known


@pytest.mark.parametrize(
    "calls", [pytest.param([], id="at first"), pytest.param([updates(APPEND)], id="blindly changed")]
)
def test_what_only_the_broker_knows_is_unknown(calls: list[Callable[[Buffer], Any]]) -> None:
    buffer = _asked(*calls)
    assert buffer.is_unknown(buffer.known(K))


class Told(BaseModel):
    x: int = 0
    written: ClassVar[list[str]] = []

    @field_serializer("x")
    def _write(self, value: int) -> int:
        Told.written.append(threading.current_thread().name)
        return value


@pytest.mark.parametrize(
    "change",
    [
        pytest.param(lambda value: operations.append(value), id="append"),
        pytest.param(lambda value: operations.set("a", value), id="set"),
        pytest.param(lambda value: operations.merge(value), id="merge"),
    ],
)
@pytest.mark.parametrize("before", [[], [reads(None)]], ids=["blind", "after a read"])
def test_a_change_is_what_it_was_when_it_was_asked_for(
    before: list[Callable[[Buffer], Any]], change: Callable[[Any], operations.Operation]
) -> None:
    value = {"n": 0, "of": {"m": 0}}
    expected = operations.apply(None, [change({"n": 0, "of": {"m": 0}})])
    buffer = _asked(*before, updates(change(value)))
    value["n"] = value["of"]["m"] = 99  # type: ignore[index]
    assert orjson.loads(buffer.has_read(K, Entry(None)) or b"") == expected


def test_a_blind_change_holds_plain_json_so_that_nobody_writes_it_again() -> None:
    Told.written.clear()
    buffer = _asked(updates(operations.append(Told()), operations.set("s", {"a"}), operations.merge({"m": Told()})))
    assert list(buffer.effects()) == [
        UpdateState(*K, (operations.append({"x": 0}), operations.set("s", ["a"]), operations.merge({"m": {"x": 0}})))
    ]
    assert Told.written == [threading.current_thread().name] * 2


def test_two_reads_at_once_see_the_same() -> None:
    buffer = _asked(updates(INCREMENT))
    assert [buffer.has_read(K, Entry(b'{"n":1}')) for _ in range(2)] == [b'{"n":3}'] * 2


def test_a_list_is_laid_over_with_own_writes() -> None:
    buffer = units.buffer()
    buffer.set(("g", "new"), 1)
    buffer.set(("g", "changed"), 2)
    buffer.delete(("g", "gone"))
    buffer.delete(("g", "never"))
    buffer.update(("g", "more"), [operations.increment(by=5)])
    buffer.set(("other", "x"), 1)
    buffer.update(("g", "none"), [operations.remove("x")])
    values = {"none": None, "changed": b"0", "gone": b"0", "more": b"1", "same": b'{"a":1}', "new": None}
    stored = {key: Entry(value) for key, value in values.items()}
    assert buffer.overlay("g", stored) == {"new": 1, "changed": 2, "more": 6, "same": {"a": 1}}
    assert buffer.own_keys("g") == (["new", "changed", "gone", "never", "more", "none"], ["gone", "never"])


def test_a_removal_alone_makes_no_group() -> None:
    buffer = _asked(lambda b: b.update(("g", "x"), [REMOVE]), lambda b: b.update(("h", "x"), [REMOVE, INCREMENT]))
    assert buffer.own_groups() == (["h"], {})


def test_what_turns_out_to_be_no_effect_gives_its_room_back() -> None:
    buffer = units.buffer(effects=1)
    buffer.update(K, [REMOVE])
    buffer.has_read(K, Entry(None))
    buffer.set(("g", "k"), 1)
    assert list(buffer.effects()) == [SetState("g", "k", b"1")]


def test_an_event_has_its_key_its_headers_and_an_id_of_its_own() -> None:
    buffer = units.buffer()
    headers = {"X-Tenant": "acme"}
    ids = [buffer.emit("paid", {"n": n}, Emission(key="ann", headers=headers)) for n in range(2)]
    headers["X-Tenant"] = "changed later"
    assert ids == ["r1.1", "r1.2"]
    assert list(buffer.effects()) == [
        EmitEvent("paid", b'{"n":0}', 1, "ann", {"X-Tenant": "acme"}),
        EmitEvent("paid", b'{"n":1}', 2, "ann", {"X-Tenant": "acme"}),
    ]


def _positive(value: Any) -> None:
    if value <= 0:
        raise payloads.InputInvalid([payloads.Problem("", "expected a positive number", str(value))])


@pytest.mark.parametrize(
    ("call", "kind", "message"),
    [
        pytest.param(
            lambda b: b.emit("other", 1),
            errors.UndeclaredTopic,
            "pay emits 'other', which its config does not declare; declared are paid, positive",
            id="a topic that is not declared",
        ),
        pytest.param(
            lambda b: b.emit("positive", -1),
            errors.PayloadInvalid,
            "event positive: not what its schema says: input: expected a positive number, found -1",
            id="data that does not fit the topic's schema",
        ),
        pytest.param(
            lambda b: b.emit("paid", 1, Emission(key=5)),
            errors.NameInvalid,
            "event paid: key: expected a text, found 5",
            id="a number for an event's key",
        ),
        pytest.param(
            lambda b: b.emit("paid", 1, Emission(key="\ud800")),
            errors.NameInvalid,
            r"key must be valid Unicode, found a lone surrogate in '\ud800'",
            id="a key that is no Unicode",
        ),
        pytest.param(
            lambda b: b.emit("paid", 1, Emission(headers={"x": "a" * 20_000})),
            errors.PayloadTooLarge,
            "event paid: expected at most 16384 bytes of headers and key, found 20001; put other data into the event",
            id="headers that are too large",
        ),
        pytest.param(
            lambda b: b.emit("paid", "x" * 20),
            errors.PayloadTooLarge,
            "event paid: expected at most 20 bytes of JSON, found 22; store the data elsewhere and send a reference",
            id="an event that is too large",
        ),
        pytest.param(
            lambda b: b.set(K, "x" * 20),
            errors.PayloadTooLarge,
            "state stock/apple: expected at most 20 bytes of JSON, found 22; store the data elsewhere and send a "
            "reference",
            id="a value that is too large",
        ),
        pytest.param(
            lambda b: b.update(K, [operations.append("x" * 20)]),
            errors.PayloadTooLarge,
            "state stock/apple: expected at most 20 bytes of JSON, found 22; store the data elsewhere and send a "
            "reference",
            id="a change that is too large",
        ),
        pytest.param(
            lambda b: b.set(("stock", 5), 1),
            errors.NameInvalid,
            "key: expected a text, found 5",
            id="a number for a key",
        ),
        pytest.param(
            lambda b: [b.set(("g", str(n)), 1) for n in range(4)],
            errors.TooManyEffects,
            "pay: expected at most 3 effects in one run, found one more; split the work over several events",
            id="too many effects",
        ),
        pytest.param(
            lambda b: [b.set(("g", str(n)), "x" * 10) for n in range(3)],
            errors.TooManyEffects,
            "pay: expected at most 30 bytes of effects in one run, found 36; split the work over several events",
            id="too many bytes",
        ),
        pytest.param(
            lambda b: [b.update(K, [operations.append("x" * 10)]) for _ in range(3)],
            errors.TooManyEffects,
            "pay: expected at most 30 bytes of effects in one run, found 36; split the work over several events",
            id="too many bytes in blind changes",
        ),
    ],
)
def test_what_cannot_be_an_effect_is_refused_with_these_words(
    call: Callable[[Buffer], Any], kind: type[Exception], message: str
) -> None:
    topics = {"paid": None, "positive": _positive}
    buffer = units.buffer(topics, effects=3, commit_bytes=30, payload_bytes=20)
    with pytest.raises(kind) as caught:
        call(buffer)
    assert str(caught.value) == message


PAST = datetime.datetime.min.replace(tzinfo=datetime.UTC)


@pytest.mark.parametrize(
    ("how", "message"),
    [
        pytest.param(Emission(at=-1e13), "at: expected a time since the year 1, found -10000000000000.0", id="B.C."),
        pytest.param(Emission(at=-1e300), "at: expected a time since the year 1, found -1e+300", id="before all time"),
        pytest.param(
            Emission(at=PAST.replace(tzinfo=datetime.timezone(datetime.timedelta(hours=14)))),
            "at: expected a time since the year 1, found datetime.datetime(1, 1, 1, 0, 0, "
            "tzinfo=datetime.timezone(datetime.timedelta(seconds=50400)))",
            id="before the year 1 in UTC",
        ),
        pytest.param(
            Emission(at=-(10**400)),
            f"at: expected a Unix time or a datetime with a time zone, found {-(10**400)}",
            id="a number that no float can hold",
        ),
        pytest.param(
            Emission(delay=10**400),
            f"delay: expected seconds from 0 on, or a timedelta, found {10**400}",
            id="a delay that no float can hold",
        ),
    ],
)
def test_a_time_that_nobody_can_write_down_is_refused_at_the_call(how: Emission, message: str) -> None:
    buffer = units.buffer({"paid": None})
    with pytest.raises(errors.TimeInvalid) as caught:
        buffer.emit("paid", 1, how)
    assert str(caught.value) == f"event paid: {message}"
    assert list(buffer.effects()) == []


@pytest.mark.parametrize("at", [PAST, -6e10, 0, 1, pytest.param(time.time() - 1e-3, id="just now")])
def test_a_time_that_has_passed_can_be_written_down(at: Any) -> None:
    buffer = units.buffer({"paid": None})
    buffer.emit("paid", 1, Emission(at=at))
    [event] = buffer.effects()
    assert isinstance(event, EmitEvent)
    assert event.at is not None
    assert commits.timestamp(event.at) <= commits.timestamp(time.time())


def test_writing_a_key_again_takes_no_more_room() -> None:
    buffer = units.buffer(effects=1, commit_bytes=20)
    for number in range(10):
        buffer.set(K, "x" * number)
    assert list(buffer.effects()) == [SetState(*K, b'"xxxxxxxxx"')]


def test_a_refused_effect_takes_no_room() -> None:
    buffer = units.buffer(commit_bytes=20)
    for _ in range(3):
        with pytest.raises(errors.TooManyEffects):
            buffer.set(K, "x" * 30)
    buffer.set(K, "x" * 18)


@pytest.mark.parametrize(
    "call",
    [
        pytest.param(sets(1), id="a write"),
        pytest.param(deletes, id="a deletion"),
        pytest.param(updates(INCREMENT), id="a change"),
        pytest.param(emits(1), id="an event"),
        pytest.param(lambda buffer: buffer.check_open(), id="a question"),
    ],
)
def test_a_closed_buffer_takes_nothing(call: Callable[[Buffer], Any]) -> None:
    buffer = units.buffer()
    buffer.closed = "the handler has returned"
    with pytest.raises(errors.RunEnded) as caught:
        call(buffer)
    assert str(caught.value) == "pay: the handler has returned; nothing more can be asked of this context"
    assert list(buffer.effects()) == []


@pytest.fixture
def eager_threads() -> Iterator[None]:
    """Threads that are switched as often as possible."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before)


@pytest.mark.usefixtures("eager_threads")
def test_threads_lose_no_effect_of_each_other() -> None:
    buffer = units.buffer(effects=4000)
    buffer.has_read(K, Entry(None))

    def work(number: int) -> str:
        buffer.update(K, [operations.increment("n")])
        return buffer.emit("paid", number)

    with ThreadPoolExecutor(8) as pool:
        ids = list(pool.map(work, range(2000)))
    written, *events = buffer.effects()
    assert len(set(ids)) == 2000
    assert sorted(orjson.loads(event.data) for event in events) == list(range(2000))
    assert written == SetState(*K, b'{"n":2000}')
