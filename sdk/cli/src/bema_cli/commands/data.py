"""`bema emit` and `bema state`."""

from __future__ import annotations

import asyncio
import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from bema.contract import errors
from bema.contract.envelopes import Event
from bema_cli import apps, consoles, options
from bema_cli.apps import Entry, Target

state = typer.Typer(help="Read the app's state.", no_args_is_help=True)


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
    cluster: options.DevOnly = None,
    as_json: options.Json = False,
) -> None:
    """Send an event, and print its id."""
    with consoles.failing(as_json=as_json):
        headers = dict(_pair(item) for item in header or [])
        target = apps.target(folder, nats=nats, app=app)
        body = apps.parse_data(options.text_of(data))
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
    cluster: options.DevOnly = None,
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
        typer.echo(consoles.pretty(entry.value))


@state.command("list")
def state_list(
    group: Annotated[str, typer.Argument(metavar="GROUP")],
    prefix: Annotated[str, typer.Option("--prefix", help="Only keys that begin with this.")] = "",
    limit: Annotated[int, typer.Option("--limit", min=1, help="Entries at most.")] = 100,
    folder: options.Dir = Path(),
    nats: options.Nats = None,
    app: options.App = None,
    cluster: options.DevOnly = None,
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
    consoles.table(
        ("KEY", "REVISION", "VALUE"), [(item.key, str(item.revision), json.dumps(item.value)) for item in entries]
    )
