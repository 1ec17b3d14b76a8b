"""`python -m bench.ordering [--events N] [--file] [--harm] [--seed S]`: keyed events through an ordered Step.

Prints events a second from a standing backlog, and proves at the end that each event was committed once and in the
order of its key. With `--harm`, members join and leave in every way meanwhile. Run by hand: it takes minutes.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import random
import tempfile
import time
from pathlib import Path

from tests.support import brokers, keyed, runtimes


async def run(
    folder: Path, *, events: int, keys: int, workers: int, memory: bool, seed: int | None = None, pause: float = 1.2
) -> float:
    """Events a second. With a seed, members join and leave at random times. Raises `AssertionError` for an event that
    was not done once and in order."""
    with brokers.running(folder / "nats") as server:
        app = runtimes.App(server.url, folder / "app", {"steps/work_step.py": keyed.STEP})
        try:
            await app.start(workers=workers, memory=memory, wait=False)
            await keyed.wait_shared(app, "work", workers=app.workers)
            chance = None if seed is None else random.Random(seed)
            sender = keyed.Sender(app, keys=keys, chance=chance)
            harm = keyed.Harm(app, chance, pause=pause) if chance else None
            began = time.perf_counter()
            async with harm.doing() if harm else contextlib.nullcontext():
                await sender.send(events)
                await keyed.wait_done(app, timeout=3600)
            rate = events / (time.perf_counter() - began)
            await keyed.wait_done(app, timeout=120)
            await keyed.verify(app, sender.sent)
            assert await app.dead_letters() == []
            if harm:
                print(f"seed {seed}: {dict(harm.done)}, {len(app.workers)} workers in all")
            return rate
        finally:
            await app.close()


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.ordering", description="Keyed events, in order.")
    parser.add_argument("--events", type=int, default=100_000)
    parser.add_argument("--keys", type=int, default=1000)
    parser.add_argument("--workers", type=int, default=3)
    parser.add_argument("--file", action="store_true", help="a stream on disk; default: in memory")
    parser.add_argument("--harm", action="store_true", help="let members join and leave in every way")
    parser.add_argument("--seed", type=int, default=7, help="of the harm; default: 7")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="bema-ordering-") as folder:
        rate = asyncio.run(
            run(
                Path(folder),
                events=given.events,
                keys=given.keys,
                workers=given.workers,
                memory=not given.file,
                seed=given.seed if given.harm else None,
            )
        )
    place = "file" if given.file else "memory"
    print(f"{given.events:,} events of {given.keys:,} keys, {given.workers} workers, {place}: {rate:,.0f} events/s")


if __name__ == "__main__":
    main()
