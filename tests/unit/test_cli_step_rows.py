"""A Step's row: what its object says, in words and in JSON."""

from __future__ import annotations

import datetime
from typing import Any

import pytest

from bema_cli import step_rows
from bema_cli.step_rows import Mark

NOW = datetime.datetime(2026, 1, 31, 12, tzinfo=datetime.UTC)
CODE = {"language": "python", "entrypoint": "a.py", "image": "shop:1"}
API = {"triggers": [{"api": {"method": "GET", "path": "/a"}}], "code": CODE}
CRON = {"triggers": [{"cron": {"schedule": "@daily"}}], "code": CODE}


def step(
    *, spec: dict[str, Any] = API, status: str = "True", reason: str = "Available", observed: int = 1, **more: Any
) -> dict[str, Any]:
    ready = {"type": "Ready", "status": status, "reason": reason, "message": "why", "observedGeneration": observed}
    return {
        "metadata": {"name": "a", "namespace": "shop", "generation": 1, "creationTimestamp": "2026-01-31T11:00:00Z"},
        "spec": spec,
        "status": {"type": "api", "trigger": "GET /a", "conditions": [ready], **more},
    }


@pytest.mark.parametrize(
    ("found", "mark", "message"),
    [
        (step(), Mark.READY, "why"),
        (step(status="False", reason="CrashLoop"), Mark.UNREADY, "why"),
        (step(status="False", reason="RollingOut"), Mark.CHANGING, "why"),
        (step(status="Unknown", reason="BrokerUnavailable"), Mark.UNKNOWN, "why"),
        (step(observed=0), Mark.CHANGING, "the operator has not looked at the last change yet; before it: why"),
        ({**step(), "status": {}}, Mark.UNKNOWN, "the operator has not looked at it yet; `bema doctor` says"),
    ],
)
def test_how_it_is(found: dict[str, Any], mark: Mark, message: str) -> None:
    row = step_rows.row(found)
    assert row.mark is mark
    assert row.message.startswith(message)


@pytest.mark.parametrize(
    ("found", "replicas"),
    [
        (step(spec={**API, "replicas": 3}, readyReplicas=2, replicas=5), (2, 3)),
        (step(spec=API), (0, 1)),
        (step(spec={**API, "suspend": True}, readyReplicas=0), (0, 0)),
        (step(spec=CRON), (None, None)),
        (step(spec={}), (None, None)),
        (step(spec={"fromTheFuture": 1}, replicas=2, readyReplicas=1), (1, 2)),
    ],
)
def test_pods_ready_of_those_wanted(found: dict[str, Any], replicas: tuple[int | None, int | None]) -> None:
    row = step_rows.row(found)
    assert (row.replicas_ready, row.replicas_wanted) == replicas


def test_the_cells() -> None:
    row = step_rows.row(step(spec={**API, "replicas": 2}, readyReplicas=1, backlog=1234))
    cells = [cell.plain for cell in step_rows.cells(row, NOW, all_namespaces=True)]
    assert cells == ["shop", "a", "api", "GET /a", "✓ Available", "1/2", "1,234", "60m"]
    assert [cell.plain for cell in step_rows.cells(row, NOW, all_namespaces=False)] == cells[1:]
    assert len(step_rows.HEADS_ALL) == len(cells)


def test_notes_are_of_steps_that_are_not_ready() -> None:
    rows = [step_rows.row(step()), step_rows.row(step(status="False", reason="CrashLoop"))]
    assert [note.plain for note in step_rows.notes(rows, all_namespaces=False)] == ["✗ a: CrashLoop: why"]
    assert [note.plain for note in step_rows.notes(rows, all_namespaces=True)] == ["✗ shop/a: CrashLoop: why"]


def test_for_programs() -> None:
    found = step_rows.plain(step_rows.row(step(status="False", reason="CrashLoop")))
    assert (found["mark"], found["ready"], found["replicas"]) == ("unready", False, {"ready": 0, "wanted": 1})
    assert step_rows.plain(step_rows.row(step(spec={})))["replicas"] is None


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0s"), (179, "179s"), (180, "3m"), (3600 * 2, "120m"), (3600 * 4, "4h"), (86_400 * 400, "400d"), (-9, "0s")],
)
def test_ages(seconds: int, text: str) -> None:
    assert step_rows.age((NOW - datetime.timedelta(seconds=seconds)).isoformat(), NOW) == text
    assert step_rows.age("", NOW) == "-"
