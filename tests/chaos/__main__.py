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

from tests.chaos import reports, trials
from tests.chaos.trials import Report, Settings
from tools.demo import screens


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description="Breaks everything around a bank.")
    parser.add_argument("--seed", type=int, help="repeats a schedule; another one each time when it is not given")
    parser.add_argument("--replicas", type=int, action="append", choices=[1, 3], help="1, 3 or both; default both")
    parser.add_argument("--runs", type=int, default=20_000, help="at least so many, for each")
    parser.add_argument("--rounds", type=int, default=4, help="how often each fault strikes")
    parser.add_argument("--only", action="append", default=[], metavar="FAULT", help="a fault's name; default all")
    parser.add_argument("--folder", type=Path, help="where histories and contents stay; default a new one")
    arguments = parser.parse_args()
    seed = random.SystemRandom().randrange(1_000_000) if arguments.seed is None else arguments.seed
    folder = arguments.folder or Path(tempfile.mkdtemp(prefix="bema-chaos-"))
    console = Console(width=None if sys.stdout.isatty() else 180)
    found = []
    for replicas in arguments.replicas or [1, 3]:
        settings = Settings(seed, replicas, arguments.runs, arguments.rounds, arguments.only)
        console.print(f"R{replicas}, --seed {seed}, files in {folder}/r{replicas}", soft_wrap=True)
        found.append(_trial(settings, folder / f"r{replicas}"))
        reports.show(console, found[-1])
    bad = [report for report in found if report.violations or report.missed]
    violations = sum(report.violations for report in found)
    console.print(f"{sum(report.runs for report in found):,} runs, {violations} violations, seed {seed}")
    return int(bool(bad))


def _trial(settings: Settings, folder: Path) -> Report:
    folder.mkdir(parents=True)
    strikes = sum(map(len, trials.lanes(settings)))
    with screens.bars(runs=settings.runs, faults=strikes) as bars:
        return asyncio.run(trials.run(settings, folder, lambda runs, faults: bars.update(runs=runs, faults=faults)))


if __name__ == "__main__":
    sys.exit(main())
