"""What the commands print: text for people, or one JSON value for programs. Colour only where a terminal shows it."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from typing import Any

import typer
from rich.console import Console
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


def write_json(value: Any) -> None:
    """One JSON value on standard output, on one line."""
    typer.echo(json.dumps(value, ensure_ascii=False))


@contextlib.contextmanager
def failing(*, as_json: bool) -> Iterator[None]:
    """Turn an error of Bema into a message and exit code 1."""
    try:
        yield
    except (errors.BemaError, OSError) as error:
        if as_json:
            write_json({"error": str(error)})
        else:
            err().print(line("✗", "bold red", str(error)))
        raise typer.Exit(FAILED) from error
