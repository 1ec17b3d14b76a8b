"""The checker: what must be true of a bank, whatever happened to it. Pure.

It believes a history and the final contents of the broker, and knows of Bema the documented subjects only. Each
invariant lists what violates it.
"""

from __future__ import annotations

import itertools
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from tests.chaos import histories
from tests.chaos.contents import Contents, Entry
from tests.chaos.histories import Asked, Line


@dataclass(frozen=True, slots=True)
class Violation:
    text: str
    transfer: str | None = None
    """The transfer that it happened to; None for what concerns the whole."""


@dataclass(frozen=True, slots=True)
class Check:
    """One invariant, and how it went."""

    name: str
    examined: int
    """Of how many things it was asked."""
    violations: tuple[Violation, ...]


class Facts:
    """A history and contents, indexed."""

    def __init__(self, lines: Sequence[Line], contents: Contents) -> None:
        self.contents = contents
        self.plan = histories.plan(lines)
        self.asked = histories.asked(lines)

    def events(self, topic: str) -> list[Entry]:
        return [entry for entry in self.contents.entries if entry.words[0] == "evt" and entry.words[3] == topic]

    @cached_property
    def told(self) -> list[tuple[Entry, Mapping[str, Any], bool]]:
        """What the transfer Step said, in the stream's order, with whether money moved."""
        found = [(entry, entry.json(), True) for entry in self.events("moved")]
        found += [(entry, entry.json(), False) for entry in self.events("refused")]
        return sorted(found, key=lambda item: item[0].sequence)

    @cached_property
    def moved(self) -> list[Mapping[str, Any]]:
        return [data for _, data, moved in self.told if moved]

    @cached_property
    def applied(self) -> Counter[str]:
        """How often each transfer was applied, or refused for want of money."""
        return Counter(str(data["id"]) for _, data, _ in self.told)

    @cached_property
    def state(self) -> Mapping[str, Mapping[str, Any]]:
        groups: dict[str, dict[str, Any]] = defaultdict(dict)
        for entry in self.contents.entries:
            if entry.words[0] == "state":
                groups[entry.words[1]][entry.words[2]] = entry.json()
        return groups

    @cached_property
    def balances(self) -> Mapping[str, int]:
        opening = dict.fromkeys(self.plan["accounts"], int(self.plan["opening"]))
        return {**opening, **self.state.get("accounts", {})}

    @cached_property
    def written(self) -> list[Mapping[str, Any]]:
        """The ledger's entries."""
        return [entry for page in self.state.get("ledger", {}).values() for entry in page]

    def noted(self, group: str) -> list[Mapping[str, Any]]:
        """What a Step noted of its runs: of what is taken in, of each giver's statement, and of what was confirmed."""
        return [entry for page in self.state.get(group, {}).values() for entry in page]

    @cached_property
    def confirmed(self) -> Mapping[str, Sequence[Entry]]:
        """The events that confirm a transfer, by its id."""
        found: dict[str, list[Entry]] = defaultdict(list)
        for entry in self.events("confirmed"):
            found[str(entry.json()["id"])].append(entry)
        return found

    @property
    def sent_again(self) -> int:
        """Events that the broker has sent for timers that it had sent before."""
        return sum(len(sent) - 1 for sent in self.confirmed.values())

    @cached_property
    def ends(self) -> Mapping[tuple[str, str], Counter[str]]:
        """How runs ended, by Step and run."""
        found: dict[tuple[str, str], Counter[str]] = defaultdict(Counter)
        for entry in self.contents.entries:
            if entry.words[0] == "end":
                found[entry.words[1], entry.words[3]][str(entry.json()["outcome"])] += 1
        return found

    @cached_property
    def letters(self) -> list[Entry]:
        return [entry for entry in self.contents.entries if entry.words[0] == "dlq"]


Found = Iterator[Violation]


def _conserved(facts: Facts) -> tuple[int, Found]:
    def find() -> Found:
        expected = len(facts.plan["accounts"]) * int(facts.plan["opening"])
        balances, fees = sum(facts.balances.values()), sum(facts.state.get("fees", {}).values())
        if balances + fees != expected:
            yield Violation(f"expected {expected} in all accounts and fees, found {balances} + {fees}")
        for account, balance in facts.balances.items():
            if balance < 0:
                yield Violation(f"account {account} has {balance}")

    return len(facts.balances), find()


def _not_lost(facts: Facts) -> tuple[int, Found]:
    expected = {name: asked for name, asked in facts.asked.items() if asked.acknowledged and not asked.poison}
    missing = (name for name in expected if not facts.applied[name])
    return len(expected), (Violation(f"{name} was acknowledged and never applied", name) for name in missing)


def _not_doubled(facts: Facts) -> tuple[int, Found]:
    twice = (name for name, times in facts.applied.items() if times > 1)
    return len(facts.applied), (Violation(f"{name} was applied {facts.applied[name]} times", name) for name in twice)


def _nothing_else(facts: Facts) -> tuple[int, Found]:
    def find() -> Found:
        for _, data, _ in facts.told:
            asked = facts.asked.get(str(data["id"]))
            if asked is None:
                yield Violation(f"{data['id']} was applied and nobody asked for it", str(data["id"]))
            elif asked.refused or asked.poison:
                why = "poison" if asked.poison else "refused every time"
                yield Violation(f"{data['id']} was applied though it was {why}", str(data["id"]))
            elif any(data.get(key) != value for key, value in asked.data.items()):
                yield Violation(f"{data['id']} was applied as {data}, expected {asked.data}", str(data["id"]))

    return len(facts.told), find()


def _serial(facts: Facts) -> tuple[int, Found]:
    """Applied one after the other, in the stream's order, the transfers give the balances, and nobody gave what he had
    not. Who was refused had read, and not written: that is not guarded, and may be old."""

    def find() -> Found:
        fee, balances = int(facts.plan["fee"]), dict.fromkeys(facts.plan["accounts"], int(facts.plan["opening"]))
        for _, data, moved in facts.told:
            if not moved:
                continue
            if balances[data["giver"]] < data["amount"] + fee:
                yield Violation(f"{data['id']} gave {data['amount']}, found {balances[data['giver']]}", data["id"])
            balances[data["giver"]] -= data["amount"] + fee
            balances[data["taker"]] += data["amount"]
        for account, balance in balances.items():
            if facts.balances[account] != balance:
                yield Violation(
                    f"account {account}: expected {balance} by its transfers, found {facts.balances[account]}"
                )

    return len(facts.told), find()


def _fees(facts: Facts) -> tuple[int, Found]:
    def find() -> Found:
        expected = Counter(dict.fromkeys(facts.state.get("fees", {}), 0))
        for data in facts.moved:
            expected[data["branch"]] += int(facts.plan["fee"])
        for branch, fees in expected.items():
            if (found := facts.state.get("fees", {}).get(branch, 0)) != fees:
                yield Violation(f"branch {branch}: expected fees of {fees}, found {found}")

    return len(facts.moved), find()


def _ledger(facts: Facts) -> tuple[int, Found]:
    def find() -> Found:
        expected = Counter((str(data["id"]), "moved" if moved else "refused") for _, data, moved in facts.told)
        found = Counter((str(entry["id"]), str(entry["topic"])) for entry in facts.written)
        for pair in expected.keys() | found.keys():
            if expected[pair] != found[pair]:
                yield Violation(f"{pair[0]} {pair[1]} {expected[pair]} times, in the ledger {found[pair]}", pair[0])

    return len(facts.written), find()


def _dead_letters(facts: Facts) -> tuple[int, Found]:
    def find() -> Found:
        found: Counter[str] = Counter()
        for letter in facts.letters:
            data = letter.json()
            name = str(data.get("id")) if isinstance(data, dict) else "?"
            found[name] += 1
            if letter.words[1] != "transfer" or name not in facts.asked or not facts.asked[name].poison:
                why = letter.headers.get("Bema-Errors", "")[:300]
                yield Violation(f"{name} is a dead letter of {letter.words[1]} and no poison: {why}", name)
        for name, asked in facts.asked.items():
            if asked.poison and (found[name] > 1 or (asked.acknowledged and not found[name])):
                yield Violation(f"{name} is poison: expected one dead letter, found {found[name]}", name)

    return len(facts.letters), find()


def _markers(facts: Facts) -> tuple[int, Found]:
    """Each run that left something left its marker, and each marker has a run that left something."""

    def find() -> Found:
        expected = Counter({("transfer", str(data["run"]), "ok"): 1 for _, data, _ in facts.told})
        expected += Counter({("ledger", str(entry["run"]), "ok"): 1 for entry in facts.written})
        expected += Counter({("intake", str(entry["run"]), "ok"): 1 for entry in facts.noted("intake")})
        expected += Counter({("confirm", str(entry["run"]), "ok"): 1 for entry in facts.noted("confirmations")})
        expected += Counter({("statement", str(entry["run"]), "ok"): 1 for entry in facts.noted("statements")})
        expected += Counter({(letter.words[1], letter.words[2], "dead"): 1 for letter in facts.letters})
        found = Counter(
            {(*run, outcome): times for run, outcomes in facts.ends.items() for outcome, times in outcomes.items()}
        )
        for key in expected.keys() | found.keys():
            if expected[key] != found[key]:
                yield Violation(
                    f"{key[0]} run {key[1]} ({key[2]}): expected {expected[key]} markers, found {found[key]}"
                )

    return sum(sum(outcomes.values()) for outcomes in facts.ends.values()), find()


def _settled(facts: Facts) -> tuple[int, Found]:
    left = {name: count for name, count in facts.contents.waiting.items() if count}
    return len(facts.contents.waiting), (Violation(f"{count} still waiting: {name}") for name, count in left.items())


def _replicas(facts: Facts) -> tuple[int, Found]:
    copies = facts.contents.replicas
    differ = [f"the replicas differ: {', '.join(copies)}"] if len(set(copies)) > 1 else []
    return len(copies), (Violation(text) for text in differ)


def _order(facts: Facts) -> tuple[int, Found]:
    """Transfers that ask for an order are applied in the order in which the broker stored them."""
    ordered: dict[str, list[tuple[int, str]]] = defaultdict(list)
    for name, asked in facts.asked.items():
        if asked.order is not None and asked.oks:
            ordered[asked.order].append((min(asked.oks), name))
    place = {str(data["id"]): entry.sequence for entry, data, _ in reversed(facts.told)}

    def find() -> Found:
        for key, transfers in ordered.items():
            names = [name for _, name in sorted(transfers) if name in place]
            for one, other in itertools.pairwise(names):
                if place[one] > place[other]:
                    yield Violation(f"{key}: {one} was stored before {other}, and applied after it", other)

    return sum(map(len, ordered.values())), find()


def _statements(facts: Facts) -> tuple[int, Found]:
    """What moved is on its giver's statement, in the order in which it moved."""
    moved: dict[str, list[str]] = defaultdict(list)
    for data in facts.moved:
        moved[str(data["giver"])].append(str(data["id"]))
    found = {giver: [str(each["id"]) for each in page] for giver, page in facts.state.get("statements", {}).items()}

    def find() -> Found:
        for giver in moved.keys() | found.keys():
            if moved[giver] != found.get(giver, []):
                yield Violation(f"{giver}: expected {moved[giver]} in this order, found {found.get(giver, [])}")

    return len(found), find()


def _timers(facts: Facts) -> tuple[int, Found]:
    """What was promised for later was done once, and never early. The broker may send a timer more than once, when it
    was killed: each time the same event, in the name of the same timer."""
    promised = {str(data["id"]): float(data["confirm_at"]) for data in facts.moved if "confirm_at" in data}
    done = Counter(str(entry["id"]) for entry in facts.noted("confirmations"))

    def find() -> Found:
        for name in promised.keys() | facts.confirmed.keys() | done.keys():
            sent, expected = facts.confirmed.get(name, []), int(name in promised)
            if done[name] != expected or bool(sent) != bool(expected):
                yield Violation(
                    f"{name}: expected {expected} confirmations, found {done[name]} after {len(sent)} events", name
                )
            elif len(sent) > 1 and (None in (origins := set(map(_origin, sent))) or len(origins) > 1):
                yield Violation(f"{name}: expected events of one timer, found {sorted(map(str, origins))}", name)
            elif sent and (early := promised[name] - min(entry.stored for entry in sent)) > 0:
                yield Violation(f"{name} was confirmed {early:.3f} s early", name)

    return len(promised), find()


def _origin(entry: Entry) -> tuple[str, str] | None:
    """The id of an event that a timer sent, and the timer."""
    id, timer = entry.headers.get("ce-id"), entry.headers.get("Nats-Scheduler")
    return (id, timer) if id and timer else None


INVARIANTS: Mapping[str, Callable[[Facts], tuple[int, Found]]] = {
    "money conserved": _conserved,
    "none lost": _not_lost,
    "none doubled": _not_doubled,
    "none invented": _nothing_else,
    "serial": _serial,
    "fees": _fees,
    "ledger": _ledger,
    "dead letters": _dead_letters,
    "markers": _markers,
    "settled": _settled,
    "replicas agree": _replicas,
    "order per key": _order,
    "statements": _statements,
    "timers": _timers,
}


def check(lines: Sequence[Line], contents: Contents) -> list[Check]:
    """All invariants, in their order. One that had nothing to examine is there too, and says so."""
    facts = Facts(lines, contents)
    checks = []
    for name, invariant in INVARIANTS.items():
        examined, found = invariant(facts)
        checks.append(Check(name, examined, tuple(found)))
    return checks


def unknowns(asked: Mapping[str, Asked]) -> int:
    """Transfers of which nobody knows whether they were stored."""
    return sum(not transfer.acknowledged and not transfer.refused for transfer in asked.values())
