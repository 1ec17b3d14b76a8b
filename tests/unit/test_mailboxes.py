"""Mailboxes: bursts from many threads arrive whole, in order, on the loop's own thread."""

from __future__ import annotations

import asyncio
import threading

from bema_runtime.mailboxes import Mailbox


async def test_a_burst_arrives_as_one_list() -> None:
    bursts: list[list[int]] = []
    mailbox: Mailbox[int] = Mailbox(asyncio.get_running_loop(), bursts.append)
    mailbox.put(1)
    mailbox.put_all([2, 3])
    assert bursts == [], "not in the middle of what the loop does"
    await asyncio.sleep(0)
    assert bursts == [[1, 2, 3]]
    mailbox.put_all([])
    await asyncio.sleep(0)
    assert bursts == [[1, 2, 3]], "nothing is no burst"
    mailbox.put(4)
    await asyncio.sleep(0)
    assert bursts == [[1, 2, 3], [4]]


async def test_what_is_put_while_a_burst_is_handed_over_comes_next() -> None:
    bursts: list[list[int]] = []

    def deliver(items: list[int]) -> None:
        bursts.append(items)
        if items == [1]:
            mailbox.put(2)

    mailbox: Mailbox[int] = Mailbox(asyncio.get_running_loop(), deliver)
    mailbox.put(1)
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert bursts == [[1], [2]]


async def test_items_of_many_threads_arrive_once_and_in_each_threads_order() -> None:
    loop, count = asyncio.get_running_loop(), 5000
    arrived: list[tuple[int, int]] = []
    done, own = asyncio.Event(), threading.get_ident()
    where: set[int] = set()

    def deliver(items: list[tuple[int, int]]) -> None:
        where.add(threading.get_ident())
        arrived.extend(items)
        if len(arrived) == 4 * count:
            done.set()

    mailbox: Mailbox[tuple[int, int]] = Mailbox(loop, deliver)
    threads = [threading.Thread(target=lambda n=n: [mailbox.put((n, i)) for i in range(count)]) for n in range(4)]
    for thread in threads:
        thread.start()
    await asyncio.wait_for(done.wait(), 10)
    for number in range(4):
        assert [i for n, i in arrived if n == number] == list(range(count))
    assert where == {own}
