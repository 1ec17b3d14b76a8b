"""Cron Steps: one run per tick, attempts inside the process, the ticker of a laptop."""

from __future__ import annotations

import json
import time

from tests.support import waits

REPORT = """
import os
config = {"triggers": [{"cron": {"schedule": "*/10 * * * *", "startingDeadlineSeconds": 1200}}],
          "retry": {"maxAttempts": 2, "initialSeconds": 0.01}, "emits": ["report"]}
async def handler(data, ctx):
    if os.environ.get("FAIL"):
        raise RuntimeError("no")
    await ctx.state.increment("reports", "made")
    await ctx.emit("report", {"at": ctx.scheduled_at, "attempt": ctx.attempt})
"""


def tick_minutes() -> int:
    """The last tick of every ten minutes, as Unix minutes."""
    return int(time.time()) // 600 * 10


async def test_a_job_of_one_tick_runs_once_however_often_its_pod_starts(start_app) -> None:
    app = await start_app({"steps/report_step.py": REPORT}, workers=0)
    job = {"BEMA_JOB_NAME": f"report-{tick_minutes()}"}
    for _ in range(2):
        assert await app.spawn(once=True, env=job).wait_exit() == 0
    [report] = await app.events("report")
    assert json.loads(report.data) == {"at": tick_minutes() * 60, "attempt": 1}
    assert await app.state("reports", "made") == 1
    by_hand = {"BEMA_JOB_NAME": "report-by-hand"}
    assert await app.spawn(once=True, env=by_hand).wait_exit() == 0
    assert await app.state("reports", "made") == 2


async def test_a_cron_run_that_fails_for_good_exits_1_and_leaves_a_dead_letter(start_app) -> None:
    app = await start_app({"steps/report_step.py": REPORT}, workers=0)
    job = {"BEMA_JOB_NAME": f"report-{tick_minutes()}", "FAIL": "1"}
    for _ in range(2):
        assert await app.spawn(once=True, env=job).wait_exit() == 1
    [letter] = await app.dead_letters()
    assert letter.headers["Bema-Reason"] == "AttemptsExhausted"
    assert [entry["attempt"] for entry in json.loads(letter.headers["Bema-Errors"])] == [1, 2]
    assert await app.state("reports", "made") is None


async def test_the_ticker_makes_up_for_a_missed_tick_once(start_app) -> None:
    app = await start_app({"steps/report_step.py": REPORT}, workers=2)
    await waits.until(lambda: app.events("report"), "the missed tick's report", explain=app.explain)
    [report] = await app.events("report")
    assert json.loads(report.data)["at"] == tick_minutes() * 60
    assert await app.state("reports", "made") == 1
