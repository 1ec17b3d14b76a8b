"""Adoptions: a Step that takes over the place of one that is gone, because it was renamed.

A run's id and its marker are made of the name of its Step. So that what the former Step has done above its floor is not
done again, and what it had in hand ends once, runs of events that may have been given to it stay its runs: they are
executed by the new Step in the former one's name.
"""

from __future__ import annotations

import json
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Former:
    """A Step whose place was taken over."""

    step: str
    until: int | None
    """The last sequence of the stream whose event it may have been given; None until its consumers are gone."""


@dataclass(frozen=True, slots=True)
class Adoption:
    """Whose place a Step has taken over: the oldest first, since a Step may be renamed again."""

    formers: tuple[Former, ...] = ()
    """Empty where there was nothing to take over."""

    @property
    def is_done(self) -> bool:
        return all(former.until is not None for former in self.formers)

    def name_of(self, sequence: int, own: str) -> str:
        """In which Step's name an event at a sequence is handled."""
        return next((former.step for former in self.formers if sequence <= (former.until or 0)), own)

    def to_json(self) -> bytes:
        formers = [{"step": former.step, "until": former.until} for former in self.formers]
        return json.dumps({"formers": formers}, separators=(",", ":")).encode()


def read(data: bytes) -> Adoption:
    """An adoption from its JSON. Raises `ValueError` for what is none."""
    try:
        found = [(str(raw["step"]), raw["until"]) for raw in json.loads(data)["formers"]]
        return Adoption(tuple(Former(step, None if until is None else int(until)) for step, until in found))
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"expected an adoption as JSON, found {data[:80]!r}") from error
