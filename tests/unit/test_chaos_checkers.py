"""The checker of the chaos tests finds what is wrong: a sound history, spoiled in one place at a time."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.chaos import checkers, contents, histories
from tests.chaos.contents import Contents, Entry

ACCOUNTS = ["a0", "a1", "a2"]
Lines = list[dict[str, Any]]


def transfer(name: str, giver: str, taker: str, amount: int, **more: Any) -> dict[str, Any]:
    return {"id": name, "giver": giver, "taker": taker, "amount": amount, "branch": "b0", "page": "p0", **more}


T1 = transfer("t1", "a0", "a1", 100)
T2 = transfer("t2", "a1", "a2", 50)
T3 = transfer("t3", "a2", "a0", 2000)
POISON = transfer("t4", "a0", "a1", -5)


def line(kind: str, **more: Any) -> dict[str, Any]:
    return {"type": kind, "process": "u0", "at": 1.0, **more}


def history() -> Lines:
    """Three transfers, one of them sent twice, one that cannot be paid; a poisonous one; one that was refused."""
    lost = transfer("t5", "a0", "a1", 1)
    return [
        line("plan", accounts=ACCOUNTS, opening=1000, fee=1),
        line("invoke", id="t1", data=T1, order="k"),
        line("ok", id="t1", sequence=1),
        line("invoke", id="t2", data=T2, order="k"),
        line("unknown", id="t2", why="no answer"),
        line("invoke", id="t2", data=T2, order="k"),
        line("ok", id="t2", sequence=3),
        line("invoke", id="t3", data=T3),
        line("ok", id="t3", sequence=4),
        line("invoke", id="t4", data=POISON, poison=True),
        line("ok", id="t4", sequence=5),
        line("invoke", id="t5", data=lost),
        line("fail", id="t5", why="refused"),
    ]


def entry(sequence: int, *words: str, data: Any = None, stored: float = 100.0) -> Entry:
    return Entry(sequence, words, stored, {}, json.dumps(data))


def marker(sequence: int, step: str, run: str, outcome: str = "ok") -> Entry:
    return entry(sequence, "end", step, "event", run, data={"outcome": outcome})


def told(sequence: int, topic: str, data: dict[str, Any], run: str, **more: Any) -> Entry:
    return entry(sequence, "evt", "live", "0", topic, data={**data, "run": run, **more})


def sound() -> Contents:
    return Contents(
        entries=(
            entry(1, "evt", "live", "0", "transfer", data=T1),
            marker(10, "transfer", "r1"),
            told(11, "moved", T1, "r1", confirm_at=90.0),
            marker(12, "transfer", "r2"),
            told(13, "moved", T2, "r2"),
            marker(14, "transfer", "r3"),
            told(15, "refused", T3, "r3"),
            marker(16, "transfer", "r4", "dead"),
            entry(17, "dlq", "transfer", "r4", data=POISON),
            account(18, "a0", 899),
            account(19, "a1", 1049),
            account(20, "a2", 1050),
            entry(21, "state", "fees", "b0", data=2),
            marker(22, "ledger", "l1"),
            marker(23, "ledger", "l2"),
            marker(24, "ledger", "l3"),
            page(PAGE),
            confirmed(26, "t1", stored=90.2),
            confirmations("t1"),
            marker(28, "confirm", "c-t1"),
            entry(47, "state", "statements", "a0", data=[{"id": "t1", "run": "s1"}]),
            entry(48, "state", "statements", "a1", data=[{"id": "t2", "run": "s2"}]),
            marker(49, "statement", "s1"),
            marker(41, "statement", "s2"),
            entry(42, "state", "intake", "p0", data=[{"id": "t1", "run": "i1"}, {"id": "t1", "run": "i2"}]),
            marker(43, "intake", "i1"),
            marker(44, "intake", "i2"),
        ),
        waiting={"transfer": 0, "ledger": 0, "timer": 0},
        replicas=("26 messages", "26 messages", "26 messages"),
    )


def confirmed(sequence: int, name: str, *, stored: float = 100.0, id: str = "r1.2", timer: str = "r1.2") -> Entry:
    """The event of a timer."""
    headers = {"ce-id": id, "Nats-Scheduler": f"bema.shop.timer.{timer}"}
    return replace(entry(sequence, "evt", "live", "0", "confirmed", data={"id": name}, stored=stored), headers=headers)


def confirmations(*done: str) -> Entry:
    """What was confirmed, each by a run of its own for each time."""
    runs = [f"c-{name}" if number == done.index(name) else f"c{number}" for number, name in enumerate(done)]
    noted = [{"id": name, "run": run} for name, run in zip(done, runs, strict=True)]
    return entry(27, "state", "confirmations", "p0", data=noted)


def account(sequence: int, name: str, balance: int) -> Entry:
    return entry(sequence, "state", "accounts", name, data=balance)


PAGE: list[Any] = [
    {"id": "t1", "topic": "moved", "of": "r1", "run": "l1"},
    {"id": "t2", "topic": "moved", "of": "r2", "run": "l2"},
    {"id": "t3", "topic": "refused", "of": "r3", "run": "l3"},
]


def page(entries: list[Any]) -> Entry:
    return entry(25, "state", "ledger", "p0", data=entries)


def violated(lines: Lines, found: Contents) -> set[str]:
    return {check.name for check in checkers.check(lines, found) if check.violations}


def without(found: Contents, *sequences: int) -> Contents:
    return replace(found, entries=tuple(entry for entry in found.entries if entry.sequence not in sequences))


def put(found: Contents, *new: Entry) -> Contents:
    """Entries added, or put in the place of those with their sequences, in the stream's order."""
    kept = without(found, *(entry.sequence for entry in new)).entries
    return replace(found, entries=tuple(sorted((*kept, *new), key=lambda entry: entry.sequence)))


def test_a_sound_bank_violates_nothing_and_everything_was_examined() -> None:
    checks = checkers.check(history(), sound())
    assert [check.name for check in checks if check.violations] == []
    assert [check.name for check in checks if not check.examined] == []


def test_contents_survive_their_file(tmp_path: Path) -> None:
    contents.save(sound(), tmp_path / "contents.json")
    assert contents.load(tmp_path / "contents.json") == sound()


def test_a_history_survives_its_file(tmp_path: Path) -> None:
    recorder = histories.Recorder(tmp_path / "history.jsonl")
    recorder.add("invoke", "u0", id="t1", data=T1)
    recorder.add("ok", "u0", id="t1", sequence=3)
    recorder.close()
    [asked] = histories.asked(histories.read(tmp_path / "history.jsonl")).values()
    assert (asked.data, asked.oks, asked.acknowledged, asked.refused) == (T1, [3], True, False)


LATE = told(30, "moved", T1, "r1")
SPOILED: dict[str, tuple[Callable[[Contents], Contents], set[str]]] = {
    "money from nowhere": (
        lambda c: put(c, account(18, "a0", 900)),
        {"money conserved", "serial"},
    ),
    "money moved between accounts, the sum unchanged": (
        lambda c: put(c, account(18, "a0", 900), account(20, "a2", 1049)),
        {"serial"},
    ),
    "an account below nothing": (
        lambda c: put(c, account(18, "a0", -1), account(20, "a2", 1950)),
        {"money conserved", "serial"},
    ),
    "half a commit: the marker alone": (
        lambda c: without(c, 13),
        {"none lost", "serial", "statements", "fees", "ledger", "markers"},
    ),
    "half a commit: an account was not written": (lambda c: without(c, 20), {"money conserved", "serial"}),
    "an acknowledged transfer lost without a trace": (
        lambda c: without(c, 14, 15),
        {"none lost", "ledger"},
    ),
    "applied twice": (lambda c: put(c, LATE), {"none doubled", "serial", "statements", "fees", "ledger"}),
    "applied though nobody asked": (
        lambda c: put(c, told(30, "refused", {**T3, "id": "t9"}, "r9")),
        {"none invented", "ledger", "markers"},
    ),
    "applied though the broker had refused it": (
        lambda c: put(c, told(30, "refused", transfer("t5", "a0", "a1", 1), "r9")),
        {"none invented", "ledger", "markers"},
    ),
    "applied with another amount": (
        lambda c: put(c, told(15, "refused", {**T3, "amount": 3}, "r3")),
        {"none invented"},
    ),
    "given what was not there": (
        lambda c: put(c, told(15, "moved", T3, "r3")),
        {"serial", "statements", "fees", "ledger"},
    ),
    "a fee lost": (lambda c: put(c, entry(21, "state", "fees", "b0", data=1)), {"money conserved", "fees"}),
    "an entry of the ledger lost": (
        lambda c: put(c, page(PAGE[1:])),
        {"ledger", "markers"},
    ),
    "an entry of the ledger written twice": (
        lambda c: put(c, page([*PAGE, PAGE[0]])),
        {"ledger"},
    ),
    "a dead letter that is no poison": (
        lambda c: put(c, entry(30, "dlq", "transfer", "r3", data=T3)),
        {"dead letters", "markers"},
    ),
    "poison without a dead letter": (lambda c: without(c, 16, 17), {"dead letters"}),
    "poison twice among the dead letters": (
        lambda c: put(c, entry(30, "dlq", "transfer", "r8", data=POISON), marker(31, "transfer", "r8", "dead")),
        {"dead letters"},
    ),
    "a run without a marker": (lambda c: without(c, 12), {"markers"}),
    "a marker without a run": (lambda c: put(c, marker(30, "ledger", "l9")), {"markers"}),
    "an event in nobody's hands": (lambda c: replace(c, waiting={"transfer": 1}), {"settled"}),
    "a replica that holds something else": (
        lambda c: replace(c, replicas=("26 messages", "25 messages", "26 messages")),
        {"replicas agree"},
    ),
    "the order of a key turned round": (
        lambda c: put(without(c, 11), told(14, "moved", T1, "r1", confirm_at=90.0), marker(11, "transfer", "r3")),
        {"order per key"},
    ),
    "a statement in another order, or of another": (
        lambda c: put(
            c,
            entry(47, "state", "statements", "a0", data=[{"id": "t2", "run": "s2"}]),
            entry(48, "state", "statements", "a1", data=[{"id": "t1", "run": "s1"}]),
        ),
        {"statements"},
    ),
    "an event of the intake whose run left no marker": (lambda c: without(c, 43), {"markers"}),
    "a timer that never came": (lambda c: without(c, 26, 27, 28), {"timers"}),
    "a timer whose event nobody has acted on": (lambda c: without(c, 27, 28), {"timers"}),
    "a timer that was acted on without an event": (lambda c: without(c, 26), {"timers"}),
    "a timer that was acted on twice": (
        lambda c: put(c, confirmations("t1", "t1"), marker(29, "confirm", "c1")),
        {"timers"},
    ),
    "a timer sent twice and acted on twice": (
        lambda c: put(c, confirmed(30, "t1"), confirmations("t1", "t1"), marker(29, "confirm", "c1")),
        {"timers"},
    ),
    "a timer whose event was sent again under another id": (lambda c: put(c, confirmed(30, "t1", id="x")), {"timers"}),
    "two timers for one promise": (lambda c: put(c, confirmed(30, "t1", timer="x")), {"timers"}),
    "an event more that no timer has sent": (
        lambda c: put(c, entry(30, "evt", "live", "0", "confirmed", data={"id": "t1"})),
        {"timers"},
    ),
    "a timer that came early": (lambda c: put(c, confirmed(26, "t1", stored=89.9)), {"timers"}),
    "a timer that came early, and once more": (
        lambda c: put(c, confirmed(26, "t1", stored=89.9), confirmed(30, "t1")),
        {"timers"},
    ),
    "a timer that nobody set": (
        lambda c: put(c, confirmed(30, "t2"), confirmations("t1", "t2"), marker(29, "confirm", "c-t2")),
        {"timers"},
    ),
    "a confirmation that nobody was promised, and no timer has sent": (
        lambda c: put(c, confirmations("t1", "t2"), marker(29, "confirm", "c-t2")),
        {"timers"},
    ),
    "a confirmation whose run left no marker": (lambda c: without(c, 28), {"markers"}),
}


@pytest.mark.parametrize(("spoil", "expected"), SPOILED.values(), ids=SPOILED.keys())
def test_what_is_wrong_is_found_and_nothing_else(spoil: Callable[[Contents], Contents], expected: set[str]) -> None:
    assert violated(history(), spoil(sound())) == expected


def test_each_invariant_has_been_seen_violated() -> None:
    assert set().union(*(expected for _, expected in SPOILED.values())) == set(checkers.INVARIANTS)


def test_a_transfer_of_which_nobody_knows_may_have_happened_or_not() -> None:
    lines = [item for item in history() if not (item["type"] == "ok" and item["id"] == "t3")]
    assert violated(lines, sound()) == set()
    assert violated(lines, put(without(sound(), 14, 15, 24), page(PAGE[:2]))) == set()


def test_an_event_that_the_broker_has_sent_again_for_its_timer_is_counted_and_no_violation() -> None:
    again = put(sound(), confirmed(30, "t1"), confirmed(31, "t1"))
    assert violated(history(), again) == set()
    assert checkers.Facts(history(), again).sent_again == 2
    assert checkers.Facts(history(), sound()).sent_again == 0
