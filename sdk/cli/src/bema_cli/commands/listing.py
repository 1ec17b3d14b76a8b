"""`bema steps`: the Steps of a cluster, as they are or as they change."""

from __future__ import annotations

import asyncio
import contextlib
import datetime
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Annotated, Any

import typer
from rich.console import Group, RenderableType
from rich.live import Live
from rich.text import Text

from bema.clusters import kinds
from bema_cli import consoles, options, sights, step_rows
from bema_cli.kubeconfigs import Place
from bema_cli.sights import Change, Complete, Lost, News
from bema_cli.step_rows import Mark, Row

REDRAW_SECONDS = 1.0
"""A live table is drawn again after this time: ages grow."""


def steps(
    watch: Annotated[bool, typer.Option("--watch", "-w", help="Go on showing what changes, until Ctrl-C.")] = False,
    namespace: options.Namespace = None,
    all_namespaces: Annotated[bool, typer.Option("--all-namespaces", "-A", help="Of all namespaces.")] = False,
    context: options.Context = None,
    kubeconfig: options.Kubeconfig = None,
    as_json: options.Json = False,
) -> None:
    """Show the Steps of a cluster, and what keeps any of them from being ready."""
    if all_namespaces and namespace is not None:
        raise typer.BadParameter("expected one namespace or all of them, found both", param_hint="--all-namespaces")
    with consoles.failing(as_json=as_json):
        place = options.place(kubeconfig, context, namespace)
        view = _View(place, all_namespaces=all_namespaces)
        if not watch:
            _write(asyncio.run(_list(view)), view, as_json=as_json)
            return
        with contextlib.suppress(KeyboardInterrupt):
            asyncio.run(_watch(view, as_json=as_json))


@dataclass(slots=True)
class _View:
    """Which Steps are meant, and those of them that are known."""

    place: Place
    all_namespaces: bool
    rows: dict[tuple[str, str], Row] = field(default_factory=dict)
    trouble: str = ""
    """Why there is no news, while there is none."""

    @property
    def namespace(self) -> str | None:
        return None if self.all_namespaces else self.place.namespace

    def take(self, news: News) -> None:
        self.trouble = news.why if isinstance(news, Lost) else ""
        if isinstance(news, Change):
            row = step_rows.row(news.object)
            if news.what is sights.What.REMOVED:
                self.rows.pop((row.namespace, row.name), None)
            else:
                self.rows[row.namespace, row.name] = row

    def sorted(self) -> list[Row]:
        return sorted(self.rows.values(), key=step_rows.sort_key)

    def nothing(self) -> str:
        where = "in any namespace" if self.all_namespaces else f"in namespace {self.place.namespace}"
        return f"no Steps {where} of {self.place.server} (context {self.place.context})"

    def table(self, rows: Iterable[Row]) -> RenderableType:
        heads = step_rows.HEADS_ALL if self.all_namespaces else step_rows.HEADS
        now = datetime.datetime.now(datetime.UTC)
        return consoles.grid(
            heads, [step_rows.cells(row, now, all_namespaces=self.all_namespaces) for row in rows], right=heads[-3:]
        )

    def whole(self) -> RenderableType:
        """The table with everything below it."""
        rows = self.sorted()
        parts: list[RenderableType] = [self.table(rows)] if rows else [Text(self.nothing(), "dim")]
        if notes := step_rows.notes(rows, all_namespaces=self.all_namespaces):
            parts += [Text(""), *notes]
        if self.trouble:
            parts += [Text(""), consoles.line("!", "yellow", f"no news: {self.trouble}; trying again")]
        return Group(*parts)


async def _list(view: _View) -> list[Row]:
    from bema_cli import clusters

    async with clusters.connected(view.place) as cluster:
        found = await cluster.listed(kinds.STEP, view.namespace)
    return sorted((step_rows.row(item) for item in found.items), key=step_rows.sort_key)


def _write(rows: list[Row], view: _View, *, as_json: bool) -> None:
    if as_json:
        consoles.write_json([step_rows.plain(row) for row in rows])
    elif not rows:
        consoles.err().print(consoles.line("·", "dim", view.nothing()))
    else:
        consoles.wide().print(view.table(rows))
        for note in step_rows.notes(rows, all_namespaces=view.all_namespaces):
            consoles.err().print(note)


async def _watch(view: _View, *, as_json: bool) -> None:
    from bema_cli import cluster_watches, clusters

    async with clusters.connected(view.place) as cluster:
        news = cluster_watches.watch(cluster, kinds.STEP, view.namespace)
        async with contextlib.aclosing(news):
            if as_json:
                async for item in news:
                    _write_json(item)
            elif consoles.out().is_terminal:
                await _live(view, news)
            else:
                async for item in news:
                    view.take(item)
                    _write_line(view, item)


def _write_json(news: News) -> None:
    if isinstance(news, Change):
        consoles.write_json({"change": news.what.value, "step": step_rows.plain(step_rows.row(news.object))})
    elif isinstance(news, Lost):
        consoles.write_json({"change": "none", "error": news.why})


def _write_line(view: _View, news: News) -> None:
    """Where nothing can be drawn anew: a line for each change."""
    if isinstance(news, Lost):
        consoles.err().print(consoles.line("!", "yellow", f"no news: {news.why}; trying again"))
    if not isinstance(news, Change):
        return
    row = step_rows.row(news.object)
    now = datetime.datetime.now(datetime.UTC)
    found = step_rows.cells(row, now, all_namespaces=view.all_namespaces)
    consoles.out().print(Text("  ").join([Text(f"{news.what.value:<7}"), *found]))
    if row.mark is not Mark.READY and news.what is not sights.What.REMOVED:
        consoles.err().print(step_rows.note(row, all_namespaces=view.all_namespaces))


async def _live(view: _View, news: Any) -> None:
    """A table that is drawn again with each piece of news, and as ages grow."""
    changed = asyncio.Event()

    async def listen() -> None:
        complete = False
        async for item in news:
            view.take(item)
            complete = complete or isinstance(item, Complete)
            if complete:
                changed.set()

    listening = asyncio.create_task(listen())
    listening.add_done_callback(lambda _: changed.set())
    try:
        await changed.wait()
        with Live(console=consoles.wrapped(), auto_refresh=False) as live:
            while not listening.done():
                changed.clear()
                live.update(view.whole(), refresh=True)
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(changed.wait(), REDRAW_SECONDS)
    finally:
        listening.cancel()
        await asyncio.wait({listening})
    listening.result()
