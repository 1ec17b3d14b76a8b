"""The commands of `bema`, as the terminal names them."""

from __future__ import annotations

from importlib import metadata
from typing import Annotated

import typer

from bema_cli.commands import checking, data, dead_letters, developing, examining, following, listing

app = typer.Typer(
    name="bema",
    help="A backend as Steps: run it here, check it, bring it to Kubernetes.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(metadata.version("bema-cli"))
        raise typer.Exit


@app.callback()
def _bema(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    pass


app.command()(developing.dev)
app.command()(checking.check)
app.command()(checking.render)
app.command()(listing.steps)
app.command()(following.logs)
app.command()(examining.doctor)
app.command()(data.emit)
app.add_typer(data.state, name="state")
app.add_typer(dead_letters.dlq, name="dlq")
