"""Options and arguments that several commands share."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import dotenv
import typer

from bema.contract import errors, names

Json = Annotated[bool, typer.Option("--json", help="Write JSON for programs.")]
Folder = Annotated[
    Path, typer.Argument(metavar="DIR", help="The app's folder.", exists=True, file_okay=False, resolve_path=True)
]
FolderOption = Annotated[
    Path | None,
    typer.Option("--dir", help="The same as DIR.", exists=True, file_okay=False, resolve_path=True, hidden=True),
]
Dir = Annotated[
    Path, typer.Option("--dir", help="The folder in which `bema dev` runs.", file_okay=False, resolve_path=True)
]
Image = Annotated[
    str | None, typer.Option("--image", help="The Steps' code is in this image, in /app, instead of inside the Steps.")
]
Nats = Annotated[
    str | None,
    typer.Option(
        "--nats", help="URL of a NATS server to use instead of the one of `bema dev`.", envvar=names.ENV_NATS_URL
    ),
]
App = Annotated[str | None, typer.Option("--app", help="Name of the app: its namespace, or the folder's name.")]


def app_of(folder: Path) -> str:
    """The name of an app that has not been given one: its folder's."""
    return names.label(folder.name)


def env_of(folder: Path) -> dict[str, str]:
    """The environment of user code: this process's own, and what `.env` adds to it. Raises `StepInvalid`."""
    try:
        found = dotenv.dotenv_values(folder / ".env")
    except UnicodeDecodeError as error:
        raise errors.StepInvalid(f"expected UTF-8, found byte 0x{error.object[error.start]:02x}") from error
    file = {name: value for name, value in found.items() if value is not None}
    return {**file, **os.environ}
