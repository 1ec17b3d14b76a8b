"""Lines of logs: read, chosen, brought in order, and never told twice."""

from __future__ import annotations

import json
from typing import Any

import pytest

from bema_cli import log_lines
from bema_cli.log_lines import Choice, Line, Position

SECOND = log_lines.NANOS


def line(at: int, pod: str = "p", text: str = "", **record: Any) -> Line:
    return Line(pod, at, text or json.dumps(record), record or None)


@pytest.mark.parametrize(
    ("stamp", "expected"),
    [
        ("1970-01-01T00:00:01Z", SECOND),
        ("1970-01-01T00:00:01.5Z", SECOND + 500_000_000),
        ("1970-01-01T01:00:00.000000001+01:00", 1),
        ("1970-01-01T00:00:00.123456789Z", 123_456_789),
        ("unable", None),
    ],
)
def test_times_to_the_nanosecond(stamp: str, expected: int | None) -> None:
    assert log_lines.nanos(stamp) == expected


def test_a_record_and_another_line() -> None:
    record = log_lines.parse("p", b'1970-01-01T00:00:00.5Z {"level":"INFO","message":"hi"}')
    assert record is not None
    assert (record.time, record.record) == ("1970-01-01T00:00:00.500Z", {"level": "INFO", "message": "hi"})
    for text in ("plain words", "{not json", '{"no": "message"}', "[1]", ""):
        found = log_lines.parse("p", f"1970-01-01T00:00:00Z {text}".encode())
        assert found is not None
        assert (found.text, found.record) == (text, None)
    assert log_lines.parse("p", b"1970-01-0") is None


TRACE = "0af7651916cd43dd8448eb211c80319c"


@pytest.mark.parametrize(
    ("choice", "found", "takes"),
    [
        (Choice(), line(1, text="plain"), True),
        (Choice(since=2), line(1, message="m"), False),
        (Choice(since=1), line(1, message="m"), True),
        (Choice(level="warning"), line(1, message="m", level="INFO"), False),
        (Choice(level="warning"), line(1, message="m", level="ERROR"), True),
        (Choice(level="DEBUG"), line(1, text="plain"), False),
        (Choice(trace=TRACE), line(1, message="m", trace=TRACE), True),
        (Choice(trace=TRACE[-8:]), line(1, message="m", trace=TRACE), True),
        (Choice(trace=TRACE[:8]), line(1, message="m", trace=TRACE), False),
        (Choice(trace=TRACE), line(1, message="m"), False),
        (Choice(trace=TRACE, level="ERROR"), line(1, message="m", trace=TRACE, level="INFO"), False),
    ],
)
def test_which_lines_are_taken(choice: Choice, found: Line, takes: bool) -> None:
    assert choice.takes(found) is takes


def test_pods_are_merged_by_time_and_each_stays_in_its_own_order() -> None:
    first = [line(1, "a", message="1"), line(5, "a", message="5"), line(4, "a", message="4, after 5")]
    second = [line(2, "b", message="2"), line(5, "b", message="5, b")]
    found = [(item.pod, item.at) for item in log_lines.merged([first, second])]
    assert found == [("a", 1), ("b", 2), ("a", 5), ("a", 4), ("b", 5)]


def test_the_last_lines() -> None:
    lines = [line(at) for at in range(5)]
    assert [item.at for item in log_lines.last(lines, 2)] == [3, 4]
    assert log_lines.last(lines, 0) == []
    assert log_lines.last(lines, 9) == log_lines.last(lines, None) == lines


def test_a_log_that_is_read_again_tells_nothing_twice_and_nothing_less() -> None:
    position = Position()
    before = [line(1, text="a"), line(2, text="b"), line(2, text="c")]
    assert all(position.passes(item) for item in before)
    again = [line(1, text="a"), line(2, text="b"), line(2, text="c"), line(2, text="d"), line(3, text="e")]
    position.rewind()
    assert [item.text for item in again if position.passes(item)] == ["d", "e"]
    position.rewind()
    assert [item.text for item in [*again, line(3, text="f")] if position.passes(item)] == ["f"]


def test_since_is_asked_in_whole_seconds_before() -> None:
    assert log_lines.since_time(SECOND + 999_999_999) == "1970-01-01T00:00:01Z"


def test_for_programs() -> None:
    assert log_lines.plain(Line("p", 1, "", {"message": "m", "pod": "mine"})) == {"pod": "p", "message": "m"}
    assert log_lines.plain(line(0, "p", text="x")) == {"pod": "p", "time": "1970-01-01T00:00:00.000Z", "text": "x"}
