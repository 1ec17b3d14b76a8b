"""`bema dev` at a terminal: events as lines for people, or as JSON."""

from __future__ import annotations

import datetime
import json
from collections.abc import Callable, Iterator, Mapping
from typing import Any, assert_never

import typer
from rich.console import Console, Group, RenderableType
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from bema_cli import consoles, events
from bema_cli.events import Event

_LEVELS = {"DEBUG": "dim", "INFO": "green", "WARNING": "yellow", "ERROR": "bold red", "CRITICAL": "bold red"}
_SHOWN = ("time", "level", "message", "app", "step", "run", "attempt", "trace", "error")
_SHORT = 8


def as_json(event: Event) -> None:
    """One line of JSON for each event."""
    consoles.write_json(events.plain(event))


def for_people() -> Callable[[Event], None]:
    """Lines, with colour where there is a terminal."""
    console = consoles.out()

    def report(event: Event) -> None:
        if isinstance(event, events.Output):
            # As its author wrote it, colours and all.
            typer.echo(event.text)
            return
        for item in _render(event, console):
            console.print(item)

    return report


def _render(event: Event, console: Console) -> Iterator[RenderableType]:
    match event:
        case events.Ready(reason="start"):
            yield _overview(event, framed=console.is_terminal)
        case events.Ready():
            yield consoles.line("✓", "bold green", f"{event.reason}ed in {event.seconds:.1f} s")
        case events.Idle() | events.Note(level="info"):
            yield consoles.line("·", "cyan", event.text)
        case events.Note():
            yield consoles.line("!", "yellow", event.text)
        case events.Reload():
            yield consoles.line("↻", "cyan", f"reloading: {', '.join(event.files)}")
        case events.Problems():
            yield from _problems(event)
        case events.WorkerExit():
            text = f"the worker ended ({event.ending}); another starts in {event.restart_seconds:g} s"
            yield consoles.line("✗", "bold red", text)
        case events.Log():
            yield from record(event.record)
        case events.Output():
            yield Text(event.text)
        case events.Stopping():
            yield consoles.line("·", "cyan", "stopping; Ctrl-C again to stop at once")
        case events.Stopped():
            yield consoles.line("✓", "bold green", "stopped")
        case _:
            assert_never(event)


def _problems(event: events.Problems) -> Iterator[Text]:
    if not event.problems:
        yield consoles.line("✓", "bold green", "no problems any more")
    for problem in event.problems:
        line = f":{problem['line']}" if problem["line"] else ""
        yield consoles.line("✗", "bold red", f"{problem['file']}{line}: {problem['message']}")


def _overview(ready: events.Ready, *, framed: bool) -> RenderableType:
    table = Table.grid(padding=(0, 2))
    for step in ready.steps:
        for method, url in step.endpoints:
            table.add_row(Text(method, "bold cyan"), Text(url), Text(f"→ {step.name}", "green"))
        for topic in step.topics:
            table.add_row(Text("event", "bold magenta"), Text(topic), Text(f"→ {step.name}", "green"))
        for schedule in step.schedules:
            table.add_row(Text("cron", "bold yellow"), Text(schedule), Text(f"→ {step.name}", "green"))
        for group in step.groups:
            table.add_row(Text("state", "bold blue"), Text(group), Text(f"→ {step.name}", "green"))
        if not (step.endpoints or step.topics or step.schedules or step.groups):
            table.add_row(Text("noop", "dim"), Text(step.name, "dim"), Text(""))
    foot = Text(f"metrics {ready.metrics}   nats {ready.nats}", "dim")
    title = f"bema dev: {ready.app} is ready ({ready.seconds:.1f} s)"
    if framed:
        return Panel(Group(table, foot), title=Text(title, "bold"), title_align="left", expand=False)
    return Group(Text(title), table, foot)


def record(fields: Mapping[str, Any], *, source: str | None = None, style: str = "cyan") -> Iterator[Text]:
    """A log record as a line, with its traceback below it. `source`: who said it; its Step, if that is not given."""
    level = str(fields.get("level", "INFO"))
    line = Text.assemble(
        (clock(str(fields.get("time", ""))), "dim"),
        " ",
        (f"{level:<7}", _LEVELS.get(level, "")),
        " ",
        (source or f"{fields.get('step', '-')}", style),
        " ",
        str(fields.get("message", "")),
    )
    for name in ("run", "trace"):
        if fields.get(name):
            # The end: ids of api runs begin with the time
            line.append(f" {name}={str(fields[name])[-_SHORT:]}", "dim")
    if fields.get("attempt", 1) != 1:
        line.append(f" attempt={fields['attempt']}", "yellow")
    for name, value in fields.items():
        if name not in _SHOWN:
            line.append(f" {name}={value if isinstance(value, str) else json.dumps(value)}", "dim")
    yield line
    if fields.get("error"):
        yield Text(str(fields["error"]), "red")


def clock(time: str) -> str:
    """The time of day here, with the day where it is not today."""
    try:
        moment = datetime.datetime.fromisoformat(time).astimezone()
    except ValueError:
        return time
    day = "" if moment.date() == datetime.datetime.now().astimezone().date() else moment.strftime("%m-%d ")
    return day + moment.strftime("%H:%M:%S.") + f"{moment.microsecond // 1000:03d}"
