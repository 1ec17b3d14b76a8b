"""Dead letters, pure: what their headers say, which are meant, what a redrive and an edit carry on."""

from __future__ import annotations

import dataclasses
import datetime

import pytest

from bema.contract import errors, letters
from bema.contract.letters import DeadLetter, Filter

HEADERS = {
    "X-Tenant": "acme",
    "ce-specversion": "1.0",
    "ce-id": "e%E2%98%83",
    "ce-type": "order.created",
    "ce-source": "/test",
    "ce-time": "2026-01-01T00:00:00Z",
    "content-type": "application/json",
    "ce-partitionkey": "ann",
    "traceparent": f"00-{'a' * 32}-{'b' * 16}-01",
    "Bema-Run": "r1",
    "Bema-Attempt": "3",
    "Bema-Reason": "AttemptsExhausted",
    "Bema-Kind": "event",
    "Bema-Errors": '[{"attempt":2,"type":"KeyError","message":"x"},{"attempt":3,"type":"IOError","message":"No Disk"}]',
    "Nats-Batch-Id": "b",
    "Nats-Batch-Sequence": "2",
    "Nats-Batch-Commit": "1",
}


def letter(more: dict[str, str] | None = None, *, run: str = "r1", data: bytes = b'{"id": 1}') -> DeadLetter:
    headers = {**HEADERS, **(more or {})}
    return letters.dead_letter("pay", run, headers, sequence=9, stored="2026-01-02T10:00:00.5Z", data=data)


def test_a_dead_letter_says_what_happened() -> None:
    expected = {
        "step": "pay",
        "run": "r1",
        "kind": "event",
        "topic": "order.created",
        "event": "e☃",
        "source": "/test",
        "key": "ann",
        "reason": "AttemptsExhausted",
        "attempts": 3,
        "time": "2026-01-02T10:00:00.5Z",
        "edited": None,
        "trace": "a" * 32,
        "ancestors": [],
        "errors": [
            {"attempt": 2, "type": "KeyError", "message": "x"},
            {"attempt": 3, "type": "IOError", "message": "No Disk"},
        ],
        "headers": {"X-Tenant": "acme"},
        "size": 9,
        "omitted": None,
        "sequence": 9,
        "data": b'{"id": 1}',
        "raw": HEADERS,
    }
    found = letter()
    assert {field.name: getattr(found, field.name) for field in dataclasses.fields(found)} == expected
    short = letters.summary("pay", "r1", HEADERS, sequence=9, stored="2026-01-02T10:00:00.5Z", size=9)
    assert {field.name: getattr(short, field.name) for field in dataclasses.fields(short)} == {
        name: value for name, value in expected.items() if name not in ("data", "raw")
    }


def test_headers_that_say_nothing_are_nothing() -> None:
    found = letters.dead_letter("pay", "r1", {"Bema-Errors": "[", "Bema-Attempt": "x"}, sequence=1, stored="", data=b"")
    assert (found.kind, found.topic, found.event, found.attempts, found.errors, found.trace, found.last_error) == (
        "event",
        None,
        None,
        0,
        [],
        None,
        None,
    )


@pytest.mark.parametrize(
    ("header", "expected"),
    [
        pytest.param(None, [], id="an event's run has none"),
        pytest.param("r1", ["r1"], id="a first redrive has the event's run"),
        pytest.param("r1~1", ["r1~1", "r1"], id="a second one has both"),
        pytest.param("r1~3", ["r1~3", "r1~2", "r1~1", "r1"], id="and so on, the latest first"),
    ],
)
def test_the_runs_before_a_redrive(header: str | None, expected: list[str]) -> None:
    assert letter({"Bema-Ancestor": header} if header else None).ancestors == expected


def at(text: str) -> datetime.datetime:
    return letters.moment(text)


@pytest.mark.parametrize(
    ("wanted", "expected"),
    [
        pytest.param(Filter(), True, id="nothing is asked"),
        pytest.param(Filter(step="pay"), True, id="its Step"),
        pytest.param(Filter(step="ship"), False, id="another Step"),
        pytest.param(Filter(topic="order.created"), True, id="its topic"),
        pytest.param(Filter(topic="order"), False, id="another topic"),
        pytest.param(Filter(reason="AttemptsExhausted"), True, id="its reason"),
        pytest.param(Filter(reason="Invalid"), False, id="another reason"),
        pytest.param(Filter(since=at("2026-01-02T10:00:00.5Z")), True, id="since its very time"),
        pytest.param(Filter(since=at("2026-01-02T10:00:00.6Z")), False, id="since later"),
        pytest.param(Filter(until=at("2026-01-02T11:00:00.6+01:00")), True, id="until later, in another zone"),
        pytest.param(Filter(until=at("2026-01-02T10:00:00.5Z")), False, id="until its very time"),
        pytest.param(Filter(error="ioerr"), True, id="a part of the last error's type"),
        pytest.param(Filter(error="no disk"), True, id="a part of the last error's message"),
        pytest.param(Filter(error="KeyError"), False, id="an error that was not the last"),
        pytest.param(Filter(step="pay", reason="Invalid"), False, id="not all of what is asked"),
    ],
)
def test_which_dead_letters_are_meant(wanted: Filter, expected: bool) -> None:
    assert wanted.matches(letter()) is expected


def test_a_letter_without_errors_has_none_that_could_match() -> None:
    assert not Filter(error="None").matches(letter({"Bema-Errors": "[]"}))


EVENT = {name: value for name, value in HEADERS.items() if not name.startswith(("Nats-", "Bema-"))}


def test_a_redrive_carries_the_event_and_begins_anew() -> None:
    found = letters.redriven(letter({"Bema-Ancestor": "r1", "Bema-Omitted": "3"}, run="r1~1"), "r1~2")
    assert found == {**EVENT, "Bema-Run": "r1~2", "Bema-Attempt": "1", "Bema-Ancestor": "r1~1"}


def test_an_edit_keeps_everything_but_the_data() -> None:
    once = letters.edited(letter({"Bema-Omitted": "3"}), "2026-01-03T00:00:00Z")
    kept = {name: value for name, value in HEADERS.items() if not name.startswith("Nats-")}
    assert once == {**kept, "Bema-Died": "2026-01-02T10:00:00.5Z", "Bema-Edited": "2026-01-03T00:00:00Z"}
    edited = letters.dead_letter("pay", "r1", once, sequence=10, stored="2026-01-03T00:00:00.1Z", data=b"")
    assert (edited.time, edited.edited) == ("2026-01-02T10:00:00.5Z", "2026-01-03T00:00:00Z")
    again = letters.edited(edited, "2026-01-04T00:00:00Z")
    assert again == {**once, "Bema-Edited": "2026-01-04T00:00:00Z"}


@pytest.mark.parametrize(
    ("kind", "said"),
    [
        pytest.param(
            "cron",
            r"run r1 was started by a schedule: expected an event to send again, found none; start the job by hand "
            r"\(kubectl create job --from=cronjob/pay pay-by-hand\), then discard the dead letter",
            id="a tick has no event",
        ),
        pytest.param("api", "expected a run that an event started, found one of kind 'api'", id="nor has a request"),
    ],
)
def test_only_events_can_be_sent_again(kind: str, said: str) -> None:
    with pytest.raises(errors.NotRedrivable, match=said):
        letters.check_kind(letter({"Bema-Kind": kind}))
    letters.check_kind(letter())


@pytest.mark.parametrize("data", [b"", b"{", b"\xff", b"NaN", b"[Infinity]"])
def test_data_that_is_no_json_is_refused(data: bytes) -> None:
    with pytest.raises(errors.PayloadInvalid, match="expected JSON, found"):
        letters.check_data(data)


def test_data_has_a_limit() -> None:
    letters.check_data(b'"%b"' % (b"x" * (768 * 1024 - 2)))
    with pytest.raises(errors.PayloadTooLarge, match="expected at most 786,432 bytes of data, found 786,433"):
        letters.check_data(b'"%b"' % (b"x" * (768 * 1024 - 1)))
