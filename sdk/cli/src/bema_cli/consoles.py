"""What the commands print: text for people, or one JSON value for programs. Colour only where a terminal shows it."""

from __future__ import annotations

import contextlib
import json
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import typer
from rich.console import Console
from rich.progress import Progress
from rich.table import Table
from rich.text import Text

from bema.contract import errors

FAILED = 1


def out() -> Console:
    return Console(highlight=False, soft_wrap=True, markup=False, emoji=False)


def err() -> Console:
    return Console(highlight=False, soft_wrap=True, markup=False, emoji=False, stderr=True)


def line(sign: str, style: str, text: str) -> Text:
    """A line that begins with a coloured sign."""
    return Text.assemble((sign, style), " ", text)


def write(text: str) -> None:
    """Text on standard output in UTF-8, whatever the terminal's encoding and line ends are: it is for programs."""
    typer.echo(text.encode("utf-8"), nl=False)


def write_json(value: Any) -> None:
    """One JSON value on standard output, on one line."""
    write(json.dumps(value, ensure_ascii=False) + "\n")


def pretty(value: Any) -> str:
    return json.dumps(value, indent=2, ensure_ascii=False)


def wide() -> Console:
    """For tables: a pipe has no width, so that nothing is cut."""
    console = out()
    if not console.is_terminal:
        console.width = 10_000
    return console


def wrapped() -> Console:
    """For what is drawn again and again: lines that are too long go on in the next one."""
    return Console(highlight=False, markup=False, emoji=False)


def grid(heads: Sequence[str], rows: Sequence[Sequence[str | Text]], *, right: Sequence[str] = ()) -> Table:
    """A table without lines; the columns named in `right` are numbers."""
    found = Table.grid(padding=(0, 2))
    for head in heads:
        found.add_column(justify="right" if head in right else "left")
    found.add_row(*(Text(head, "bold") for head in heads))
    for row in rows:
        found.add_row(*(Text(cell) if isinstance(cell, str) else cell for cell in row))
    return found


def table(heads: Sequence[str], rows: Sequence[Sequence[str | Text]]) -> None:
    wide().print(grid(heads, rows))


def confirm(question: str) -> None:
    """Ask on the terminal; a no ends the command. Without a terminal nobody can answer: a usage error."""
    if not sys.stdin.isatty():
        raise typer.BadParameter(f"expected it, or a terminal on which to ask: {question}", param_hint="--yes")
    if not typer.confirm(question, err=True):
        err().print(line("·", "dim", "nothing was changed"))
        raise typer.Exit(FAILED)


@contextlib.contextmanager
def progress(what: str, total: int, *, quiet: bool) -> Iterator[Callable[[], None]]:
    """A bar on a terminal for what takes more than a second; call what it gives for each item that is done."""
    console = err()
    if quiet or not console.is_terminal:
        yield lambda: None
        return
    bar = Progress(console=console, transient=True)
    task = bar.add_task(what, total=total)
    begun = time.monotonic()

    def advance() -> None:
        bar.advance(task)
        if not bar.live.is_started and time.monotonic() - begun > 1:
            bar.start()

    try:
        yield advance
    finally:
        bar.stop()


@contextlib.contextmanager
def failing(*, as_json: bool) -> Iterator[None]:
    """Turn an error of Bema into a message and exit code 1."""
    try:
        yield
    except BrokenPipeError:
        # Whoever read has had enough: `| head`. Not an error to tell.
        raise
    except (errors.BemaError, OSError) as error:
        if as_json:
            write_json({"error": str(error)})
        else:
            err().print(line("✗", "bold red", str(error)))
        raise typer.Exit(FAILED) from error
