"""`python -m bench [--toy]`: event hop, throughput without effects, throughput with one emit. Writes
bench/out/latest.json, a list of figures with their baselines, ratios and goals."""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import tempfile
from pathlib import Path

from rich.console import Console
from rich.table import Table

from bench import commits, events
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


async def run(*, toy: bool, console: Console) -> list[Measure]:
    rounds, messages, hops = (1, 500, 20) if toy else (9, 30_000, 300)
    measures: list[Measure] = []
    with tempfile.TemporaryDirectory(prefix="bema-bench-") as folder:
        place = Path(folder)
        console.print("event hop…")
        measures.append(await events.hop(place / "hop", rounds=rounds, count=hops))
        console.print("throughput without effects…")
        measures.append(await events.throughput(place / "throughput", rounds=rounds, count=messages))
        for memory in (True, False):
            console.print(f"throughput with one emit, {'memory' if memory else 'R1 file'}…")
            name = "memory" if memory else "file"
            measures.append(
                await commits.emitting(place / name, memory=memory, rounds=rounds, count=max(200, messages // 3))
            )
    return measures


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument("--toy", action="store_true", help="one short round of each: does it still run?")
    parser.add_argument("--out", type=Path, default=OUT)
    arguments = parser.parse_args()
    console = Console(width=None if sys.stdout.isatty() else 160)
    measures = asyncio.run(run(toy=arguments.toy, console=console))
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    arguments.out.write_text(json.dumps([m.as_dict() for m in measures], indent=2) + "\n")
    console.print(table(measures))


if __name__ == "__main__":
    main()
