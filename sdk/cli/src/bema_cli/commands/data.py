"""`bema emit`, `bema state` and `bema dlq`."""

from __future__ import annotations

import asyncio
import dataclasses
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table
from rich.text import Text

from bema.contract import errors
from bema.contract.envelopes import Event
from bema_cli import apps, consoles, options
from bema_cli.apps import DeadLetter, Entry, Target

state = typer.Typer(help="Read the app's state.", no_args_is_help=True)
dlq = typer.Typer(help="Read dead letters: events whose runs failed for good.", no_args_is_help=True)


def emit(
    topic: Annotated[str, typer.Argument(metavar="TOPIC", help="Topic of the event.")],
    data: Annotated[str, typer.Argument(metavar="DATA", help="JSON, or - to read it from standard input.")] = "null",
    key: Annotated[str | None, typer.Option("--key", help="Key of the event.")] = None,
    header: Annotated[
        list[str] | None, typer.Option("--header", metavar="K=V", help="A header; may be repeated.")
    ] = None,
    folder: options.Dir = Path(),
    nats: options.Nats = None,
    app: options.App = None,
    as_json: options.Json = False,
) -> None:
    """Send an event, and print its id."""
    with consoles.failing(as_json=as_json):
        headers = dict(_pair(item) for item in header or [])
        target = apps.target(folder, nats=nats, app=app)
        body = apps.parse_data(sys.stdin.read() if data == "-" else data)
        event = apps.new_event(target, topic, body, key=key, headers=headers)
        heard = asyncio.run(_emit(target, event))
    if not heard:
        consoles.err().print(consoles.line("!", "yellow", f"no Step hears {topic!r}"))
    trace = (event.trace_parent or "").split("-")[1]
    if as_json:
        consoles.write_json({"id": event.id, "topic": topic, "trace": trace, "heard": heard})
    else:
        typer.echo(event.id)


async def _emit(target: Target, event: Event) -> bool:
    async with apps.connected(target) as js:
        return await apps.emit(js, target, event)


def _pair(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not equals or not name:
        raise typer.BadParameter(f"expected NAME=VALUE, found {text!r}", param_hint="--header")
    return name, value


@state.command("get")
def state_get(
    group: Annotated[str, typer.Argument(metavar="GROUP")],
    key: Annotated[str, typer.Argument(metavar="KEY")],
    folder: options.Dir = Path(),
    nats: options.Nats = None,
    app: options.App = None,
    as_json: options.Json = False,
) -> None:
    """Print a value; exit code 1 when there is none."""

    async def read(target: Target) -> Entry | None:
        async with apps.connected(target) as js:
            return await apps.state_get(js, target, group, key)

    with consoles.failing(as_json=as_json):
        entry = asyncio.run(read(apps.target(folder, nats=nats, app=app)))
        if entry is None:
            raise errors.BemaError(f"expected a value of {key!r} in state group {group!r}, found none")
    if as_json:
        consoles.write_json({"group": group, **dataclasses.asdict(entry)})
    else:
        typer.echo(_pretty(entry.value))


@state.command("list")
def state_list(
    group: Annotated[str, typer.Argument(metavar="GROUP")],
    prefix: Annotated[str, typer.Option("--prefix", help="Only keys that begin with this.")] = "",
    limit: Annotated[int, typer.Option("--limit", min=1, help="Entries at most.")] = 100,
    folder: options.Dir = Path(),
    nats: options.Nats = None,
    app: options.App = None,
    as_json: options.Json = False,
) -> None:
    """List the entries of a group, by key."""

    async def read(target: Target) -> Sequence[Entry]:
        async with apps.connected(target) as js:
            return await apps.state_list(js, target, group, prefix=prefix, limit=limit)

    with consoles.failing(as_json=as_json):
        entries = asyncio.run(read(apps.target(folder, nats=nats, app=app)))
    if as_json:
        consoles.write_json([{"group": group, **dataclasses.asdict(entry)} for entry in entries])
        return
    _table(("KEY", "REVISION", "VALUE"), [(item.key, str(item.revision), json.dumps(item.value)) for item in entries])


@dlq.command("list")
def dlq_list(
    step: Annotated[str | None, typer.Option("--step", help="Only of this Step.")] = None,
    folder: options.Dir = Path(),
    nats: options.Nats = None,
    app: options.App = None,
    as_json: options.Json = False,
) -> None:
    """List dead letters, the oldest first."""
    with consoles.failing(as_json=as_json):
        target = apps.target(folder, nats=nats, app=app)
        letters = asyncio.run(_dead_letters(target, step="*" if step is None else apps.step_name(step)))
    if as_json:
        consoles.write_json([dataclasses.asdict(letter) for letter in letters])
        return
    _table(
        ("TIME", "STEP", "RUN", "TOPIC", "ATTEMPTS", "REASON", "LAST ERROR"),
        [
            (item.time[:19], item.step, item.run, item.topic or "-", str(item.attempts), item.reason, _last_error(item))
            for item in letters
        ],
    )


@dlq.command("show")
def dlq_show(
    run: Annotated[str, typer.Argument(metavar="RUN", help="The run, as `bema dlq list` names it.")],
    folder: options.Dir = Path(),
    nats: options.Nats = None,
    app: options.App = None,
    as_json: options.Json = False,
) -> None:
    """Show a dead letter with the errors of its attempts."""
    with consoles.failing(as_json=as_json):
        target = apps.target(folder, nats=nats, app=app)
        letters = asyncio.run(_dead_letters(target, run=apps.run_id(run)))
        if not letters:
            raise errors.BemaError(f"expected a dead letter of run {run!r}, found none; `bema dlq list` names them")
    if as_json:
        consoles.write_json(dataclasses.asdict(letters[0]))
    else:
        _show(letters[0])


async def _dead_letters(target: Target, *, step: str = "*", run: str = ">") -> list[DeadLetter]:
    async with apps.connected(target) as js:
        return await apps.dead_letters(js, target, step=step, run=run)


def _show(letter: DeadLetter) -> None:
    console = consoles.out()
    for name in ("step", "run", "topic", "event", "reason", "attempts", "time"):
        console.print(Text.assemble((f"{name:<9}", "dim"), str(getattr(letter, name))))
    for name, value in letter.headers.items():
        console.print(Text.assemble(("header   ", "dim"), f"{name}: {value}"))
    for error in letter.errors:
        text = f"attempt {error.get('attempt')} ({error.get('at')}): {error.get('type')}: {error.get('message')}"
        console.print(Text(text, "red"))
    if letter.errors and (traceback := letter.errors[-1].get("traceback")):
        console.print(Text(str(traceback), "dim"))
    typer.echo(_pretty(letter.data))


def _last_error(letter: DeadLetter) -> str:
    if not letter.errors:
        return "-"
    last = letter.errors[-1]
    return f"{last.get('type')}: {last.get('message')}"


def _pretty(value: Any) -> str:
    return json.dumps(value, indent=2, ensure_ascii=False)


def _table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    table = Table.grid(padding=(0, 2))
    table.add_row(*(Text(head, "bold") for head in heads))
    for row in rows:
        table.add_row(*(Text(cell) for cell in row))
    console = consoles.out()
    if not console.is_terminal:
        # A pipe has no width: nothing is cut.
        console.width = 10_000
    console.print(table)
