"""`bema dlq` against a running `bema dev`."""

from __future__ import annotations

import json
import os
import pty
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest
from click.testing import Result
from typer.testing import CliRunner

from bema_cli.application import app
from tests.support import devs
from tests.support.devs import Dev

FAIL = """
config = {"triggers": [{"event": {"topics": ["fail", "fail.too"]}}],
          "retry": {"maxAttempts": 2, "initialSeconds": 0.01}}
def handler(data, ctx):
    if data.get("ok") or ctx.state.get("bank", "open"):
        ctx.state.set("ran", str(data["n"]), ctx.run_id)
        return
    raise ValueError(f"no {data}, attempt {ctx.attempt}")
"""


@pytest.fixture(scope="module")
def dev(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Dev]:
    folder = devs.write(tmp_path_factory.mktemp("dlq") / "shop", {"steps/fail_step.py": FAIL})
    with devs.running(folder, "--no-reload") as running:
        running.next("ready")
        yield running


@pytest.fixture(autouse=True)
def _clean(dev: Dev) -> Iterator[None]:
    yield
    bema(dev, "dlq", "discard", "--all", "--yes")


def bema(dev: Dev, *arguments: str, input: str | None = None) -> Result:
    result = CliRunner().invoke(app, [*arguments, "--dir", str(dev.folder)], input=input)
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result


def read(dev: Dev, *arguments: str, code: int = 0) -> Any:
    result = bema(dev, *arguments, "--json")
    assert result.exit_code == code, result.output
    return json.loads(result.stdout)


def listed(dev: Dev, *filters: str) -> list[dict[str, Any]]:
    items: list[dict[str, Any]] = read(dev, "dlq", "list", *filters)["items"]
    return items


def fail(dev: Dev, *numbers: int, topic: str = "fail") -> list[dict[str, Any]]:
    """Send events whose runs fail, and wait for their dead letters."""
    ids = [read(dev, "emit", topic, json.dumps({"n": number}), "--header", "x=1")["id"] for number in numbers]

    def dead() -> list[dict[str, Any]] | None:
        found = [item for item in listed(dev) if item["event"] in ids]
        return sorted(found, key=lambda item: ids.index(item["event"])) if len(found) == len(ids) else None

    letters: list[dict[str, Any]] = dev.until(dead, "the dead letters")
    return letters


def ran(dev: Dev, number: int) -> str:
    """The run that did it."""
    key = str(number)
    dev.until(lambda: bema(dev, "state", "get", "ran", key).exit_code == 0, f"run {number}")
    run: str = read(dev, "state", "get", "ran", key)["value"]
    return run


def test_dead_letters_are_listed_and_shown(dev: Dev) -> None:
    [letter] = fail(dev, 1)
    assert (letter["step"], letter["kind"], letter["topic"], letter["reason"], letter["attempts"]) == (
        "fail",
        "event",
        "fail",
        "AttemptsExhausted",
        2,
    )
    assert (letter["headers"], letter["size"], letter["source"]) == ({"x": "1"}, 7, "/apps/shop/cli")
    assert [(error["attempt"], error["type"], error["message"]) for error in letter["errors"]] == [
        (1, "ValueError", "no {'n': 1}, attempt 1"),
        (2, "ValueError", "no {'n': 1}, attempt 2"),
    ]
    assert read(dev, "dlq", "show", letter["run"]) == {**letter, "data": {"n": 1}}
    shown = bema(dev, "dlq", "show", letter["run"]).stdout
    assert "ValueError: no {'n': 1}, attempt 2" in shown
    assert 'steps/fail_step.py", line 8, in handler' in shown
    assert f"trace    {letter['trace']}\n" in shown
    assert shown.endswith('{\n  "n": 1\n}\n')
    table = bema(dev, "dlq", "list").stdout.splitlines()
    assert table[0].split() == ["TIME", "STEP", "RUN", "TOPIC", "ATTEMPTS", "REASON", "LAST", "ERROR"]
    assert any(letter["run"] in line and "AttemptsExhausted" in line for line in table[1:])


@pytest.mark.parametrize(
    ("filters", "said"),
    [
        pytest.param(("--error", ""), "'--error': expected a text to choose by, found ''", id="an empty error"),
        pytest.param(("--error", " "), "'--error': expected a text to choose by, found ' '", id="a blank error"),
        pytest.param(("--step", ""), "'--step': expected a text to choose by, found ''", id="an empty Step"),
        pytest.param(("--topic", ""), "'--topic': expected a text to choose by, found ''", id="an empty topic"),
        pytest.param(("--reason", ""), "'--reason': expected a text to choose by, found ''", id="an empty reason"),
        pytest.param(("--since", ""), "--since: expected a time such as", id="an empty time"),
        pytest.param(("--since", "999999w"), "--since: expected a time such as", id="since before all time"),
        pytest.param(("--until", "999999w"), "--until: expected a time such as", id="until before all time"),
    ],
)
def test_a_filter_that_is_none_chooses_nothing(dev: Dev, filters: tuple[str, ...], said: str) -> None:
    [letter] = fail(dev, 1)
    for command in (("list",), ("redrive", "--yes"), ("discard", "--yes"), ("discard", "--yes", "--step", "fail")):
        result = bema(dev, "dlq", *command, *filters)
        assert result.exit_code == 2, result.output
        words = " ".join(result.stderr.replace("│", "").split())
        assert f"Invalid value for {said}" in words
        assert "Traceback" not in result.stderr
    assert [item["run"] for item in listed(dev)] == [letter["run"]]


def test_a_cursor_that_no_page_gives_is_refused(dev: Dev) -> None:
    result = bema(dev, "dlq", "list", "--cursor", "9" * 23)
    assert result.exit_code == 2
    assert "Invalid value for '--cursor'" in result.stderr
    assert str(2**63 - 1) in result.stderr
    assert listed(dev, "--cursor", str(2**63 - 1)) == [], "beyond the last"


def test_lists_are_filtered_and_paged(dev: Dev) -> None:
    one, two = fail(dev, 1, 2)
    [three] = fail(dev, 3, topic="fail.too")
    first, second, third = (item["run"] for item in listed(dev))
    assert {first, second, third} == {one["run"], two["run"], three["run"]}
    page = read(dev, "dlq", "list", "--limit", "2")
    assert [item["run"] for item in page["items"]] == [first, second]
    rest = read(dev, "dlq", "list", "--limit", "2", "--cursor", str(page["cursor"]))
    assert ([item["run"] for item in rest["items"]], rest["cursor"]) == ([third], None)
    said = bema(dev, "dlq", "list", "--limit", "2").stderr
    assert said == f"· there are more: --cursor {page['cursor']}\n"
    assert [item["run"] for item in listed(dev, "--topic", "fail.too")] == [three["run"]]
    assert [item["run"] for item in listed(dev, "--error", "'N': 2}")] == [two["run"]]
    assert len(listed(dev, "--since", "1h", "--step", "fail", "--reason", "AttemptsExhausted")) == 3
    for none in (("--until", "1h"), ("--step", "other"), ("--reason", "Invalid"), ("--since", "2999-01-01T00:00:00Z")):
        assert listed(dev, *none) == []
    wrong = bema(dev, "dlq", "list", "--since", "soon")
    assert wrong.exit_code == 2
    assert "expected a time such as" in wrong.stderr


def test_a_redrive_with_other_data_and_after_an_edit(dev: Dev) -> None:
    one, two = fail(dev, 11, 12)
    assert read(dev, "dlq", "redrive", one["run"], "--data", '{"n": 11, "ok": true}') == {
        "items": [
            {"step": "fail", "run": one["run"], "outcome": "redriven", "started": f"{one['run']}~1", "said": None}
        ],
        "dry_run": False,
    }
    assert ran(dev, 11) == f"{one['run']}~1"
    piped = bema(dev, "dlq", "edit", two["run"], "--data", "-", input='{"n": 12, "ok": true}')
    assert (piped.exit_code, piped.stdout) == (0, f"the data of run {two['run']} was replaced: 8 bytes by 18\n")
    shown = read(dev, "dlq", "show", two["run"])
    assert (shown["data"], shown["time"]) == ({"n": 12, "ok": True}, two["time"])
    assert shown["edited"]
    redriven = bema(dev, "dlq", "redrive", two["run"])
    assert (redriven.exit_code, redriven.stdout) == (
        0,
        f"fail {two['run']} → {two['run']}~1\n1 dead letter redriven\n",
    )
    assert ran(dev, 12) == f"{two['run']}~1"
    assert listed(dev) == []


def test_a_redrive_that_fails_again_shows_what_it_came_from(dev: Dev) -> None:
    [letter] = fail(dev, 21)
    run = letter["run"]
    for number in (1, 2):
        before = run
        assert bema(dev, "dlq", "redrive", before).exit_code == 0
        run = f"{letter['run']}~{number}"
        dev.until(lambda run=run: [item for item in listed(dev) if item["run"] == run], f"dead letter {number}")
    assert read(dev, "dlq", "show", run)["ancestors"] == [before, letter["run"]]
    assert f"redrive  of {before}\nredrive  of {letter['run']}\n" in bema(dev, "dlq", "show", run).stdout


def test_rounds_ask_or_need_yes_and_may_be_dry(dev: Dev) -> None:
    letters = fail(dev, 31, 32, 33)
    before = listed(dev)
    for command in ("redrive", "discard"):
        refused = bema(dev, "dlq", command, "--all")
        assert refused.exit_code == 2
        assert "3 dead letters of app 'shop'?" in " ".join(refused.stderr.split())
        assert "--yes" in refused.stderr
        dry = read(dev, "dlq", command, "--step", "fail", "--dry-run")
        assert dry["dry_run"] is True
        assert [item["run"] for item in dry["items"]] == [item["run"] for item in before]
    said = bema(dev, "dlq", "redrive", "--all", "--dry-run").stdout
    assert said.endswith("3 dead letters would be redriven\n")
    assert bema(dev, "dlq", "edit", letters[0]["run"], "--data", "1", "--dry-run").exit_code == 0
    assert listed(dev) == before
    done = bema(dev, "dlq", "discard", "--error", "'n': 32}", "--yes")
    assert (done.exit_code, done.stdout) == (0, f"fail {letters[1]['run']}\n1 dead letter discarded\n")
    assert len(listed(dev)) == 2
    again = bema(dev, "dlq", "redrive", "--all", "--yes", "--rate", "50")
    assert again.stdout.endswith("2 dead letters redriven\n")
    both = {f"{letters[0]['run']}~1", f"{letters[2]['run']}~1"}
    dev.until(lambda: {item["run"] for item in listed(dev)} == both, "both to fail again")
    assert bema(dev, "dlq", "discard", "--all", "--yes").stdout.endswith("2 dead letters discarded\n")
    assert bema(dev, "dlq", "discard", "--all").stdout == "0 dead letters discarded\n"


def on_a_terminal(dev: Dev, answer: bytes, *arguments: str) -> tuple[int, str]:
    """Exit code and what the terminal shows."""
    person, terminal = pty.openpty()
    try:
        command = [sys.executable, "-m", "bema_cli", *arguments, "--dir", str(dev.folder)]
        process = subprocess.Popen(command, stdin=terminal, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        os.write(person, answer)
        shown, _ = process.communicate(timeout=devs.SECONDS)
        return process.returncode, shown.decode()
    finally:
        os.close(person)
        os.close(terminal)


def test_on_a_terminal_it_asks(dev: Dev) -> None:
    [letter] = fail(dev, 41)
    code, shown = on_a_terminal(dev, b"n\n", "dlq", "discard", letter["run"])
    assert (code, "Discard 1 dead letter of app 'shop'? [y/N]" in shown) == (1, True)
    assert "nothing was changed" in shown
    assert len(listed(dev)) == 1
    code, shown = on_a_terminal(dev, b"y\n", "dlq", "discard", letter["run"])
    assert (code, shown.endswith("1 dead letter discarded\n")) == (0, True)
    assert listed(dev) == []


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        pytest.param(
            ["show", "nobody"],
            1,
            "✗ expected a dead letter of run 'nobody', found none; `bema dlq list` names them",
            id="none to show",
        ),
        pytest.param(["redrive", "nobody"], 1, "✗ expected a dead letter of run 'nobody', found none", id="to redrive"),
        pytest.param(["discard", "nobody", "--yes"], 1, "✗ expected a dead letter of run 'nobody'", id="to discard"),
        pytest.param(["edit", "nobody", "--data", "1"], 1, "✗ expected a dead letter of run 'nobody'", id="to edit"),
        pytest.param(["show", "*"], 1, "✗ expected a run's id, found '*'", id="a wildcard"),
        pytest.param(["discard", ">", "--yes"], 1, "✗ expected a run's id, found '>'", id="a wildcard to discard"),
        pytest.param(["edit", "nobody", "--data", "{"], 1, "✗ expected JSON, found '{'", id="no JSON"),
        pytest.param(["redrive"], 2, "expected runs, or filters such as --step, or --all, found none", id="nothing"),
        pytest.param(["redrive", "a", "--all"], 2, "found runs and --all", id="runs and all"),
        pytest.param(["discard", "--step", "a", "--all"], 2, "found a filter and --all", id="a filter and all"),
        pytest.param(["redrive", "a", "b", "--data", "1"], 2, "expected one RUN for the data, found 2", id="two runs"),
        pytest.param(["redrive", "--all", "--rate", "0"], 2, "Invalid value for '--rate'", id="no rate"),
    ],
)
def test_what_cannot_be_is_said(dev: Dev, arguments: list[str], code: int, said: str) -> None:
    result = bema(dev, "dlq", *arguments)
    assert result.exit_code == code, result.output
    words = " ".join(result.stderr.replace("│", " ").split())
    assert said in words


def test_a_refused_redrive_ends_with_1(dev: Dev) -> None:
    [letter] = fail(dev, 51)
    large = json.dumps({"n": 52, "text": "x" * 799_000})
    done = bema(dev, "dlq", "redrive", letter["run"], "--data", large)
    assert (done.exit_code, "data: expected at most 786432 bytes of JSON" in done.stderr) == (1, True)
    assert [item["run"] for item in listed(dev)] == [letter["run"]]
