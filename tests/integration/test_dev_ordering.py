"""Ordered Steps in `bema dev`: heard, handled in order, and switched on and off by an edit."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from typer.testing import CliRunner

from bema_cli.application import app
from tests.support import devs
from tests.support.devs import Dev

STEP = """
config = {"triggers": [{"event": {"topics": ["work"], "ordering": {}}}]}
def handler(data, ctx):
    ctx.state.append("seen", "all", data)
"""


def read(dev: Dev, *arguments: str) -> Any:
    result = CliRunner().invoke(app, [*arguments, "--dir", str(dev.folder), "--json"])
    return json.loads(result.stdout) if result.exit_code == 0 else {}


def test_an_ordered_step_runs_in_dev_and_loses_nothing_when_its_order_is_taken_away(tmp_path: Path) -> None:
    folder = devs.write(tmp_path / "shop", {"steps/work_step.py": STEP})
    with devs.running(folder) as dev:
        dev.next("ready")
        for number in range(20):
            assert read(dev, "emit", "work", str(number), "--key", "ann")["heard"]
        dev.until(lambda: read(dev, "state", "get", "seen", "all").get("value") == list(range(20)), "all in order")
        devs.write(folder, {"steps/work_step.py": STEP.replace(', "ordering": {}', "")})
        dev.next("ready", lambda event: event["reason"] == "reload")
        assert read(dev, "emit", "work", "20", "--key", "ann")["heard"]
        dev.until(lambda: read(dev, "state", "get", "seen", "all").get("value") == list(range(21)), "the next one too")
        devs.write(folder, {"steps/work_step.py": STEP})
        dev.next("ready", lambda event: event["reason"] == "reload")
        for number in range(21, 30):
            read(dev, "emit", "work", str(number), "--key", "ann")
        dev.until(
            lambda: read(dev, "state", "get", "seen", "all").get("value") == list(range(30)), "and in order again"
        )
