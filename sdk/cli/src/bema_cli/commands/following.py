"""`bema logs`: what a Step's pods have logged, and what they log."""

from __future__ import annotations

import asyncio
import contextlib
import datetime
import difflib
from typing import TYPE_CHECKING, Annotated

import typer
from rich.text import Text

from bema.contract import errors, names
from bema_cli import consoles, log_lines, options, reports
from bema_cli.log_lines import Choice, Line

if TYPE_CHECKING:
    from bema_cli.followers import Tell, Told
    from bema_cli.kubeconfigs import Place

_COLOURS = ("cyan", "magenta", "blue", "green", "yellow", "bright_cyan", "bright_magenta", "bright_blue")
"""Of pods, in the order in which they are met."""


class StepUnknown(errors.BemaError):
    """There is no Step of that name."""


def logs(
    step: Annotated[str, typer.Argument(metavar="STEP", help="Name of the Step.")],
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on with what is added, until Ctrl-C.")] = False,
    trace: Annotated[str | None, typer.Option("--trace", metavar="ID", help="Only of this trace, or its end.")] = None,
    level: Annotated[
        str | None, typer.Option("--level", metavar="LEVEL", help="Only of this level or above, such as WARNING.")
    ] = None,
    since: Annotated[
        str | None, typer.Option("--since", metavar="TIME", help="Only since: RFC 3339, or 10m for ten minutes ago.")
    ] = None,
    tail: Annotated[
        int | None, typer.Option("--tail", min=0, help="Only the last lines, of all pods together.")
    ] = None,
    previous: Annotated[bool, typer.Option("--previous", help="Of the containers before their last restart.")] = False,
    namespace: options.Namespace = None,
    context: options.Context = None,
    kubeconfig: options.Kubeconfig = None,
    as_json: options.Json = False,
) -> None:
    """Show what the pods of a Step on a cluster have logged."""
    if follow and previous:
        raise typer.BadParameter("expected --follow or --previous, found both", param_hint="--previous")
    with consoles.failing(as_json=as_json):
        now = datetime.datetime.now(datetime.UTC)
        begin = options.moment(since, now, hint="--since")
        choice = Choice(
            trace=trace or None,
            level=_level(level),
            since=0 if begin is None else int(begin.timestamp() * 1000) * (log_lines.NANOS // 1000),
        )
        place = options.place(kubeconfig, context, namespace)
        with contextlib.suppress(KeyboardInterrupt):
            asyncio.run(_run(place, names.label(step), choice, tail, follow, previous, _json if as_json else _text()))


def _level(text: str | None) -> str | None:
    if text is not None and text.upper() not in log_lines.LEVELS:
        raise typer.BadParameter(f"expected {', '.join(log_lines.LEVELS)}, found {text!r}", param_hint="--level")
    return text


async def _run(
    place: Place, step: str, choice: Choice, tail: int | None, follow: bool, previous: bool, tell: Tell
) -> None:
    from bema_cli import clusters, followers

    async with clusters.connected(place) as cluster:
        others = await followers.find(cluster, place.namespace, step)
        if others is not None:
            raise StepUnknown(unknown(step, place.namespace, others))
        request = followers.Request(namespace=place.namespace, step=step, choice=choice, tail=tail, previous=previous)
        try:
            await (followers.follow if follow else followers.read)(cluster, request, tell)
        except BaseExceptionGroup as group:
            raise _first(group) from group


def _first(group: BaseExceptionGroup[BaseException]) -> BaseException:
    """What a group of tasks ended by: the first of it says enough."""
    found: BaseException = group
    while isinstance(found, BaseExceptionGroup):
        found = found.exceptions[0]
    return found


def unknown(step: str, namespace: str, others: list[str]) -> str:
    """That there is no such Step, with the nearest name."""
    near = difflib.get_close_matches(step, others, n=1)
    hint = f"; did you mean {near[0]!r}?" if near else "; `bema steps` lists them" if others else "; it has no Steps"
    return f"expected a Step named {step!r} in namespace {namespace!r}, found none{hint}"


def _json(told: Told) -> None:
    if isinstance(told, Line):
        consoles.write_json(log_lines.plain(told))
    else:
        _note(told.text, told.level)


def _text() -> Tell:
    """Lines for people, each pod in a colour of its own."""
    console = consoles.out()
    styles: dict[str, str] = {}

    def tell(told: Told) -> None:
        if not isinstance(told, Line):
            _note(told.text, told.level)
            return
        style = styles.setdefault(told.pod, _COLOURS[len(styles) % len(_COLOURS)])
        if told.record is None:
            # As its author wrote it, colours and all.
            console.print(Text.assemble((reports.clock(told.time), "dim"), " ", (told.pod, style)), end=" ")
            typer.echo(told.text)
            return
        for item in reports.record(told.record, source=told.pod, style=style):
            console.print(item)

    return tell


def _note(text: str, level: str) -> None:
    sign, style = ("!", "yellow") if level == "warning" else ("·", "dim")
    consoles.err().print(consoles.line(sign, style, text))
