"""Many runs in one batch beside one run per batch: what the product commits, replayed run by run by a bare client that
has as many batches under way as the product has runs. The client does nothing but commit, so that grouping has to
make up for all the rest of a run, too."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from enum import StrEnum
from pathlib import Path

from bench import commits, measures
from bench.commits import Batch
from bench.measures import Measure, Round
from tests.support import brokers, clusters, runtimes

CONCURRENCIES = (1, 8, 64, 256)


class Place(StrEnum):
    """What the stream is stored on."""

    MEMORY = "memory"
    FILE = "R1 file"
    CLUSTER = "R3 file"


async def grouping(folder: Path, place: Place, *, rounds: int, count: int, seconds: float) -> list[Measure]:
    """Runs a second with one emit each, at several concurrencies. `count`: runs of a round, fewer at low ones;
    `seconds`: how long a replay goes on, since alone the runs may take many times as long."""
    product: dict[int, list[Round]] = {concurrency: [] for concurrency in CONCURRENCIES}
    baseline: dict[int, list[Round]] = {concurrency: [] for concurrency in CONCURRENCIES}
    async with _app(folder, place) as app:
        for number in range(rounds + 1):
            for concurrency in CONCURRENCIES:
                runs = max(50, count * min(concurrency, 32) // 32)
                taken = await commits.run_backlog(app, _name(concurrency), runs)
                alone = [run for batch in await commits.recorded(app) for run in _runs(app, batch)]
                file = folder / "batches.json"
                replayed = await commits.replay(app, alone, file, concurrency=concurrency, seconds=seconds)
                if number:
                    product[concurrency].append(taken)
                    baseline[concurrency].append(replayed)
    return [
        measures.measure(
            f"group commit, {place}, concurrency {concurrency}",
            "runs/s",
            "≥ 10" if place is Place.FILE and concurrency == 64 else "",
            product[concurrency],
            baseline[concurrency],
        )
        for concurrency in CONCURRENCIES
    ]


def _name(concurrency: int) -> str:
    return f"work{concurrency}"


@contextlib.asynccontextmanager
async def _app(folder: Path, place: Place) -> AsyncIterator[runtimes.App]:
    """One process with a Step for each concurrency; both sides talk to the same server."""
    steps = {f"steps/{_name(number)}_step.py": commits.step(_name(number), number) for number in CONCURRENCIES}
    with contextlib.ExitStack() as stack:
        if place is Place.CLUSTER:
            url, replicas = stack.enter_context(clusters.running(folder / "nats")).urls[0], 3
        else:
            url, replicas = stack.enter_context(brokers.running(folder / "nats")).url, 1
        app = runtimes.App(url, folder / "app", steps)
        await app.start(memory=place is Place.MEMORY, replicas=replicas)
        try:
            yield app
        finally:
            await app.close()


def _runs(app: runtimes.App, batch: Batch) -> list[Batch]:
    """A batch by run: each begins with its marker."""
    first = [place for place, message in enumerate(batch) if commits.is_marker(app, message[0])]
    return [batch[start:end] for start, end in zip(first, [*first[1:], len(batch)], strict=True)]
