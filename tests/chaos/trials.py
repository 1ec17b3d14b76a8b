"""A trial: users ask, faults strike by a schedule, everything settles, and the checker judges what two files say."""

from __future__ import annotations

import asyncio
import random
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any

from tests.chaos import checkers, contents, dev_worlds, faults, histories, worlds
from tests.chaos.checkers import Check
from tests.chaos.faults import Blow
from tests.chaos.places import Place
from tests.chaos.users import User

USERS = 6
TRIES = 6
"""How often a fault strikes until it has hit something."""

Tell = Callable[[int, int], None]
"""Told how many runs have ended and how many faults have struck, about."""


Strike = Callable[[Any, random.Random], Awaitable[Blow | None]]
"""A fault of one kind of world; None when there was nothing to strike."""


class Kind(StrEnum):
    """Where the bank runs."""

    R1 = "R1"
    """Three workers, one broker, a file store."""
    R3 = "R3"
    """Three workers, three brokers with a copy each."""
    DEV = "dev"
    """`bema dev --persist`."""


@dataclass(frozen=True, slots=True)
class Settings:
    """What makes a trial, and makes it again."""

    seed: int
    kind: Kind
    runs: int
    """How many runs there are to be, at least."""
    rounds: int
    """How often each fault strikes."""
    only: Sequence[str] = ()
    """Names of faults; all when there are none."""


@dataclass(slots=True)
class Struck:
    """One kind of fault."""

    times: int = 0
    missed: int = 0
    hits: int = 0
    """Runs that were in hand."""
    again: int = 0
    """Those of them whose handler was begun once more."""
    runs: set[tuple[str, str]] = field(default_factory=set)


@dataclass(frozen=True, slots=True)
class Report:
    settings: Settings
    checks: Sequence[Check]
    faults: Mapping[str, Struck]
    runs: int
    asked: int
    unknown: int
    sent_again: int
    """Events that the broker stored for timers which it had sent before."""
    swept: Counter[str]
    """Timers that the janitor met after their time, by what it did with them."""
    by_fault: Mapping[str, Counter[str]]
    """Violations by fault and invariant: those of transfers that the fault had hit."""
    seconds: float

    @property
    def violations(self) -> int:
        return sum(len(check.violations) for check in self.checks)

    @property
    def missed(self) -> list[str]:
        """Faults that never hit anything."""
        return [name for name, struck in self.faults.items() if not struck.hits]


def lanes(settings: Settings) -> list[list[tuple[str, Strike]]]:
    """What strikes, in order; workers and brokers at the same time."""
    kinds: list[Mapping[str, Strike]]
    match settings.kind:
        case Kind.R1:
            kinds = [faults.OF_WORKERS, faults.OF_BROKERS]
        case Kind.R3:
            kinds = [faults.OF_WORKERS, {**faults.OF_BROKERS, **faults.OF_CLUSTERS}]
        case Kind.DEV:
            kinds = [dev_worlds.OF_DEVS]
    found = []
    for number, strikes in enumerate(kinds):
        chosen = [(name, strike) for name, strike in strikes.items() if not settings.only or name in settings.only]
        lane = chosen * settings.rounds
        random.Random(f"{settings.seed} lane {number}").shuffle(lane)
        found.append(lane)
    return found


@asynccontextmanager
async def _world(settings: Settings, folder: Path) -> AsyncIterator[Place]:
    match settings.kind:
        case Kind.DEV:
            async with dev_worlds.running(folder) as place:
                yield place
        case Kind.R1 | Kind.R3:
            store, replicas = (96 << 20) + 6000 * settings.runs, 1 if settings.kind is Kind.R1 else 3
            async with worlds.running(folder, replicas=replicas, store_bytes=store) as world:
                yield world


class Trial:
    """One world and its faults."""

    def __init__(self, world: Place, settings: Settings, tell: Tell) -> None:
        self._world = world
        self._settings = settings
        self._tell = tell
        self._lanes = lanes(settings)
        self.faults = {name: Struck() for lane in self._lanes for name, _ in lane}
        self._striking = True
        self._users: list[User] = []

    def _enough(self) -> bool:
        # A transfer that moves money is four runs at least: its own, the ledger's, the statement's and, later, the one
        # that confirms it. Some move none
        return not self._striking and 3 * sum(user.sent for user in self._users) >= self._settings.runs * 1.02

    async def run(self) -> None:
        seed = str(self._settings.seed)
        self._users = [User(f"u{number}", self._world, seed, self._enough) for number in range(USERS)]
        working = [asyncio.create_task(user.work()) for user in self._users]
        watching = asyncio.create_task(self._world.watch())
        telling = asyncio.create_task(self._keep_telling())
        try:
            async with asyncio.TaskGroup() as group:
                for number, lane in enumerate(self._lanes):
                    group.create_task(self._strike_all(number, lane))
            self._striking = False
            await asyncio.gather(*working)
            await self._world.wait_idle()
        finally:
            for task in (*working, watching, telling):
                task.cancel()
            await asyncio.gather(*working, watching, telling, return_exceptions=True)

    async def _strike_all(self, lane: int, strikes: list[tuple[str, Strike]]) -> None:
        for number, (name, strike) in enumerate(strikes):
            chance = random.Random(f"{self._settings.seed} {lane} {number}")
            await asyncio.sleep(chance.uniform(0.1, 1))
            await self._strike(name, strike, chance)

    async def _strike(self, name: str, strike: Strike, chance: random.Random) -> None:
        """Strike until something was hit."""
        struck = self.faults[name]
        for _ in range(TRIES):
            began = time.monotonic()
            blow = await strike(self._world, chance)
            struck.times += 1
            if blow is None:
                struck.missed += 1
                continue
            runs = await self._world.hits(blow.at, pid=blow.pid, since=blow.since)
            again = self._world.witnesses.again(runs, blow.at)
            self._world.recorder.add(
                "fault", "driver", name=name, began=began, struck=blow.at, hits=sorted(runs), again=again
            )
            struck.hits += len(runs)
            struck.again += again
            struck.runs |= runs
            if runs:
                return
            struck.missed += 1

    async def _keep_telling(self) -> None:
        while True:
            ended = 2 * sum(user.sent for user in self._users) - self._world.backlog
            self._tell(max(0, ended), sum(struck.times - struck.missed for struck in self.faults.values()))
            await asyncio.sleep(0.25)


async def run(settings: Settings, folder: Path, tell: Tell) -> Report:
    """One trial in a folder; what the checker read stays there. An error carries what servers and workers said."""
    began = time.monotonic()
    async with _world(settings, folder) as world:
        trial = Trial(world, settings, tell)
        await trial.run()
        contents.save(await world.contents(), folder / "contents.json")
        report = judge(settings, folder, trial.faults, world.swept, time.monotonic() - began)
        if report.violations:
            print(world.explain())
    return report


def judge(
    settings: Settings, folder: Path, struck: Mapping[str, Struck], swept: Counter[str], seconds: float
) -> Report:
    """What the checker says of the two files in a folder."""
    lines, found = histories.read(folder / "history.jsonl"), contents.load(folder / "contents.json")
    checks = checkers.check(lines, found)
    asked = histories.asked(lines)
    facts = checkers.Facts(lines, found)
    transfers = {("transfer", str(data["run"])): str(data["id"]) for _, data, _ in facts.told}
    by_fault = {name: Counter[str]() for name in struck}
    for name, what in struck.items():
        hit = {transfers.get(run) for run in what.runs} - {None}
        for check in checks:
            by_fault[name][check.name] = sum(violation.transfer in hit for violation in check.violations)
    return Report(
        settings=settings,
        checks=checks,
        faults=struck,
        runs=sum(sum(outcomes.values()) for outcomes in facts.ends.values()),
        asked=len(asked),
        unknown=checkers.unknowns(asked),
        sent_again=facts.sent_again,
        swept=swept,
        by_fault=by_fault,
        seconds=seconds,
    )
