"""Trials of the chaos tests: a fault that finds nothing to strike is a miss, and strikes again."""

from __future__ import annotations

import contextlib
import random
import subprocess
import time
from pathlib import Path

from tests.chaos import dev_worlds
from tests.chaos.contents import Contents
from tests.chaos.dev_worlds import DevWorld
from tests.chaos.faults import Blow
from tests.chaos.places import Place
from tests.chaos.trials import TRIES, Kind, Settings, Trial


class Nowhere(Place):
    """A place where every blow hits one run."""

    urls: list[str] = []

    async def contents(self) -> Contents:
        return Contents((), {})

    def explain(self) -> str:
        return ""

    async def hits(self, at: float, *, pid: int | None = None, since: float | None = None) -> set[tuple[str, str]]:
        return {("transfer", "r1")}


NAME = "its worker killed"


async def strike(folder: Path, misses: int) -> tuple[int, int, int]:
    """How often a fault struck, missed, and hit, that finds nothing so many times."""
    left = iter(range(misses))

    async def fault(world: object, chance: random.Random) -> Blow | None:
        return None if next(left, None) is not None else Blow(time.monotonic())

    place = Nowhere(folder)
    with contextlib.closing(place.recorder):
        trial = Trial(place, Settings(1, Kind.DEV, 1, 1, [NAME]), lambda runs, faults: None)
        await trial._strike(NAME, fault, random.Random(1))
    struck = trial.faults[NAME]
    return struck.times, struck.missed, struck.hits


async def test_a_fault_that_finds_nothing_is_repeated_until_it_hits(tmp_path: Path) -> None:
    assert await strike(tmp_path, 2) == (3, 2, 1)


async def test_and_given_up_after_some_tries(tmp_path: Path) -> None:
    assert await strike(tmp_path, TRIES) == (TRIES, TRIES, 0)


class Gone(DevWorld):
    """A `bema dev` whose worker and broker have just ended."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        with subprocess.Popen(["true"]) as ended:
            pass
        self.worker, self.replaced = ended.pid, 0

    def broker(self) -> int | None:
        return self.worker

    async def busy(self, pid: int | None = None) -> None:
        """Always."""

    async def ready(self) -> None:
        self.replaced += 1


async def test_a_worker_that_is_being_replaced_is_no_victim_and_its_successor_is_waited_for(tmp_path: Path) -> None:
    world = Gone(tmp_path)
    with contextlib.closing(world.recorder):
        assert await dev_worlds.kill_worker(world, random.Random(1)) is None
    assert world.replaced == 1


async def test_a_broker_that_is_gone_is_no_victim(tmp_path: Path) -> None:
    world = Gone(tmp_path)
    with contextlib.closing(world.recorder):
        assert await dev_worlds.kill_broker(world, random.Random(1)) is None
