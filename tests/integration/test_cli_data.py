"""`bema emit` and `bema state` against a running `bema dev`."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result
from typer.testing import CliRunner

from bema_cli.application import app
from tests.support import devs
from tests.support.devs import Dev

KEEP = """
config = {"triggers": [{"event": {"topics": ["keep", "drop"]}}]}
def handler(data, ctx):
    if ctx.trigger.topic == "keep":
        ctx.state.set("kept", data["key"], {"value": data["value"], "from": dict(ctx.headers), "trace": ctx.trace_id})
    else:
        ctx.state.delete("kept", data["key"])
    print("done", data["key"])
"""


@pytest.fixture(scope="module")
def dev(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Dev]:
    folder = devs.write(tmp_path_factory.mktemp("data") / "shop", {"steps/keep_step.py": KEEP})
    with devs.running(folder, "--no-reload") as running:
        running.next("ready")
        yield running


def bema(dev: Dev, *arguments: str, input: str | None = None) -> Result:
    result = CliRunner().invoke(app, [*arguments, "--dir", str(dev.folder)], input=input)
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result


def read(dev: Dev, *arguments: str) -> Any:
    result = bema(dev, *arguments, "--json")
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


def keep(dev: Dev, key: str, value: Any, *options: str) -> dict[str, Any]:
    """Send an event that the Step keeps, and wait until it has."""
    sent: dict[str, Any] = read(dev, "emit", "keep", json.dumps({"key": key, "value": value}), *options)
    dev.next("output", lambda event: event["text"] == f"done {key}")
    dev.until(lambda: bema(dev, "state", "get", "kept", key).exit_code == 0, f"the value of {key!r}")
    return sent


def test_an_event_reaches_its_step_with_key_headers_and_trace(dev: Dev) -> None:
    sent = keep(dev, "a.b *", "☃", "--key", "ann", "--header", "x=1", "--header", "Y=a=b")
    assert sent.keys() == {"id", "topic", "trace", "heard"}
    assert (sent["topic"], sent["heard"], len(sent["id"])) == ("keep", True, 26)
    found = read(dev, "state", "get", "kept", "a.b *")
    assert found["value"] == {"value": "☃", "from": {"x": "1", "Y": "a=b"}, "trace": sent["trace"]}
    assert found.keys() == {"group", "key", "value", "revision", "time"}


def test_data_may_come_from_standard_input(dev: Dev) -> None:
    result = bema(dev, "emit", "keep", "-", input='{"key": "piped", "value": 1}\n')
    assert (result.exit_code, len(result.stdout.strip()), result.stderr) == (0, 26, "")
    dev.next("output", lambda event: event["text"] == "done piped")


def test_an_event_that_nobody_hears_is_sent_with_a_warning(dev: Dev) -> None:
    result = bema(dev, "emit", "nobody.hears.this")
    assert (result.exit_code, result.stderr) == (0, "! no Step hears 'nobody.hears.this'\n")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        pytest.param(
            ["keep", "{key}"],
            "expected JSON, found '{key}': Expecting property name enclosed in double quotes: line 1 column 2 (char 1)",
            id="no JSON",
        ),
        pytest.param(["keep", "NaN"], "data: expected a value that JSON can hold, found nan", id="not quite JSON"),
        pytest.param(
            ["keep", "1", "--header", "Nats-Rollup=all"],
            "header names that begin with Nats-, Bema- or ce-, and content-type, traceparent, tracestate, are "
            "reserved; found 'Nats-Rollup'",
            id="a header of ours",
        ),
        pytest.param(
            ["keep", f'"{"x" * 800_000}"'], "data: expected at most 786432 bytes of JSON, found 800002", id="large"
        ),
    ],
)
def test_what_cannot_be_sent_is_refused(dev: Dev, arguments: list[str], said: str) -> None:
    result = bema(dev, "emit", *arguments)
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr.startswith(f"✗ {said}")


def test_a_header_without_a_value_is_a_usage_error(dev: Dev) -> None:
    result = bema(dev, "emit", "keep", "1", "--header", "x")
    assert result.exit_code == 2
    assert "expected NAME=VALUE, found 'x'" in result.stderr


def test_state_is_read_and_what_is_deleted_is_not_there(dev: Dev) -> None:
    for key in ("list/2", "list/10", "list/1"):
        keep(dev, key, key)
    rows = read(dev, "state", "list", "kept", "--prefix", "list/")
    assert [(row["group"], row["key"], row["value"]["value"]) for row in rows] == [
        ("kept", "list/1", "list/1"),
        ("kept", "list/10", "list/10"),
        ("kept", "list/2", "list/2"),
    ]
    assert [row["key"] for row in read(dev, "state", "list", "kept", "--prefix", "list/", "--limit", "2")] == [
        "list/1",
        "list/10",
    ]
    bema(dev, "emit", "drop", '{"key": "list/10"}')
    dev.until(
        lambda: [row["key"] for row in read(dev, "state", "list", "kept", "--prefix", "list/")] == ["list/1", "list/2"],
        "the key to be gone from the list",
    )
    gone = bema(dev, "state", "get", "kept", "list/10")
    assert (gone.exit_code, gone.stdout) == (1, "")
    assert gone.stderr == "✗ expected a value of 'list/10' in state group 'kept', found none\n"
    plain = bema(dev, "state", "get", "kept", "list/1").stdout
    assert json.loads(plain)["value"] == "list/1"
    table = bema(dev, "state", "list", "kept", "--prefix", "list/1").stdout.splitlines()
    assert [line.split()[0] for line in table] == ["KEY", "list/1"]


def test_a_key_that_never_was_is_an_error_for_programs_too(dev: Dev) -> None:
    result = bema(dev, "state", "get", "kept", "never", "--json")
    assert result.exit_code == 1
    assert json.loads(result.stdout) == {"error": "expected a value of 'never' in state group 'kept', found none"}
    assert read(dev, "state", "list", "never") == []


def test_a_broker_may_be_named(dev: Dev) -> None:
    (ready,) = dev.heard("ready")
    named = ["--nats", ready["nats"], "--app"]
    result = CliRunner().invoke(app, ["state", "list", "kept", *named, "shop", "--json"])
    assert result.exit_code == 0
    other = CliRunner().invoke(app, ["state", "list", "kept", *named, "other"])
    assert other.stderr == f"✗ expected an app named 'other' on {ready['nats']}, found none\n"
    assert other.exit_code == 1


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        pytest.param(
            ["--nats", "nats://127.0.0.1:1"],
            "--nats URL (or BEMA_NATS_URL, if that is set) needs --app NAME: expected an app's name, found none",
            id="no app",
        ),
        pytest.param(
            ["--app", "My App", "--nats", "x"], "--app: expected a name such as my-shop, found 'My App'", id="no name"
        ),
    ],
)
def test_a_broker_is_named_with_an_app(arguments: list[str], said: str) -> None:
    result = CliRunner().invoke(app, ["state", "get", "a", "b", *arguments])
    assert (result.exit_code, result.stderr) == (1, f"✗ {said}\n")


def test_nothing_running_here_says_how_to_start_it(tmp_path: Path) -> None:
    result = CliRunner().invoke(app, ["emit", "a", "--dir", str(tmp_path)])
    assert result.exit_code == 1
    assert result.stderr == (
        f"✗ expected `bema dev` to run in {tmp_path}, found none; start it there, name its folder with --dir, "
        "or name a server with --nats URL --app NAME; `bema emit`, `state` and `dlq` work on `bema dev` for now, "
        "not on a cluster\n"
    )


@pytest.mark.parametrize("command", [["emit", "a"], ["state", "list", "a"], ["dlq", "list"], ["dlq", "discard", "a"]])
@pytest.mark.parametrize("option", ["--context", "--kubeconfig", "--namespace", "-n"])
def test_what_works_on_bema_dev_only_says_so(command: list[str], option: str) -> None:
    result = CliRunner().invoke(app, [*command, option, "x"])
    assert result.exit_code == 2
    assert "works on `bema dev` for now, not on a cluster: expected --dir FOLDER" in result.stderr
