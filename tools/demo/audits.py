"""The audit: whether every order ended once, and nothing was lost, doubled or sold twice. Pure.

It believes three outsiders (`histories.History`) and nobody else. Each check lists what violates it; the audit passes
when no check has a violation.
"""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from tools.demo.histories import Charge, Entry, History, Sent
from tools.demo.orderfiles import Kind

FINAL_TOPICS = {"order.paid": "paid", "order.rejected": "rejected"}


@dataclass(frozen=True, slots=True)
class Check:
    """One thing that must hold, and how it went."""

    title: str
    examined: int
    violations: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Verdict:
    """The outcome of an audit. The numbers are counted, each from what was found."""

    checks: tuple[Check, ...]
    sent: int
    accepted: int
    refused: int
    dead_lettered: int
    lost: int
    """Lines whose trace ends somewhere: an accepted order that lacks a step, a malformed line that nobody refused."""
    doubled: int
    """Lines of which something exists twice."""
    reasons: Mapping[str, int]
    """Why malformed lines were turned away, with how many."""

    @property
    def passed(self) -> bool:
        return not any(check.violations for check in self.checks) and not self.lost and not self.doubled

    def sentence(self) -> str:
        return (
            f"{self.sent} sent, {self.accepted} accepted, {self.refused} refused, {self.dead_lettered} dead-lettered, "
            f"{self.lost} lost, {self.doubled} doubled"
        )


class Facts:
    """A history, indexed by order."""

    def __init__(self, history: History) -> None:
        self.history = history
        self.orders = {sent.line.order_id: sent for sent in history.sent if sent.line.kind is Kind.ORDER}
        self.accepted = {order_id: sent for order_id, sent in self.orders.items() if sent.accepted}
        self.malformed = [sent for sent in history.sent if sent.line.kind is not Kind.ORDER]
        self.foreign = {sent.sequence for sent in history.sent if sent.sequence is not None}
        """Sequences of the events that the driver itself put on a topic."""

    @cached_property
    def state(self) -> Mapping[str, Mapping[str, Any]]:
        """Values by group and key: the last message of each subject, unless it says that the key was deleted."""
        groups: dict[str, dict[str, Any]] = defaultdict(dict)
        for entry in sorted(self.history.entries, key=lambda entry: entry.sequence):
            if entry.words[0] != "state":
                continue
            group, key = entry.words[1:]
            if entry.headers.get("Bema-Deleted") == "1" or not entry.data:
                groups[group].pop(key, None)
            else:
                groups[group][key] = json.loads(entry.data)
        return groups

    @cached_property
    def paid(self) -> Mapping[str, Mapping[str, Any]]:
        """Orders that the broker holds as paid."""
        orders = self.state.get("orders", {})
        return {order_id: order for order_id, order in orders.items() if order.get("status") == "paid"}

    @cached_property
    def events(self) -> Mapping[tuple[str, str], int]:
        """How many events there are, by topic and order."""
        counts: Counter[tuple[str, str]] = Counter()
        for entry in self.history.entries:
            if entry.words[0] == "evt" and entry.sequence not in self.foreign:
                counts[entry.words[3], _order_id(entry.data)] += 1
        return counts

    @cached_property
    def dead_letters(self) -> Sequence[Entry]:
        dead = [entry for entry in self.history.entries if entry.words[0] == "dlq"]
        return [entry for entry in dead if "Bema-Deleted" not in entry.headers]

    @cached_property
    def charges(self) -> Mapping[str, Sequence[Charge]]:
        charges: dict[str, list[Charge]] = defaultdict(list)
        for charge in self.history.charges:
            charges[charge.order_id].append(charge)
        return charges

    def order(self, order_id: str) -> Mapping[str, Any]:
        found: Mapping[str, Any] = self.state.get("orders", {}).get(order_id, {})
        return found

    def notifications(self, order_id: str) -> Sequence[Mapping[str, Any]]:
        found: Sequence[Mapping[str, Any]] = self.state.get("notifications", {}).get(order_id, [])
        return found

    def letters_of(self, sent: Sent) -> list[Entry]:
        """The dead letters that hold what a line put on a topic."""
        text = sent.line.text.encode()
        return [entry for entry in self.dead_letters if entry.data == text]


def _order_id(data: bytes) -> str:
    """The order that an event is about."""
    try:
        return str(json.loads(data)["order_id"])
    except (ValueError, KeyError, TypeError):
        return f"unreadable: {data[:80]!r}"


def audit(history: History) -> Verdict:
    """Judge a history."""
    facts = Facts(history)
    judged = {order_id: _flaws(facts, order_id) for order_id in facts.orders}
    turned_away = [_turned_away(facts, sent) for sent in facts.malformed]
    lost = sum(bool(flaws.lost) for flaws in judged.values()) + sum(not ways for ways in turned_away)
    doubled = sum(bool(flaws.doubled) for flaws in judged.values()) + sum(len(ways) > 1 for ways in turned_away)
    return Verdict(
        checks=tuple(
            Check(title, examined, tuple(violations))
            for title, examined, violations in ((title, *check(facts)) for title, check in _CHECKS)
        ),
        sent=len(history.sent),
        accepted=len(facts.accepted),
        refused=sum(sent.refused for sent in history.sent),
        dead_lettered=sum(bool(facts.letters_of(sent)) for sent in facts.malformed),
        lost=lost,
        doubled=doubled,
        reasons=Counter(ways[0] for ways in turned_away if ways),
    )


@dataclass(frozen=True, slots=True)
class _Flaws:
    """What is missing of an order, and what there is too much of."""

    lost: tuple[str, ...]
    doubled: tuple[str, ...]


def _flaws(facts: Facts, order_id: str) -> _Flaws:
    sent = facts.orders[order_id]
    if not sent.accepted:
        return _Flaws(() if sent.refused else ("an answer",), ())
    paid = facts.order(order_id).get("status") == "paid"
    counts = {
        "order.created": facts.events[("order.created", order_id)],
        "final event": sum(facts.events[(topic, order_id)] for topic in FINAL_TOPICS),
        "notification": len(facts.notifications(order_id)),
        **({"charge": len(facts.charges.get(order_id, ()))} if paid else {}),
        "final state": int(facts.order(order_id).get("status") in FINAL_TOPICS.values()),
    }
    lost = tuple(name for name, count in counts.items() if count == 0)
    return _Flaws(lost, tuple(name for name, count in counts.items() if count > 1))


def _turned_away(facts: Facts, sent: Sent) -> list[str]:
    """How a malformed line was turned away, in words; one entry is right, none is lost, more are too many."""
    if sent.line.kind is Kind.WRONG_EVENT:
        return [f"dead-lettered: {_reason(letter)}" for letter in facts.letters_of(sent)]
    return [f"refused: HTTP {sent.status}"] if sent.status in (400, 422) else []


def _reason(letter: Entry) -> str:
    return letter.headers.get("Bema-Reason", "")


_Outcome = tuple[int, Iterator[str]]


def _every_order_accepted(facts: Facts) -> _Outcome:
    return len(facts.orders), (
        f"{order_id}: expected 200 or 201, found {sent.status or 'no answer'} in {sent.tries} tries: {sent.said}"
        for order_id, sent in facts.orders.items()
        if not sent.accepted
    )


def _one_event_each(facts: Facts) -> _Outcome:
    counts = {order_id: facts.events[("order.created", order_id)] for order_id in facts.accepted}
    return len(counts), (f"{order}: expected 1 order.created, found {n}" for order, n in counts.items() if n != 1)


def _one_final_state_each(facts: Facts) -> _Outcome:
    def violations() -> Iterator[str]:
        for order_id in facts.accepted:
            status = facts.order(order_id).get("status", "nothing")
            topics = {topic: n for topic in FINAL_TOPICS if (n := facts.events[(topic, order_id)])}
            if status not in FINAL_TOPICS.values():
                yield f"{order_id}: expected paid or rejected, found {status}"
            if [(FINAL_TOPICS[topic], n) for topic, n in topics.items()] != [(status, 1)]:
                yield f"{order_id}: is {status}, expected 1 event that says so, found {topics or 'none'}"

    return len(facts.accepted), violations()


def _one_notification_each(facts: Facts) -> _Outcome:
    def violations() -> Iterator[str]:
        for order_id in facts.accepted:
            said = [FINAL_TOPICS.get(str(item.get("topic"))) for item in facts.notifications(order_id)]
            if said != [facts.order(order_id).get("status")]:
                yield f"{order_id}: expected 1 notification of its end, found {said}"

    return len(facts.accepted), violations()


def _stock_conserved(facts: Facts) -> _Outcome:
    def violations() -> Iterator[str]:
        for product, initial in facts.history.initial_stock.items():
            sold = sum(_quantity(order, product) for order in facts.paid.values())
            left = facts.state.get("stock", {}).get(product, initial)
            if left != initial - sold or left < 0:
                yield f"{product}: {initial} at first, {sold} sold, expected {initial - sold} left, found {left}"

    return len(facts.history.initial_stock), violations()


def _quantity(order: Mapping[str, Any], product: str) -> int:
    return sum(int(line["quantity"]) for line in order.get("lines", ()) if line["product"] == product)


def _paid_is_charged(facts: Facts) -> _Outcome:
    paid = facts.paid

    def violations() -> Iterator[str]:
        for order_id, order in paid.items():
            charges = facts.charges.get(order_id, ())
            cents = order.get("total_cents")
            if [charge.cents for charge in charges] != [cents]:
                found = [charge.cents for charge in charges]
                yield f"{order_id}: paid, expected 1 charge of {cents}, found {found}"
                continue
            noted = facts.state.get("payments", {}).get(order_id, {}).get("payment_id")
            if noted != charges[0].payment_id:
                yield f"{order_id}: expected payment {charges[0].payment_id} on record, found {noted}"
        for order_id in facts.charges:
            if order_id not in paid:
                yield f"{order_id}: charged, but {facts.order(order_id).get('status', 'unknown')}"

    return len(paid), violations()


def _malformed_turned_away(facts: Facts) -> _Outcome:
    def violations() -> Iterator[str]:
        for sent in facts.malformed:
            ways = _turned_away(facts, sent)
            name = f"line {sent.line.number} ({sent.line.kind})"
            if len(ways) != 1:
                yield f"{name}: expected to be turned away once, found {ways or sent.status or 'nothing'}"
            elif ways[0].endswith(": "):
                yield f"{name}: dead-lettered without a reason"

    return len(facts.malformed), violations()


def _nothing_else(facts: Facts) -> _Outcome:
    def violations() -> Iterator[str]:
        known = facts.accepted.keys()
        for group in ("orders", "payments", "notifications"):
            for order_id in facts.state.get(group, {}):
                if order_id not in known:
                    yield f"{group}/{order_id}: nobody was told that this order is accepted"
        for topic, order_id in facts.events:
            if order_id not in known:
                yield f"{topic}: an event about an order that nobody was told is accepted: {order_id}"
        expected = {letter.sequence for sent in facts.malformed for letter in facts.letters_of(sent)}
        for letter in facts.dead_letters:
            if letter.sequence not in expected:
                yield f"{'.'.join(letter.words)}: a good order dead-lettered: {_reason(letter)}: {letter.data[:80]!r}"

    return len(facts.history.entries), violations()


_CHECKS: tuple[tuple[str, Callable[[Facts], _Outcome]], ...] = (
    ("every good order is accepted", _every_order_accepted),
    ("an accepted order makes one order.created", _one_event_each),
    ("it ends once, as paid or rejected", _one_final_state_each),
    ("its customer is told once", _one_notification_each),
    ("stock at first = sold + left, per product", _stock_conserved),
    ("paid orders = charges at the provider", _paid_is_charged),
    ("malformed: refused or dead-lettered, once", _malformed_turned_away),
    ("the broker holds nothing else", _nothing_else),
)
