"""What `bema dlq` prints of dead letters and of what became of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any

import typer
from rich.text import Text

from bema.contract.letters import DeadLetter, Summary
from bema.ports.dead_letters import Page
from bema.ports.rounds import Outcome, Result
from bema_cli import apps, consoles

LAST_CURSOR = 2**63 - 1
"""The largest that there can be."""

_HEADS = ("TIME", "STEP", "RUN", "TOPIC", "ATTEMPTS", "REASON", "LAST ERROR")
_LINES = ("step", "run", "kind", "topic", "event", "source", "key", "reason", "attempts", "time", "edited", "trace")


def counted(number: int) -> str:
    return f"{number:,} dead letter{'' if number == 1 else 's'}"


def _json(letter: Summary) -> dict[str, Any]:
    found = {each.name: getattr(letter, each.name) for each in fields(Summary)}
    found |= {"headers": dict(letter.headers), "ancestors": list(letter.ancestors)}
    return {**found, "data": apps.value_of(letter.data)} if isinstance(letter, DeadLetter) else found


def write_page(page: Page, *, as_json: bool) -> None:
    if as_json:
        consoles.write_json({"items": [_json(item) for item in page.items], "cursor": page.cursor})
        return
    consoles.table(_HEADS, [_row(item) for item in page.items])
    if page.cursor is not None:
        consoles.err().print(consoles.line("·", "dim", f"there are more: --cursor {page.cursor}"))


def _row(letter: Summary) -> tuple[str, ...]:
    last = letter.last_error
    said = "-" if last is None else f"{last.get('type')}: {last.get('message')}"
    return (letter.time[:19], letter.step, letter.run, letter.topic or "-", str(letter.attempts), letter.reason, said)


def write(letter: DeadLetter, *, as_json: bool) -> None:
    if as_json:
        consoles.write_json(_json(letter))
        return
    console = consoles.out()
    for name in _LINES:
        if (value := getattr(letter, name)) is not None:
            console.print(Text.assemble((f"{name:<9}", "dim"), str(value)))
    for name, value in letter.headers.items():
        console.print(Text.assemble(("header   ", "dim"), f"{name}: {value}"))
    for run in letter.ancestors:
        console.print(Text.assemble(("redrive  ", "dim"), f"of {run}"))
    for error in letter.errors:
        text = f"attempt {error.get('attempt')} ({error.get('at')}): {error.get('type')}: {error.get('message')}"
        console.print(Text(text, "red"))
    if letter.last_error is not None and (traceback := letter.last_error.get("traceback")):
        console.print(Text(str(traceback), "dim"))
    if letter.omitted is not None:
        console.print(Text(f"the data was too large to be kept; it is in message {letter.omitted} of the stream"))
        return
    typer.echo(consoles.pretty(apps.value_of(letter.data)))


def write_edit(run: str, before: int, after: int, *, dry_run: bool, as_json: bool) -> None:
    if as_json:
        consoles.write_json({"run": run, "size": after, "dry_run": dry_run})
        return
    done = "would be replaced" if dry_run else "was replaced"
    typer.echo(f"the data of run {run} {done}: {before:,} bytes by {after:,}")


@dataclass(slots=True)
class Report:
    """What became of dead letters, one after the other."""

    done: str
    """What was to be done with them, as a participle."""
    dry_run: bool
    as_json: bool
    results: list[Result] = field(default_factory=list)

    def write(self, error: str | None = None) -> None:
        """Say all of it; `error` is what kept the rest from being reached."""
        if self.as_json:
            items = [_result(result) for result in self.results]
            ended = {} if error is None else {"error": error}
            consoles.write_json({"items": items, "dry_run": self.dry_run, **ended})
            return
        for result in self.results:
            self._write_one(result)
        number = sum(result.said is None for result in self.results)
        typer.echo(f"{counted(number)} {'would be ' if self.dry_run else ''}{self.done}")
        if error is not None:
            consoles.err().print(consoles.line("✗", "bold red", error))

    def _write_one(self, result: Result) -> None:
        match result.outcome:
            case Outcome.REFUSED:
                consoles.err().print(consoles.line("✗", "bold red", f"{result.step}: {result.said}"))
            case Outcome.MOVED:
                consoles.err().print(consoles.line("!", "yellow", f"{result.step}: {result.said}"))
            case Outcome.REDRIVEN:
                typer.echo(f"{result.step} {result.run} → {result.started}")
            case Outcome.DISCARDED:
                typer.echo(f"{result.step} {result.run}")


def _result(result: Result) -> Mapping[str, str | None]:
    return {
        "step": result.step,
        "run": result.run,
        "outcome": result.outcome,
        "started": result.started,
        "said": result.said,
    }
