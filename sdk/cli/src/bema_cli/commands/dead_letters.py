"""`bema dlq`: dead letters listed, shown, edited, redriven and discarded."""

from __future__ import annotations

import asyncio
import datetime
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from bema.contract import errors
from bema.contract.letters import DeadLetter, Filter, Summary
from bema.ports import admin, dead_letters, rounds
from bema.ports.jetstream import JetStream
from bema.ports.rounds import Outcome, Result
from bema_cli import apps, consoles, letters, options
from bema_cli.apps import Target

dlq = typer.Typer(help="Dead letters: events whose runs failed for good.", no_args_is_help=True)

Run = Annotated[str, typer.Argument(metavar="RUN", help="The run, as `bema dlq list` names it.")]
Runs = Annotated[list[str] | None, typer.Argument(metavar="RUN", help="Runs, as `bema dlq list` names them.")]
Round = Callable[[JetStream, AsyncIterator[Summary]], AsyncIterator[Result]]


@dlq.command("list")
def dlq_list(
    step: options.Step = None,
    topic: options.Topic = None,
    reason: options.Reason = None,
    since: options.Since = None,
    until: options.Until = None,
    error: options.Error = None,
    limit: Annotated[int, typer.Option("--limit", min=1, help="Dead letters at most.")] = 100,
    cursor: Annotated[
        int, typer.Option("--cursor", min=0, max=letters.LAST_CURSOR, help="Where the page before ended, as it says.")
    ] = 0,
    folder: options.Dir = Path(),
    nats: options.Nats = None,
    app: options.App = None,
    cluster: options.DevOnly = None,
    as_json: options.Json = False,
) -> None:
    """List dead letters, the oldest first."""
    with consoles.failing(as_json=as_json):
        wanted = _filter(step, topic, reason, since, until, error)
        target = apps.target(folder, nats=nats, app=app)

        async def read() -> dead_letters.Page:
            async with apps.connected(target) as js:
                return await dead_letters.page(js, target.place, wanted, limit=limit, after=cursor)

        page = asyncio.run(read())
    letters.write_page(page, as_json=as_json)


@dlq.command("show")
def dlq_show(
    run: Run,
    folder: options.Dir = Path(),
    nats: options.Nats = None,
    app: options.App = None,
    cluster: options.DevOnly = None,
    as_json: options.Json = False,
) -> None:
    """Show a dead letter: its event, and the errors of its attempts."""
    with consoles.failing(as_json=as_json):
        target = apps.target(folder, nats=nats, app=app)

        async def read() -> DeadLetter:
            async with apps.connected(target) as js:
                return await _find(js, target, run)

        letter = asyncio.run(read())
    letters.write(letter, as_json=as_json)


@dlq.command("edit")
def dlq_edit(
    run: Run,
    data: Annotated[str, typer.Option("--data", help="The new data: JSON, or - to read it from standard input.")],
    dry_run: options.DryRun = False,
    folder: options.Dir = Path(),
    nats: options.Nats = None,
    app: options.App = None,
    cluster: options.DevOnly = None,
    as_json: options.Json = False,
) -> None:
    """Replace the data of a dead letter. It stays one; everything else of it is kept."""
    with consoles.failing(as_json=as_json):
        target = apps.target(folder, nats=nats, app=app)
        body = apps.parse_data(options.text_of(data))

        async def change() -> int:
            async with apps.connected(target) as js:
                letter = await _find(js, target, run)
                if dry_run:
                    return letter.size
                await dead_letters.edit(js, target.place, letter, body, now=apps.now())
                return letter.size

        before = asyncio.run(change())
    letters.write_edit(run, before, len(body), dry_run=dry_run, as_json=as_json)


@dlq.command("redrive")
def dlq_redrive(
    runs: Runs = None,
    everything: options.All = False,
    step: options.Step = None,
    topic: options.Topic = None,
    reason: options.Reason = None,
    since: options.Since = None,
    until: options.Until = None,
    error: options.Error = None,
    data: Annotated[
        str | None, typer.Option("--data", help="Other data for the one run: JSON, or - for standard input.")
    ] = None,
    rate: Annotated[float, typer.Option("--rate", min=0.001, help="Redrives a second at most.")] = rounds.RATE,
    yes: options.Yes = False,
    dry_run: options.DryRun = False,
    folder: options.Dir = Path(),
    nats: options.Nats = None,
    app: options.App = None,
    cluster: options.DevOnly = None,
    as_json: options.Json = False,
) -> None:
    """Send the events of dead letters again, each as a run of its own: one, several, or all that are meant."""
    with consoles.failing(as_json=as_json):
        wanted = _filter(step, topic, reason, since, until, error)
        chosen = _Choice.of(runs, wanted, everything=everything)
        if data is not None and len(chosen.runs) != 1:
            raise typer.BadParameter(
                f"expected one RUN for the data, found {len(chosen.runs) or 'a filter'}", param_hint="--data"
            )
        body = None if data is None else apps.parse_data(options.text_of(data))
        target = apps.target(folder, nats=nats, app=app)

        def work(js: JetStream, chosen: AsyncIterator[Summary]) -> AsyncIterator[Result]:
            return rounds.redrive(js, target.place, chosen, rate=rate, data=body, dry_run=dry_run)

        ask = "Redrive" if not yes and not dry_run and not chosen.runs else None
        _change(target, chosen, work, ask, letters.Report("redriven", dry_run=dry_run, as_json=as_json))


@dlq.command("discard")
def dlq_discard(
    runs: Runs = None,
    everything: options.All = False,
    step: options.Step = None,
    topic: options.Topic = None,
    reason: options.Reason = None,
    since: options.Since = None,
    until: options.Until = None,
    error: options.Error = None,
    yes: options.Yes = False,
    dry_run: options.DryRun = False,
    folder: options.Dir = Path(),
    nats: options.Nats = None,
    app: options.App = None,
    cluster: options.DevOnly = None,
    as_json: options.Json = False,
) -> None:
    """Remove dead letters for good: one, several, or all that are meant."""
    with consoles.failing(as_json=as_json):
        chosen = _Choice.of(runs, _filter(step, topic, reason, since, until, error), everything=everything)
        target = apps.target(folder, nats=nats, app=app)

        def work(js: JetStream, chosen: AsyncIterator[Summary]) -> AsyncIterator[Result]:
            return rounds.discard(js, target.place, chosen, dry_run=dry_run)

        ask = "Discard" if not yes and not dry_run else None
        _change(target, chosen, work, ask, letters.Report("discarded", dry_run=dry_run, as_json=as_json))


@dataclass(frozen=True, slots=True)
class _Choice:
    """Runs by their names, or all that a filter lets through."""

    runs: Sequence[str]
    wanted: Filter

    @classmethod
    def of(cls, runs: Sequence[str] | None, wanted: Filter, *, everything: bool) -> _Choice:
        named, filtered = list(dict.fromkeys(runs or ())), wanted != Filter()
        if bool(named) + filtered + everything != 1:
            found = [
                what for what, is_there in (("runs", named), ("a filter", filtered), ("--all", everything)) if is_there
            ]
            raise typer.BadParameter(
                f"expected runs, or filters such as --step, or --all, found {' and '.join(found) or 'none'}",
                param_hint="RUN",
            )
        return cls([apps.run_id(run) for run in named], wanted)


def _filter(
    step: str | None, topic: str | None, reason: str | None, since: str | None, until: str | None, error: str | None
) -> Filter:
    now = datetime.datetime.now(datetime.UTC)
    return Filter(
        step=None if step is None else apps.step_name(step),
        topic=topic,
        reason=reason,
        since=options.moment(since, now, hint="--since"),
        until=options.moment(until, now, hint="--until"),
        error=error,
    )


async def _find(js: JetStream, target: Target, run: str) -> DeadLetter:
    letter = await dead_letters.find(js, target.place, apps.run_id(run))
    if letter is None:
        raise errors.BemaError(f"expected a dead letter of run {run!r}, found none; `bema dlq list` names them")
    return letter


def _change(target: Target, choice: _Choice, work: Round, ask: str | None, report: letters.Report) -> None:
    """Choose, ask where that is wanted, change one after the other, report. Exit code 1 when any was refused, or when
    one that was named had been taken by somebody else."""
    chosen = asyncio.run(_choose(target, choice))
    if ask is not None and chosen.count:
        consoles.confirm(f"{ask} {letters.counted(chosen.count)} of app {target.app!r}?")
    try:
        asyncio.run(_work(target, chosen, work, report))
    except errors.BemaError as error:
        report.write(str(error))
        raise typer.Exit(consoles.FAILED) from error
    report.write()
    failures = {Outcome.REFUSED, Outcome.MOVED} if choice.runs else {Outcome.REFUSED}
    if any(result.outcome in failures for result in report.results):
        raise typer.Exit(consoles.FAILED)


@dataclass(frozen=True, slots=True)
class _Chosen:
    count: int
    named: Sequence[Summary]
    wanted: Filter
    through: int
    """What dies later, a redrive that fails again among it, was not meant."""

    async def letters(self, js: JetStream, target: Target) -> AsyncIterator[Summary]:
        for summary in self.named:
            yield summary
        if not self.named:
            async for summary in dead_letters.scan(js, target.place, self.wanted, through=self.through):
                yield summary


async def _choose(target: Target, choice: _Choice) -> _Chosen:
    async with apps.connected(target) as js:
        named = [await _find(js, target, run) for run in choice.runs]
        through = await admin.last_sequence(js, target.stream)
        count = len(named) or await dead_letters.count(js, target.place, choice.wanted, through=through)
        return _Chosen(count, named, choice.wanted, through)


async def _work(target: Target, chosen: _Chosen, work: Round, report: letters.Report) -> None:
    async with apps.connected(target) as js:
        with consoles.progress(report.done, chosen.count, quiet=report.as_json) as advance:
            async for result in work(js, chosen.letters(js, target)):
                report.results.append(result)
                advance()
