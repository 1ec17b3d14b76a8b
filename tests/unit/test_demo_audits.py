"""The audit: that it passes a history in which all went well, and fails every history in which something did not."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from tools.demo import audits
from tools.demo.histories import Charge, Entry, History, Sent
from tools.demo.orderfiles import Kind, Line

PAID = {"order_id": "o-1", "customer": "c", "lines": [{"product": "tea", "quantity": 2}], "total_cents": 1500}
REJECTED = {"order_id": "o-2", "customer": "c", "lines": [{"product": "mug", "quantity": 9}], "total_cents": 9900}
TOO_MUCH = {**PAID, "lines": [{"product": "tea", "quantity": 11}], "status": "paid"}
BROKEN = Line(3, Kind.BROKEN_JSON, '{"order_id"')
WRONG = Line(4, Kind.WRONG_EVENT, '{"order_id":"o-4","lines":"none"}', "order.created")


class Story:
    """A history that can be changed before it is judged. As made, all went well: one paid order, one rejected order,
    one broken request, one wrong event, which is the stream's sequence 50."""

    def __init__(self) -> None:
        self.sent = [
            Sent(Line(1, Kind.ORDER, json.dumps(PAID)), 201),
            Sent(Line(2, Kind.ORDER, json.dumps(REJECTED)), 200, tries=2, unanswered=1),
            Sent(BROKEN, 400),
            Sent(WRONG, sequence=50),
        ]
        self.entries: list[Entry] = []
        self.charges = [Charge("run-1", "o-1", 1500, "p-1")]
        self.state("orders", "o-1", {**PAID, "status": "paid"})
        self.state("orders", "o-2", {**REJECTED, "status": "rejected", "reason": "out of stock: mug"})
        self.state("stock", "tea", 8)
        self.state("payments", "o-1", {"payment_id": "p-1"})
        self.state("notifications", "o-1", [{"topic": "order.paid"}])
        self.state("notifications", "o-2", [{"topic": "order.rejected"}])
        for topic, order_id in (
            ("order.created", "o-1"),
            ("order.created", "o-2"),
            ("order.reserved", "o-1"),
            ("order.paid", "o-1"),
            ("order.rejected", "o-2"),
        ):
            self.event(topic, order_id)
        self.entries.append(Entry(50, ("evt", "live", "0", "order.created"), {}, WRONG.text.encode()))
        self.dead_letter(WRONG.text)

    def put(self, words: tuple[str, ...], data: bytes, headers: dict[str, str] | None = None) -> None:
        self.entries.append(Entry(100 + len(self.entries), words, headers or {}, data))

    def state(self, group: str, key: str, value: Any) -> None:
        self.put(("state", group, key), json.dumps(value).encode())

    def event(self, topic: str, order_id: str) -> None:
        self.put(("evt", "live", "0", topic), json.dumps({"order_id": order_id}).encode())

    def dead_letter(self, text: str, reason: str = "Invalid", run: str = "r-1") -> None:
        self.put(("dlq", "reserve-stock", run), text.encode(), {"Bema-Reason": reason})

    def without(self, *words: str) -> None:
        """Take away what is stored under these words (an event's: topic and order)."""
        kept = [entry for entry in self.entries if not _is(entry, words)]
        assert len(kept) < len(self.entries)
        self.entries = kept

    def judged(self) -> audits.Verdict:
        return audits.audit(History(self.sent, self.entries, self.charges, {"tea": 10, "mug": 3}))


def _is(entry: Entry, words: tuple[str, ...]) -> bool:
    if entry.words[0] == "evt":
        return words == (entry.words[3], json.loads(entry.data).get("order_id"))
    return entry.words[: len(words)] == words


def _violations(verdict: audits.Verdict) -> list[str]:
    return [violation for check in verdict.checks for violation in check.violations]


def test_a_history_in_which_all_went_well_passes() -> None:
    verdict = Story().judged()
    assert _violations(verdict) == []
    assert verdict.passed
    assert verdict.sentence() == "4 sent, 2 accepted, 1 refused, 1 dead-lettered, 0 lost, 0 doubled"
    assert verdict.reasons == {"refused: HTTP 400": 1, "dead-lettered: Invalid": 1}


def test_the_last_value_of_a_key_counts_and_a_deleted_one_is_gone() -> None:
    story = Story()
    story.state("reports", "today", 1)
    story.put(("state", "reports", "today"), b"", {"Bema-Deleted": "1"})
    created = json.dumps({**PAID, "status": "created"}).encode()
    story.entries.insert(0, Entry(1, ("state", "orders", "o-1"), {}, created))
    assert story.judged().passed


def _resend(story: Story, index: int, **changes: Any) -> None:
    story.sent[index] = replace(story.sent[index], **changes)


def _oversell(story: Story) -> None:
    story.state("orders", "o-1", TOO_MUCH)
    story.state("stock", "tea", -1)


def _say_no_reason(story: Story) -> None:
    story.without("dlq")
    story.dead_letter(WRONG.text, reason="")


LOST: dict[str, tuple[Callable[[Story], None], str]] = {
    "a good order was never answered": (
        lambda story: _resend(story, 0, status=None, tries=9, said="ReadTimeout"),
        "o-1: expected 200 or 201, found no answer in 9 tries: ReadTimeout",
    ),
    "an accepted order is not in the broker": (
        lambda story: story.without("state", "orders", "o-1"),
        "o-1: expected paid or rejected, found nothing",
    ),
    "an accepted order emitted nothing": (
        lambda story: story.without("order.created", "o-1"),
        "o-1: expected 1 order.created, found 0",
    ),
    "an accepted order never ended": (
        lambda story: story.state("orders", "o-1", {**PAID, "status": "reserved"}),
        "o-1: expected paid or rejected, found reserved",
    ),
    "the end of an order was not told": (
        lambda story: story.without("order.rejected", "o-2"),
        "o-2: is rejected, expected 1 event that says so, found none",
    ),
    "a customer heard nothing": (
        lambda story: story.without("state", "notifications", "o-2"),
        "o-2: expected 1 notification of its end, found []",
    ),
    "a paid order was not charged": (
        lambda story: story.charges.clear(),
        "o-1: paid, expected 1 charge of 1500, found []",
    ),
    "a broken request was accepted": (
        lambda story: _resend(story, 2, status=201),
        "line 3 (broken-json): expected to be turned away once, found 201",
    ),
    "a broken request broke the server": (
        lambda story: _resend(story, 2, status=500),
        "line 3 (broken-json): expected to be turned away once, found 500",
    ),
    "a wrong event was swallowed": (
        lambda story: story.without("dlq"),
        "line 4 (wrong-event): expected to be turned away once, found nothing",
    ),
}

DOUBLED: dict[str, tuple[Callable[[Story], None], str]] = {
    "an order was taken twice": (
        lambda story: story.event("order.created", "o-1"),
        "o-1: expected 1 order.created, found 2",
    ),
    "an order was paid twice": (
        lambda story: story.event("order.paid", "o-1"),
        "o-1: is paid, expected 1 event that says so, found {'order.paid': 2}",
    ),
    "an order ended in two ways": (
        lambda story: story.event("order.rejected", "o-1"),
        "o-1: is paid, expected 1 event that says so, found {'order.paid': 1, 'order.rejected': 1}",
    ),
    "a customer heard it twice": (
        lambda story: story.state("notifications", "o-1", [{"topic": "order.paid"}] * 2),
        "o-1: expected 1 notification of its end, found ['paid', 'paid']",
    ),
    "an order was charged twice": (
        lambda story: story.charges.append(Charge("run-2", "o-1", 1500, "p-2")),
        "o-1: paid, expected 1 charge of 1500, found [1500, 1500]",
    ),
    "a wrong event was dead-lettered twice": (
        lambda story: story.dead_letter(WRONG.text, run="r-2"),
        "line 4 (wrong-event): expected to be turned away once, "
        "found ['dead-lettered: Invalid', 'dead-lettered: Invalid']",
    ),
}

WRONGED: dict[str, tuple[Callable[[Story], None], str]] = {
    "a good order was refused": (
        lambda story: _resend(story, 1, status=422, said="no"),
        "o-2: expected 200 or 201, found 422 in 2 tries: no",
    ),
    "more was sold than there was": (
        lambda story: story.state("orders", "o-1", TOO_MUCH),
        "tea: 10 at first, 11 sold, expected -1 left, found 8",
    ),
    "the shelf holds less than nothing": (
        _oversell,
        "tea: 10 at first, 11 sold, expected -1 left, found -1",
    ),
    "an update of the stock was lost": (
        lambda story: story.state("stock", "tea", 9),
        "tea: 10 at first, 2 sold, expected 8 left, found 9",
    ),
    "a declined order's stock was not put back": (
        lambda story: story.state("stock", "mug", 2),
        "mug: 3 at first, 0 sold, expected 3 left, found 2",
    ),
    "a customer paid for a rejected order": (
        lambda story: story.charges.append(Charge("run-2", "o-2", 9900, "p-2")),
        "o-2: charged, but rejected",
    ),
    "a customer paid another sum": (
        lambda story: story.charges.__setitem__(0, Charge("run-1", "o-1", 1, "p-1")),
        "o-1: paid, expected 1 charge of 1500, found [1]",
    ),
    "another payment is on record": (
        lambda story: story.state("payments", "o-1", {"payment_id": "p-9"}),
        "o-1: expected payment p-1 on record, found p-9",
    ),
    "the event says another end than the state": (
        lambda story: story.state("orders", "o-2", {**REJECTED, "status": "paid"}),
        "o-2: is paid, expected 1 event that says so, found {'order.rejected': 1}",
    ),
    "a dead letter says no reason": (
        _say_no_reason,
        "line 4 (wrong-event): dead-lettered without a reason",
    ),
    "a good order was dead-lettered": (
        lambda story: story.dead_letter(json.dumps(PAID), "AttemptsExhausted", "r-9"),
        "dlq.reserve-stock.r-9: a good order dead-lettered: AttemptsExhausted: "
        'b\'{"order_id": "o-1", "customer": "c", "lines": [{"product": "tea", "quantity": 2}\'',
    ),
    "there is an order that nobody sent": (
        lambda story: story.state("orders", "o-77", {**REJECTED, "status": "rejected"}),
        "orders/o-77: nobody was told that this order is accepted",
    ),
    "there is an event about an order that nobody sent": (
        lambda story: story.event("order.created", "o-77"),
        "order.created: an event about an order that nobody was told is accepted: o-77",
    ),
}


@pytest.mark.parametrize("what", LOST)
def test_what_is_lost_is_found_and_counted(what: str) -> None:
    change, violation = LOST[what]
    story = Story()
    change(story)
    verdict = story.judged()
    assert violation in _violations(verdict)
    assert (verdict.lost, verdict.doubled) == (1, 0)
    assert not verdict.passed


@pytest.mark.parametrize("what", DOUBLED)
def test_what_is_doubled_is_found_and_counted(what: str) -> None:
    change, violation = DOUBLED[what]
    story = Story()
    change(story)
    verdict = story.judged()
    assert violation in _violations(verdict)
    assert (verdict.lost, verdict.doubled) == (0, 1)
    assert not verdict.passed


@pytest.mark.parametrize("what", WRONGED)
def test_what_is_wrong_is_found(what: str) -> None:
    change, violation = WRONGED[what]
    story = Story()
    change(story)
    verdict = story.judged()
    assert violation in _violations(verdict)
    assert not verdict.passed


def test_every_check_can_fail() -> None:
    failed = set()
    for change, _ in [*LOST.values(), *DOUBLED.values(), *WRONGED.values()]:
        story = Story()
        change(story)
        failed |= {check.title for check in story.judged().checks if check.violations}
    assert failed == {check.title for check in Story().judged().checks}
