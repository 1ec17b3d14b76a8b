"""Runs that want several hot keys in different orders do not wait for each other in a ring."""

import asyncio

from bema_runtime.lanes import Lanes

A, B = ("stock", "a"), ("stock", "b")


def _hot() -> Lanes:
    lanes = Lanes()
    lanes.heat(A)
    lanes.heat(B)
    return lanes


async def test_opposite_orders_do_not_wait_for_each_other() -> None:
    lanes = _hot()
    await lanes.enter(A, "one")
    await lanes.enter(B, "two")
    waits_upwards = asyncio.ensure_future(lanes.enter(B, "one"))
    await asyncio.wait_for(lanes.enter(A, "two"), 0.1)
    lanes.leave("two")
    await asyncio.wait_for(waits_upwards, 0.1)


async def test_a_run_that_is_executed_again_queues_for_all_its_keys_in_order() -> None:
    lanes = _hot()
    finished = []

    async def again(name: str, keys: list[tuple[str, str]]) -> None:
        await lanes.enter_all(keys, name)
        finished.append(name)
        lanes.leave(name)

    runs = [again(str(number), [A, B] if number % 2 else [B, A]) for number in range(20)]
    await asyncio.wait_for(asyncio.gather(*runs), 0.5)
    assert finished == [str(number) for number in range(20)]
