"""A batch as its handler sees it: the values, who they are, and which of them failed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from bema import authoring
from bema.contract import errors
from bema.contract.frames import Failure, Item, ItemEnd, Outcome


class Batch:
    """The items that the handler gets, in the order of the list that it gets."""

    def __init__(self) -> None:
        self.values: list[Any] = []
        self.items: list[authoring.BatchItem] = []
        self.left_out: dict[int, ItemEnd] = {}
        """The other items, by their place among all."""
        self._places: list[int] = []
        self._failed: dict[int, BaseException] = {}

    def add(self, place: int, item: Item, value: Any) -> None:
        self._places.append(place)
        self.values.append(value)
        known = authoring.BatchItem(item.run, item.attempt, item.topic, item.event_id, item.key, item.headers)
        self.items.append(known)

    def fail(self, number: int, error: BaseException | str) -> None:
        """One item has failed. Raises `BatchInvalid` for one that is not there."""
        if isinstance(number, bool) or not isinstance(number, int) or not 0 <= number < len(self.values):
            raise errors.BatchInvalid(f"expected the place of one of {len(self.values)} items, found {number!r}")
        self._failed[number] = error if isinstance(error, BaseException) else RuntimeError(error)

    def ends(self, failure_of: Callable[[BaseException], Failure]) -> dict[int, ItemEnd]:
        """The items that do not share the batch's end, by their place among all."""
        own = {
            self._places[number]: ItemEnd(Outcome.FAILED, failure_of(error)) for number, error in self._failed.items()
        }
        return {**self.left_out, **own}
