"""`bema dev`."""

from __future__ import annotations

import asyncio
import logging
from pathlib import Path
from typing import Annotated

import typer

from bema.contract import names
from bema_cli import brokers, consoles, options, reports, supervisors


def dev(
    folder: options.Folder = Path(),
    same_folder: options.FolderOption = None,
    app: options.App = None,
    host: Annotated[str, typer.Option("--host", help="Address on which api Steps answer.")] = brokers.HOST,
    port: Annotated[
        int | None,
        typer.Option(
            "--port", "-p", min=1, max=65535, help="Port of the api Steps.", show_default="3000, or the next free one"
        ),
    ] = None,
    persist: Annotated[
        bool, typer.Option("--persist", help="Keep events and state between runs, in .bema/nats.")
    ] = False,
    reload: Annotated[bool, typer.Option(help="Restart the Steps when their files change.")] = True,
    as_json: options.Json = False,
) -> None:
    """Run the Steps of a folder here, without a cluster. Ctrl-C stops it."""
    if app is not None and not names.is_label(app):
        raise typer.BadParameter(f"expected a name such as my-shop, found {app!r}", param_hint="--app")
    folder = same_folder or folder
    settings = supervisors.Settings(
        folder=folder, app=app or options.app_of(folder), host=host, port=port, persist=persist, reload=reload
    )
    for noisy in ("bema", "watchfiles"):
        # The supervisor itself says what matters about its broker.
        logging.getLogger(noisy).setLevel(logging.ERROR)
    tell = reports.as_json if as_json else reports.for_people()
    with consoles.failing(as_json=as_json):
        raise typer.Exit(asyncio.run(supervisors.Supervisor(settings, tell).run()))
