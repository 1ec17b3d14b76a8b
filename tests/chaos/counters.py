"""Eight processes, one number: `set(get() + 1)` five hundred times each gives four thousand, and nobody waits for ever.

Read with a bare client. The same with `increment`, which never conflicts.
"""

from __future__ import annotations

import itertools
import time
from dataclasses import dataclass
from pathlib import Path

from tests.chaos import banks, contents
from tests.chaos.contents import Entry, Reader
from tests.chaos.witnesses import Witnesses
from tests.support import brokers, waits
from tests.support.runtimes import App

PROCESSES = 8
TIMES = 500
SECONDS = 300.0

_WAYS = {
    "set(get() + 1)": 'await ctx.state.set("count", "n", await ctx.state.get("count", "n", 0) + 1)',
    "increment": 'await ctx.state.increment("count", "n")',
}
WAYS = tuple(_WAYS)
_STEP = """
from lib import witness
config = {"triggers": [{"event": {"topics": ["count%d"]}}], "retry": {"maxAttempts": 1}}
async def handler(data, ctx):
    witness.begun(ctx)
    %s
"""


@dataclass(frozen=True, slots=True)
class Counted:
    """How a counter came out."""

    way: str
    count: int
    markers: int
    dead: int
    conflicts: int
    seconds: float
    worst: float
    """The longest time in which nobody counted, in seconds."""
    longest: float
    """The longest time from when a run's handler was first begun to the run's end, in seconds."""

    @property
    def right(self) -> bool:
        return self.count == self.markers == PROCESSES * TIMES and not self.dead

    def __str__(self) -> str:
        return (
            f"{self.way}: {self.count:,} of {PROCESSES * TIMES:,} in {self.seconds:.1f} s, "
            f"{self.conflicts:,} conflicts; a run waited {self.longest:.1f} s at worst, all of them {self.worst:.2f} s"
        )


async def count(folder: Path, way: str, *, memory: bool) -> Counted:
    files = {f"steps/count{number}_step.py": _STEP % (number, _WAYS[way]) for number in range(PROCESSES)}
    files["lib/witness.py"] = banks.FILES["lib/witness.py"]
    witnesses = Witnesses(folder / "witnesses.jsonl")
    with brokers.running(folder / "nats") as server:
        app = App(server.url, folder / "app", files)
        try:
            await app.start(workers=0, memory=memory)
            for number in range(PROCESSES):
                app.spawn(only=[f"count{number}"], env={banks.WITNESSES: str(witnesses.file)})
            async with contents.client([server.url]) as connection:
                reader = Reader(connection, banks.APP)
                for worker in app.workers:
                    await waits.until(
                        lambda w=worker: w.readiness()[0] == 200,  # type: ignore[misc]
                        "a worker's readiness",
                        timeout=SECONDS,
                        explain=app.explain,
                    )
                began = time.monotonic()
                for place in range(PROCESSES * TIMES):
                    topic = f"count{place % PROCESSES}"
                    headers = {"ce-id": str(place), "ce-source": "/chaos", "ce-type": topic}
                    await connection.publish(f"bema.{banks.APP}.evt.live.0.{topic}", b"1", headers=headers)
                await connection.flush()

                async def settled() -> bool:
                    waiting = await reader.waiting()
                    return waiting is not None and sum(waiting.values()) == 0

                await waits.until(settled, "all to have counted", timeout=SECONDS, explain=app.explain)
                seconds = time.monotonic() - began
                conflicts = sum(
                    value
                    for worker in app.workers
                    for name, value in worker.metrics().items()
                    if name.startswith("bema_conflicts_total")
                )
                return _counted(way, await reader.everything(), _first_begun(witnesses), int(conflicts), seconds)
        finally:
            await app.close()


def _first_begun(witnesses: Witnesses) -> dict[str, float]:
    """When each run's handler was first begun, in seconds since 1970."""
    wall = time.time() - time.monotonic()
    return {begun.run: begun.at + wall for begun in reversed(witnesses.look())}


def _counted(way: str, entries: tuple[Entry, ...], begun: dict[str, float], conflicts: int, seconds: float) -> Counted:
    ends = [entry for entry in entries if entry.words[0] == "end"]
    number = [entry.json() for entry in entries if entry.words == ("state", "count", "n")]
    times = sorted(entry.stored for entry in ends)
    return Counted(
        way=way,
        count=int(number[-1]) if number else 0,
        markers=len(ends),
        dead=sum(entry.words[0] == "dlq" for entry in entries),
        conflicts=conflicts,
        seconds=seconds,
        worst=max(later - earlier for earlier, later in itertools.pairwise(times)),
        longest=max(entry.stored - begun[entry.words[3]] for entry in ends),
    )
