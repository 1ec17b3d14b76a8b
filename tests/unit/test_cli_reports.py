"""How `bema dev` tells people and programs what happens."""

import dataclasses
import json

import pytest

from bema_cli import events, reports
from bema_cli.events import Event

READY = events.Ready(
    app="shop",
    worker=42,
    reason="start",
    seconds=0.71,
    url="http://127.0.0.1:3000",
    metrics="http://127.0.0.1:9/metrics",
    nats="nats://127.0.0.1:4",
    steps=[
        events.Running("pay", "steps/pay_step.py", endpoints=[("POST", "http://127.0.0.1:3000/pay")], topics=["order"]),
        events.Running("report", "steps/report_step.py", schedules=["@daily (Etc/UTC)"]),
        events.Running("audit", "steps/audit_step.py", groups=["orders"]),
        events.Running("person", "steps/person_step.py"),
    ],
)
RECORD = {
    "time": "nonsense",
    "level": "WARNING",
    "message": "paid [not markup]",
    "app": "shop",
    "step": "pay",
    "run": "0123456789abcdef",
    "attempt": 2,
    "trace": "fedcba9876543210",
    "cents": 3,
    "to": "Ann",
    "error": "Traceback…\nValueError: no",
}

CASES: list[tuple[Event, str]] = [
    (
        READY,
        "bema dev: shop is ready (0.7 s)\n"
        "POST   http://127.0.0.1:3000/pay  → pay   \n"
        "event  order                      → pay   \n"
        "cron   @daily (Etc/UTC)           → report\n"
        "state  orders                     → audit \n"
        "noop   person                             \n"
        "metrics http://127.0.0.1:9/metrics   nats nats://127.0.0.1:4\n",
    ),
    (dataclasses.replace(READY, reason="reload"), "✓ reloaded in 0.7 s\n"),
    (dataclasses.replace(READY, reason="restart"), "✓ restarted in 0.7 s\n"),
    (events.Idle("nothing to run yet"), "· nothing to run yet\n"),
    (events.Reload(["steps/a_step.py", ".env"]), "↻ reloading: steps/a_step.py, .env\n"),
    (
        events.Problems(
            [{"file": "a.py", "line": 3, "message": "bad"}, {"file": "b.py", "line": None, "message": "w"}]
        ),
        "✗ a.py:3: bad\n✗ b.py: w\n",
    ),
    (events.Problems([]), "✓ no problems any more\n"),
    (events.Note("using 3001"), "· using 3001\n"),
    (events.Note("careful", "warning"), "! careful\n"),
    (
        events.WorkerExit(42, "signal SIGKILL", 0.2),
        "✗ the worker ended (signal SIGKILL); another starts in 0.2 s\n",
    ),
    (
        events.Log(RECORD),
        "nonsense WARNING pay paid [not markup] run=89abcdef trace=76543210 attempt=2 cents=3 to=Ann\n"
        "Traceback…\nValueError: no\n",
    ),
    (events.Output("as [it] was"), "as [it] was\n"),
    (events.Stopping(), "· stopping; Ctrl-C again to stop at once\n"),
    (events.Stopped(), "✓ stopped\n"),
]


@pytest.mark.parametrize(("event", "text"), CASES, ids=[type(event).__name__ for event, _ in CASES])
def test_people_read_lines(event: Event, text: str, capsys: pytest.CaptureFixture[str]) -> None:
    reports.for_people()(event)
    assert capsys.readouterr().out == text


@pytest.mark.parametrize("event", [event for event, _ in CASES], ids=[type(event).__name__ for event, _ in CASES])
def test_programs_read_one_object_a_line(event: Event, capsys: pytest.CaptureFixture[str]) -> None:
    reports.as_json(event)
    (line,) = capsys.readouterr().out.splitlines()
    assert json.loads(line).keys() == {"event", *(item.name for item in dataclasses.fields(event))}


def test_names_of_events_are_words_with_dashes() -> None:
    assert events.plain(events.WorkerExit(1, "exit code 1", 0.2)) == {
        "event": "worker-exit",
        "worker": 1,
        "ending": "exit code 1",
        "restart_seconds": 0.2,
    }


@pytest.mark.parametrize(
    ("line", "event"),
    [
        pytest.param('{"time": "t", "level": "INFO", "message": "m"}', events.Log, id="a record"),
        pytest.param('{"time": "t", "level": "INFO"}', events.Output, id="JSON that is none"),
        pytest.param("[1]", events.Output, id="a list"),
        pytest.param("words", events.Output, id="words"),
        pytest.param("", events.Output, id="an empty line"),
    ],
)
def test_a_line_of_a_worker_is_a_record_or_what_somebody_printed(line: str, event: type) -> None:
    assert type(events.heard(line)) is event
