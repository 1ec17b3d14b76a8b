"""Turns: as many at once as there are places, who comes next, and nobody after the process stops."""

from __future__ import annotations

import asyncio

from bema_runtime.turns import Turns


async def test_the_longest_waiting_comes_next_and_no_more_at_once_than_places() -> None:
    turns = Turns(1)
    passed: list[int] = []

    async def run(number: int) -> None:
        assert await turns.enter(number)
        passed.append(number)
        await asyncio.sleep(0)
        assert passed[-1] == number, "nobody else came in"
        turns.leave(number)

    await asyncio.gather(*(run(number) for number in range(5)))
    assert passed == [0, 1, 2, 3, 4]


async def test_who_has_a_place_keeps_it_when_it_asks_again() -> None:
    turns = Turns(1)
    assert await turns.enter("one")
    assert await asyncio.wait_for(turns.enter("one"), 5)


async def test_who_pauses_gives_its_place_to_others_and_queues_for_another() -> None:
    turns = Turns(1)
    assert await turns.enter("one")
    paused = asyncio.create_task(turns.pause("one", 0.01))
    assert await asyncio.wait_for(turns.enter("two"), 5)
    await asyncio.wait([paused], timeout=0.1)
    assert not paused.done(), "the place is taken"
    turns.leave("two")
    assert await asyncio.wait_for(paused, 5)


async def test_once_the_process_stops_nobody_waits() -> None:
    turns = Turns(1)
    assert await turns.enter("one")
    waiting = [asyncio.create_task(turns.enter("two")), asyncio.create_task(turns.pause("three", 3600))]
    await asyncio.sleep(0)
    turns.stop()
    assert await asyncio.wait_for(asyncio.gather(*waiting), 5) == [False, False]
    assert not await turns.enter("four")
