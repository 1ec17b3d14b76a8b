"""What people see of a trial: invariants by faults, as a table. Judges nothing."""

from __future__ import annotations

from rich.console import Console
from rich.table import Table

from tests.chaos.trials import Report

MOST_SHOWN = 8


def show(console: Console, report: Report) -> None:
    """The table of a trial, and the violations, if there are any."""
    settings = report.settings
    title = f"{settings.kind}, seed {settings.seed}: {report.runs:,} runs in {report.seconds:.0f} s"
    table = Table(title=title, title_justify="left")
    table.add_column("")
    table.add_column("all", justify="right")
    for name in report.faults:
        table.add_column(name, justify="right", overflow="fold")
    struck = report.faults.values()
    table.add_row("struck", str(sum(s.times for s in struck)), *(str(s.times) for s in struck))
    table.add_row("runs in hand", str(sum(s.hits for s in struck)), *(str(s.hits) for s in struck))
    table.add_row("of them begun again", str(sum(s.again for s in struck)), *(str(s.again) for s in struck))
    table.add_section()
    for check in report.checks:
        found = f"{len(check.violations)} of {check.examined:,}" if check.examined else "nothing to check"
        table.add_row(check.name, found, *(str(report.by_fault[name][check.name]) for name in report.faults))
    console.print(table)
    console.print(f"{report.asked:,} transfers asked for; of {report.unknown} nobody knows whether they were stored")
    swept = [f"{count} timers {what}" for what, count in report.swept.items() if count]
    console.print(f"{report.sent_again} timers sent again by the broker; by the janitor: {', '.join(swept) or 'none'}")
    for check in report.checks:
        for violation in check.violations[:MOST_SHOWN]:
            console.print(f"VIOLATION {check.name}: {violation.text}", markup=False)
        if len(check.violations) > MOST_SHOWN:
            console.print(f"… and {len(check.violations) - MOST_SHOWN} more of {check.name}")
    if report.missed:
        console.print(f"Never hit a run: {', '.join(report.missed)}")
