"""What people see: bars on a terminal, lines elsewhere, and the audit as a table. Judges nothing."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn
from rich.table import Table

from tools.cluster import stages
from tools.demo.audits import Check, Verdict

MOST_SHOWN = 5
"""Violations of one check that the table shows."""
LINES_EVERY = 2.0
"""Seconds between lines of progress where there is no terminal."""


class Bars(Protocol):
    """Some counts on their way to their totals."""

    def update(self, **done: int) -> None:
        """How far each is, by name."""
        ...


class _Drawn:
    def __init__(self, progress: Progress, tasks: dict[str, TaskID]) -> None:
        self._progress = progress
        self._tasks = tasks

    def update(self, **done: int) -> None:
        for name, count in done.items():
            self._progress.update(self._tasks[name], completed=count)


class _Written:
    def __init__(self, totals: dict[str, int]) -> None:
        self._totals = totals
        self._done = dict.fromkeys(totals, 0)
        self._next = time.monotonic() + LINES_EVERY

    def update(self, **done: int) -> None:
        self._done.update(done)
        if time.monotonic() >= self._next:
            self.write()

    def write(self) -> None:
        stages.say("  " + ", ".join(f"{name} {self._done[name]}/{total}" for name, total in self._totals.items()))
        self._next = time.monotonic() + LINES_EVERY


@contextmanager
def bars(**totals: int) -> Iterator[Bars]:
    """A bar for each name, for the time of the block."""
    console = Console(stderr=True)
    if not console.is_terminal:
        written = _Written(totals)
        try:
            yield written
        finally:
            written.write()
        return
    columns = (TextColumn("  {task.description:<10}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console) as progress:
        yield _Drawn(progress, {name: progress.add_task(name, total=total) for name, total in totals.items()})


def show(verdict: Verdict, interruptions: list[str]) -> None:
    """The audit as a table on standard output, its sentence last."""
    console = Console(file=sys.stdout, width=None if sys.stdout.isatty() else 120)
    table = Table(title="Audit: the broker, the provider and the driver compared", title_justify="left")
    table.add_column("must hold")
    table.add_column("examined", justify="right")
    table.add_column("violations", justify="right")
    table.add_column("")
    for check in verdict.checks:
        count = len(check.violations)
        table.add_row(_title(check), str(check.examined), str(count), "[red]FAILED" if count else "[green]holds")
    console.print(table)
    for text in interruptions:
        console.print(f"  {escape(text)}", highlight=False, soft_wrap=True)
    for reason, count in sorted(verdict.reasons.items()):
        console.print(f"  {count:>3} malformed {escape(reason)}", highlight=False)
    console.print(verdict.sentence(), style="bold green" if verdict.passed else "bold red", highlight=False)


def _title(check: Check) -> str:
    shown = [f"  · {escape(text)}" for text in check.violations[:MOST_SHOWN]]
    more = len(check.violations) - len(shown)
    return "\n".join([check.title, *shown, *([f"  · and {more} more"] if more > 0 else [])])
