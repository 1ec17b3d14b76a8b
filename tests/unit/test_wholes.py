"""What is missing of a commit, told from what lies after its marker in the stream."""

from __future__ import annotations

from typing import Any

import pytest

from bema.contract import errors
from bema.ports.jetstream import WRONG_SEQUENCE, Outgoing, Stored
from bema_runtime import wholes
from bema_runtime.commits import Commit, RunOutcome
from tests.support import units

SECTION = [
    Outgoing("end.a", b""),
    Outgoing("state.k", b""),
    Outgoing("evt.t", b"", {"ce-id": "1"}),
    Outgoing("evt.t", b"", {"ce-id": "2"}),
]
STATE, FIRST, SECOND = ("state.k", None), ("evt.t", "1"), ("evt.t", "2")
MARKER = 10


class Log:
    """What a stream holds, asked as a stream is."""

    def __init__(self, *stored: Stored, last: int) -> None:
        self._stored = stored
        self._last = last

    async def get_next(self, stream: str, subject_filter: str, *, start: int) -> Stored | None:
        return next((found for found in self._stored if found.sequence >= start), None)

    async def api(self, endpoint: str, request: Any = None) -> Any:
        return {"state": {"last_seq": self._last}}


def of(batch: str, sequence: int, place: int, *, commit: bool = False, sent_by: str = "") -> Stored:
    headers = {"Nats-Batch-Id": batch, "Nats-Batch-Sequence": str(place)}
    headers |= {"Nats-Batch-Commit": "1"} if commit else {}
    return Stored("", sequence, "", b"", {**headers, **({"Nats-Scheduler": sent_by} if sent_by else {})})


def plain(sequence: int) -> Stored:
    return Stored("", sequence, "", b"", {})


@pytest.mark.parametrize(
    ("found", "last", "expected"),
    [
        pytest.param([of("b", 11, 5), of("b", 12, 6), of("b", 13, 7)], 20, set(), id="all of it"),
        pytest.param([of("b", 13, 7)], 20, set(), id="all of it, what was written over is gone"),
        pytest.param([of("b", 12, 6, commit=True)], 12, set(), id="the end of its batch"),
        pytest.param([of("b", 12, 6), of("c", 13, 1)], 20, {SECOND}, id="all but the last"),
        pytest.param([of("b", 11, 5), of("c", 12, 1)], 20, {FIRST, SECOND}, id="another batch after the first message"),
        pytest.param([of("c", 14, 4)], 20, {STATE, FIRST, SECOND}, id="another batch whose beginning is gone"),
        pytest.param([of("c", 14, 1)], 20, set(), id="another batch after all of it, which is gone"),
        pytest.param([plain(12)], 20, {FIRST, SECOND}, id="something that came alone"),
        pytest.param([of("b", 12, 3, sent_by="timer.x")], 20, {FIRST, SECOND}, id="an event of one of its own timers"),
        pytest.param([], 11, {FIRST, SECOND}, id="the end of the stream"),
        pytest.param([of("b", 12, 6)], 12, {SECOND}, id="the end of the stream, before the last"),
        pytest.param([], 13, set(), id="the end of the stream, after all of it"),
        pytest.param([], 10, {STATE, FIRST, SECOND}, id="nothing after the marker"),
    ],
)
async def test_what_is_missing_of_a_commit(found: list[Stored], last: int, expected: set[wholes.Key]) -> None:
    log: Any = Log(*found, last=last)
    assert await wholes.missing(log, "S", of("b", MARKER, 4), SECTION) == expected


@pytest.mark.parametrize(("last", "expected"), [(11, {FIRST, SECOND}), (12, {SECOND}), (13, set())])
async def test_what_is_missing_may_be_told_from_a_later_message(last: int, expected: set[wholes.Key]) -> None:
    log: Any = Log(last=last)
    assert await wholes.missing(log, "S", of("b", MARKER + 1, 5), SECTION, place=1) == expected


class Store(Log):
    """A stream that takes so many messages of each batch, and gives no answer. `followed`: by one of somebody else."""

    def __init__(self, *takes: int, followed: bool = False) -> None:
        super().__init__(Stored("end.a", 1, "", b"", {"Nats-Batch-Id": "b", "Nats-Batch-Sequence": "1"}), last=1)
        self._takes = list(takes)
        self._followed = followed
        self.answer: errors.BrokerError = errors.BrokerUnavailable("no answer")
        self.batches: list[list[wholes.Key]] = []

    async def get_last(self, stream: str, subject: str) -> Stored | None:
        return next((found for found in reversed(self._stored) if found.subject == subject), None)

    async def publish_batch(self, messages: list[Outgoing], *, id: str, always: bool) -> int:
        self.batches.append([wholes.key(message) for message in messages])
        for place, message in enumerate(messages[: self._takes.pop(0)], start=1):
            self._last += 1
            headers = {"Nats-Batch-Id": id, "Nats-Batch-Sequence": str(place)}
            headers |= {"Nats-Batch-Commit": "1"} if place == len(messages) else {}
            self._stored += (Stored(message.subject, self._last, "", b"", {**message.headers, **headers}),)
        if self._followed:
            self._last += 1
            self._stored += (plain(self._last),)
        raise self.answer


async def store_all(log: Any, section: list[Outgoing]) -> None:
    async def prepare() -> list[Outgoing]:
        return section

    commit = Commit(units.run(), RunOutcome.OK, [])
    commit.sent["b"] = section
    rest = wholes.Rest(log, "S", commit, [log._stored[0]])
    while True:
        try:
            await rest.store(prepare)
        except errors.BrokerError:
            continue
        return


async def test_the_rest_is_sent_until_all_of_it_is_there() -> None:
    log = Store(0, 2, 0, 1)
    await store_all(log, SECTION)
    assert log.batches == [[STATE, FIRST, SECOND], [STATE, FIRST, SECOND], [SECOND], [SECOND]]


async def test_of_several_messages_on_one_subject_none_is_sent_twice() -> None:
    log = Store(1, 1)
    await store_all(log, [SECTION[0], *SECTION[2:]])
    assert log.batches == [[FIRST, SECOND], [SECOND]]


async def test_of_several_messages_on_one_subject_none_is_sent_again_once_others_follow() -> None:
    log = Store(2, followed=True)
    await store_all(log, [SECTION[0], *SECTION[2:]])
    assert log.batches == [[FIRST, SECOND]]


async def test_what_others_have_changed_is_given_up_and_said(caplog: pytest.LogCaptureFixture) -> None:
    log = Store(*[0] * 100)
    log.answer = errors.BrokerRefused(WRONG_SEQUENCE[0], "wrong last sequence")
    await store_all(log, SECTION)
    assert len(log.batches) == wholes.MOST_REFUSALS
    assert [record.message for record in caplog.records] == [
        "The server has stored a part of a commit only; storing the rest",
        "The rest of a commit cannot be stored: somebody has changed what it is for",
    ]
