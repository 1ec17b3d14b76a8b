"""The file of orders: made from a seed, committed, sent line by line.

A line is one word and one text, exactly as it is sent. The word says what the text is:

    order {…}                     a good order, for POST /orders
    broken-json {…                no JSON, for POST /orders
    wrong-types {…}               JSON of the wrong shape, for POST /orders
    wrong-event:order.paid {…     put straight on a topic, past every check of the front door

A shorter file is the beginning of a longer one.
"""

from __future__ import annotations

import json
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

SEED = 20260
EVERY = 33
"""Every so many lines comes a malformed one: 3 %."""

_PRODUCTS = ("espresso", "filter", "tea", "mug", "kettle")
_WEIGHTS = (8, 6, 4, 3, 1)


class Kind(StrEnum):
    """What a line is. All but the first are malformed."""

    ORDER = "order"
    BROKEN_JSON = "broken-json"
    WRONG_TYPES = "wrong-types"
    WRONG_EVENT = "wrong-event"


@dataclass(frozen=True, slots=True)
class Line:
    """One line of the file."""

    number: int
    """From 1."""
    kind: Kind
    text: str
    topic: str | None = None
    """Where a wrong event goes."""

    @property
    def order_id(self) -> str:
        """The id of a good order."""
        return str(json.loads(self.text)["order_id"])

    def to_text(self) -> str:
        word = self.kind if self.topic is None else f"{self.kind}:{self.topic}"
        return f"{word} {self.text}"


def generate(count: int, *, seed: int = SEED) -> Iterator[Line]:
    """`count` lines, the same for the same seed."""
    chance = random.Random(seed)
    malformed = 0
    for number in range(1, count + 1):
        order = _order(number, chance)
        if number % EVERY == EVERY // 2:
            yield _malformed(number, malformed, order)
            malformed += 1
        else:
            yield Line(number, Kind.ORDER, _compact(order))


def parse(text: str) -> list[Line]:
    """The lines of a file's text."""
    return [_parse(number, line) for number, line in enumerate(text.splitlines(), start=1)]


def load(path: Path, count: int | None = None) -> list[Line]:
    """The first `count` lines of a file. Raises `ValueError` when it has fewer."""
    lines = parse(path.read_text(encoding="utf-8"))
    if count is not None and count > len(lines):
        raise ValueError(f"expected at least {count} lines in {path}, found {len(lines)}")
    return lines[:count]


def dump(lines: Sequence[Line]) -> str:
    """The text of a file."""
    return "".join(f"{line.to_text()}\n" for line in lines)


def _parse(number: int, line: str) -> Line:
    word, _, text = line.partition(" ")
    kind, _, topic = word.partition(":")
    return Line(number, Kind(kind), text, topic or None)


def _order(number: int, chance: random.Random) -> dict[str, object]:
    products = chance.choices(_PRODUCTS, _WEIGHTS, k=chance.choice((1, 1, 2, 3)))
    lines = [{"product": product, "quantity": chance.choice((1, 1, 2, 3))} for product in dict.fromkeys(products)]
    return {"order_id": f"o-{number:05}", "customer": f"c-{chance.randrange(200):03}", "lines": lines}


def _malformed(number: int, which: int, order: dict[str, object]) -> Line:
    """The `which`-th malformed line: the kinds take turns, and so do the ways to be wrong within a kind."""
    turn = which // 3
    match which % 3:
        case 0:
            return Line(number, Kind.BROKEN_JSON, _broken(turn, _compact(order)))
        case 1:
            return Line(number, Kind.WRONG_TYPES, _compact({**order, **_wrong_fields(turn)}))
        case _:
            topic, text = _wrong_event(turn, order)
            return Line(number, Kind.WRONG_EVENT, text, topic)


def _broken(turn: int, text: str) -> str:
    ways = (text[: len(text) // 2], text.replace('"', "'"), text.replace(":", "", 1), text + "}", f"order={text}")
    return ways[turn % len(ways)]


def _wrong_fields(turn: int) -> dict[str, object]:
    ways: tuple[dict[str, object], ...] = (
        {"lines": [{"product": "tea", "quantity": "two"}]},
        {"lines": {"product": "tea", "quantity": 2}},
        {"customer": 17},
        {"lines": [{"product": "tea", "quantity": 0}]},
        {"lines": [{"product": "unicorn", "quantity": 1}]},
    )
    return ways[turn % len(ways)]


def _wrong_event(turn: int, order: dict[str, object]) -> tuple[str, str]:
    taken = {**order, "total_cents": 990}
    ways = (
        ("order.created", _compact({**taken, "lines": "none"})),
        ("order.reserved", _compact({**taken, "total_cents": "free"})),
        ("order.paid", _compact([order["order_id"], "paid"])),
        ("order.created", _compact(taken)[:-3]),
        ("order.rejected", _compact({"order_id": order["order_id"], "why": "no customer"})),
        ("order.created", _compact({**taken, "lines": [{"product": "unicorn", "quantity": 1}]})),
    )
    return ways[turn % len(ways)]


def _compact(value: object) -> str:
    return json.dumps(value, separators=(",", ":"))
