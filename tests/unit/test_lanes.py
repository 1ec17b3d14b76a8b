"""Lanes: who waits for a hot key, for how long, and who comes next."""

from __future__ import annotations

import asyncio

import pytest

from bema_runtime import lanes
from bema_runtime.lanes import Lanes

A, B = ("stock", "a"), ("stock", "b")


async def passes(work: object) -> bool:
    try:
        await asyncio.wait_for(work, 0.05)  # type: ignore[arg-type]
    except TimeoutError:
        return False
    return True


async def test_a_key_without_conflicts_has_no_lane() -> None:
    found = Lanes()
    for holder in ("one", "two"):
        assert await passes(found.enter(A, holder))
    assert not found.is_hot(A)


async def test_runs_pass_one_after_the_other_in_their_order() -> None:
    found = Lanes()
    found.heat(A)
    passed: list[int] = []

    async def pass_through(number: int) -> None:
        await found.enter(A, number)
        passed.append(number)
        await asyncio.sleep(0)
        assert passed[-1] == number, "nobody else came in"
        found.leave(number)

    await asyncio.wait_for(asyncio.gather(*(pass_through(number) for number in range(50))), 0.9)
    assert passed == list(range(50))


async def test_a_holder_enters_again_without_waiting() -> None:
    found = Lanes()
    found.heat(A)
    await found.enter(A, "one")
    assert await passes(found.enter(A, "one"))
    assert not await passes(found.enter(A, "two"))


async def test_patience_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lanes, "PATIENCE", 0.02)
    found = Lanes()
    found.heat(A)
    await found.enter(A, "one")
    assert await passes(found.enter(A, "two"))
    found.leave("one")
    assert await passes(found.enter(A, "three")), "the one without patience holds no turn"


async def test_one_who_was_cancelled_gets_no_turn() -> None:
    found = Lanes()
    found.heat(A)
    await found.enter(A, "one")
    waiting = asyncio.ensure_future(found.enter(A, "two"))
    await asyncio.sleep(0)
    waiting.cancel()
    await asyncio.gather(waiting, return_exceptions=True)
    found.leave("one")
    assert await passes(found.enter(A, "three"))


async def test_a_lane_lasts_while_conflicts_are_recent(monkeypatch: pytest.MonkeyPatch) -> None:
    found = Lanes()
    found.heat(A)
    await found.enter(A, "one")
    found.leave("one")
    assert found.is_hot(A)
    monkeypatch.setattr(lanes, "HOT_SECONDS", -1)
    found.heat(A)
    await found.enter(A, "one")
    assert found.is_hot(A)
    found.leave("one")
    assert not found.is_hot(A)


async def test_lanes_that_nobody_came_back_to_are_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lanes, "HOT_SECONDS", 0.0)
    monkeypatch.setattr(lanes, "MANY", 10)
    found = Lanes()
    keys = [("stock", str(number)) for number in range(100)]
    found.heat(A)
    await found.enter(A, "one")
    for key in keys:
        found.heat(key)
        await asyncio.sleep(0.001)
    assert sum(found.is_hot(key) for key in keys) <= 12
    assert found.is_hot(A), "one that is held stays"
    found.leave("one")


async def test_leaving_lets_go_of_all_keys() -> None:
    found = Lanes()
    found.heat(A)
    found.heat(B)
    await found.enter_all([B, A], "one")
    assert not await passes(found.enter(A, "two"))
    assert not await passes(found.enter(B, "two"))
    found.leave("one")
    assert await passes(found.enter_all([A, B], "two"))
    found.leave("somebody who holds nothing")
