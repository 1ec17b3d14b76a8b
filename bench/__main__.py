"""`python -m bench [--toy] [--only WORDS]`: event hop, throughput without effects and with one emit, reads of the
state, group commit. Writes bench/out/latest.json, a list of figures with their baselines, ratios and goals."""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import tempfile
from collections.abc import Awaitable, Callable
from pathlib import Path

from rich.console import Console
from rich.table import Table

from bench import commits, events, groups, reads
from bench.groups import Place
from bench.measures import Measure

OUT = Path(__file__).parent / "out" / "latest.json"


def table(measures: list[Measure]) -> Table:
    found = Table(title="product / baseline, median of interleaved rounds")
    for column in ("measure", "product", "baseline", "unit", "ratio", "spread", "goal", "CPU µs", "(baseline)"):
        found.add_column(column, justify="left" if column in ("measure", "unit", "goal") else "right")
    for m in measures:
        found.add_row(
            m.measure,
            f"{m.value:,.3g}" if m.value < 1000 else f"{m.value:,.0f}",
            f"{m.baseline:,.3g}" if m.baseline < 1000 else f"{m.baseline:,.0f}",
            m.unit,
            f"{m.ratio:.2f}",
            f"{m.ratio_low:.2f}–{m.ratio_high:.2f}",
            m.goal,
            f"{m.cpu_us_per_operation:.1f}",
            f"{m.baseline_cpu_us_per_operation:.1f}",
        )
    return found


def benchmarks(folder: Path, *, toy: bool) -> dict[str, Callable[[], Awaitable[list[Measure]]]]:
    """What there is to measure, by name. Toy size: one short round of each."""
    rounds, messages, hops, runs, seconds = (1, 500, 20, 100, 0.1) if toy else (9, 30_000, 300, 4000, 1.0)
    emits = max(200, messages // 3)

    async def one(measure: Awaitable[Measure]) -> list[Measure]:
        return [await measure]

    return {
        "event hop": lambda: one(events.hop(folder / "hop", rounds=rounds, count=hops)),
        "throughput without effects": lambda: one(
            events.throughput(folder / "throughput", rounds=rounds, count=messages)
        ),
        "state get": lambda: one(reads.reading(folder / "reads", rounds=rounds, count=hops)),
        "one emit, memory": lambda: one(
            commits.emitting(folder / "emit-memory", memory=True, rounds=rounds, count=emits)
        ),
        "one emit, R1 file": lambda: one(
            commits.emitting(folder / "emit-file", memory=False, rounds=rounds, count=emits)
        ),
        **{
            f"group commit, {place}": lambda place=place: groups.grouping(  # type: ignore[misc]
                folder / f"groups-{place.name}", place, rounds=min(rounds, 7), count=runs, seconds=seconds
            )
            for place in Place
        },
    }


async def run(*, toy: bool, only: str, console: Console) -> list[Measure]:
    measures: list[Measure] = []
    with tempfile.TemporaryDirectory(prefix="bema-bench-") as folder:
        for name, benchmark in benchmarks(Path(folder), toy=toy).items():
            if only in name:
                console.print(f"{name}…")
                measures.extend(await benchmark())
    return measures


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument("--toy", action="store_true", help="one short round of each: does it still run?")
    parser.add_argument("--only", default="", metavar="WORDS", help="those whose name contains this")
    parser.add_argument("--out", type=Path, default=OUT)
    arguments = parser.parse_args()
    console = Console(width=None if sys.stdout.isatty() else 160)
    measures = asyncio.run(run(toy=arguments.toy, only=arguments.only, console=console))
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    arguments.out.write_text(json.dumps([m.as_dict() for m in measures], indent=2) + "\n")
    console.print(table(measures))


if __name__ == "__main__":
    main()
