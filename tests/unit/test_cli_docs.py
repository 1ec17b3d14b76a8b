"""docs/cli.md names every command and every option; commands are quick to say what they are."""

import subprocess
import sys
from pathlib import Path

import click
import pytest
import typer
from typer.testing import CliRunner

from bema_cli import events
from bema_cli.application import app

DOCS = (Path(__file__).parents[2] / "docs/cli.md").read_text("utf-8")


def commands() -> list[tuple[str, click.Command]]:
    found: list[tuple[str, click.Command]] = []
    waiting = [("bema", typer.main.get_command(app))]
    while waiting:
        name, command = waiting.pop()
        for below, inner in getattr(command, "commands", {}).items():
            (waiting if hasattr(inner, "commands") else found).append((f"{name} {below}", inner))
    return sorted(found)


@pytest.mark.parametrize(("name", "command"), commands(), ids=[name for name, _ in commands()])
def test_a_command_and_its_options_are_in_the_docs(name: str, command: click.Command) -> None:
    assert f"`{name}" in DOCS
    for parameter in command.params:
        if getattr(parameter, "hidden", False) or parameter.param_type_name == "argument":
            continue
        names = [*parameter.opts, *parameter.secondary_opts]
        assert any(f"`{option}" in DOCS for option in names), names
    assert any("--json" in parameter.opts for parameter in command.params)


def test_the_docs_name_every_event() -> None:
    for event in (events.Ready, events.Idle, events.Reload, events.Problems, events.Note, events.WorkerExit):
        assert f"`{events.name_of(event)}`" in DOCS
    for event in (events.Log, events.Output, events.Stopping, events.Stopped):
        assert f"`{events.name_of(event)}`" in DOCS


def test_version() -> None:
    result = CliRunner().invoke(app, ["--version"])
    assert (result.exit_code, result.stdout) == (0, "0.1.0\n")


def test_what_speaks_to_a_cluster_is_loaded_only_when_it_is_needed() -> None:
    """It takes longer than all the rest, and `bema dev` does without."""
    code = "import sys, bema_cli.application; print('kubernetes' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"
