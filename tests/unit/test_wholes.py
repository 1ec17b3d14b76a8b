"""What is missing of a commit, told from what lies after its marker in the stream."""

from __future__ import annotations

from typing import Any

import pytest

from bema.ports.jetstream import Outgoing, Stored
from bema_runtime import wholes

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
async def test_what_is_missing_after_the_marker(found: list[Stored], last: int, expected: set[wholes.Key]) -> None:
    log: Any = Log(*found, last=last)
    assert await wholes.missing(log, "S", of("b", MARKER, 4), SECTION) == expected
