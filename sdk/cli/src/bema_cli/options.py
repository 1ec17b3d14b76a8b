"""Options and arguments that several commands share."""

from __future__ import annotations

import datetime
import os
import re
import sys
from pathlib import Path
from typing import Annotated

import dotenv
import typer

from bema.contract import errors, letters, names
from bema_cli import kubeconfigs

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


def _given(text: str | None) -> str | None:
    """A filter that is empty, as an unset variable of the shell makes it, is a mistake: it must never mean all."""
    if text is not None and not text.strip():
        raise typer.BadParameter(f"expected a text to choose by, found {text!r}")
    return text


Step = Annotated[str | None, typer.Option("--step", callback=_given, help="Only of this Step.")]
Topic = Annotated[str | None, typer.Option("--topic", callback=_given, help="Only of events on this topic.")]
Reason = Annotated[
    str | None,
    typer.Option("--reason", callback=_given, help="Only with this reason, such as AttemptsExhausted."),
]
Since = Annotated[
    str | None,
    typer.Option("--since", metavar="TIME", help="Only dead since this time: RFC 3339, or 2h for two hours ago."),
]
Until = Annotated[str | None, typer.Option("--until", metavar="TIME", help="Only dead before this time.")]
Error = Annotated[
    str | None,
    typer.Option(
        "--error", metavar="TEXT", callback=_given, help="Only with this in the last error's type or message."
    ),
]
All = Annotated[bool, typer.Option("--all", help="All there are.")]
Yes = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Say what would be done, and change nothing.")]
App = Annotated[str | None, typer.Option("--app", help="Name of the app: its namespace, or the folder's name.")]

Context = Annotated[
    str | None, typer.Option("--context", help="Context of the kubeconfig.", show_default="the current one")
]
Kubeconfig = Annotated[
    Path | None,
    typer.Option(
        "--kubeconfig", help="Kubeconfig file.", show_default="KUBECONFIG, else ~/.kube/config", dir_okay=False
    ),
]
Namespace = Annotated[
    str | None, typer.Option("--namespace", "-n", help="Namespace of the Steps.", show_default="that of the context")
]


def _dev_only(value: str | None) -> None:
    if value is not None:
        raise typer.BadParameter(
            "this command works on `bema dev` for now, not on a cluster: expected --dir FOLDER, or --nats URL with "
            f"--app NAME, found {value!r}"
        )


DevOnly = Annotated[
    str | None,
    typer.Option("--context", "--kubeconfig", "--namespace", "-n", hidden=True, callback=_dev_only),
]
"""For commands that do not speak to a cluster yet: they say so."""


def place(kubeconfig: Path | None, context: str | None, namespace: str | None) -> kubeconfigs.Place:
    """The cluster that is meant. Raises `KubeconfigInvalid`."""
    if namespace is not None and not names.is_label(namespace):
        raise typer.BadParameter(f"expected a namespace such as my-shop, found {namespace!r}", param_hint="--namespace")
    wanted = kubeconfigs.Wanted(kubeconfig=kubeconfig, context=context, namespace=namespace)
    return kubeconfigs.find(wanted, os.environ, Path.home())


_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86_400, "w": 604_800}


def moment(text: str | None, now: datetime.datetime, *, hint: str) -> datetime.datetime | None:
    """A time in RFC 3339, or so long before `now`: 90s, 15m, 2h, 7d, 1w."""
    if text is None:
        return None
    ago = re.fullmatch(r"([0-9]{1,6})([smhdw])", text)
    try:
        if ago is not None:
            return now - datetime.timedelta(seconds=int(ago[1]) * _UNITS[ago[2]])
        return letters.moment(text)
    except (errors.NameInvalid, OverflowError) as error:
        raise typer.BadParameter(
            f"expected a time such as 2026-01-31T09:00:00Z, or 2h for two hours ago, found {text!r}", param_hint=hint
        ) from error


def text_of(data: str) -> str:
    """An argument, or standard input where it is `-`."""
    return sys.stdin.read() if data == "-" else data


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
