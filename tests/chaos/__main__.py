"""`python -m tests.chaos`: a bank, faults by a seed, and the checker's verdict. Exit code 1 when anything is violated,
or a fault has hit nothing."""

from __future__ import annotations

import argparse
import asyncio
import random
import sys
import tempfile
from pathlib import Path

from rich.console import Console

from tests.chaos import counters, reports, trials
from tests.chaos.counters import Counted
from tests.chaos.trials import Kind, Report, Settings
from tools.demo import screens


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description="Breaks everything around a bank.")
    parser.add_argument("--seed", type=int, help="repeats a schedule; another one each time when it is not given")
    parser.add_argument("--kind", type=Kind, action="append", choices=list(Kind), help="where; default everywhere")
    parser.add_argument("--runs", type=int, default=20_000, help="at least so many in each")
    parser.add_argument("--rounds", type=int, default=4, help="how often each fault strikes")
    parser.add_argument("--only", action="append", default=[], metavar="FAULT", help="a fault's name; default all")
    parser.add_argument("--folder", type=Path, help="where histories and contents stay; default a new one")
    arguments = parser.parse_args()
    seed = random.SystemRandom().randrange(1_000_000) if arguments.seed is None else arguments.seed
    folder = arguments.folder or Path(tempfile.mkdtemp(prefix="bema-chaos-"))
    console = Console(width=None if sys.stdout.isatty() else 180)
    found = []
    for kind in arguments.kind or list(Kind):
        settings = Settings(seed, kind, arguments.runs, arguments.rounds, arguments.only)
        console.print(f"{kind}: --seed {seed}, files in {folder / kind}", soft_wrap=True)
        found.append(_trial(settings, folder / kind))
        reports.show(console, found[-1])
    counted = [] if arguments.kind or arguments.only else [_count(folder, way) for way in counters.WAYS]
    for result in counted:
        console.print(str(result), markup=False, soft_wrap=True)
    bad = [report for report in found if report.violations or report.missed]
    violations = sum(report.violations for report in found)
    console.print(f"{sum(report.runs for report in found):,} runs, {violations} violations, seed {seed}")
    return int(bool(bad) or not all(result.right for result in counted))


def _count(folder: Path, way: str) -> Counted:
    return asyncio.run(counters.count(folder / f"counter-{counters.WAYS.index(way)}", way, memory=False))


def _trial(settings: Settings, folder: Path) -> Report:
    folder.mkdir(parents=True)
    strikes = sum(map(len, trials.lanes(settings)))
    with screens.bars(runs=settings.runs, faults=strikes) as bars:
        return asyncio.run(trials.run(settings, folder, lambda runs, faults: bars.update(runs=runs, faults=faults)))


if __name__ == "__main__":
    sys.exit(main())
