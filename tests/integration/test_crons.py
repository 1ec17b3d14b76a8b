"""Cron Steps: one run per tick, attempts inside the process, the ticker of a laptop."""

from __future__ import annotations

import json
import signal
import time
from pathlib import Path

import pytest

from bema.contract import names
from bema.contract.retries import RetryPolicy
from bema.contract.triggers import Overlap
from bema_runtime import crons
from tests.support import units, waits
from tests.support.runtimes import App
from tests.support.scripts import FAILED, OK, Script

REPORT = """
import os
config = {"triggers": [{"cron": {"schedule": "%d * * * *", "startingDeadlineSeconds": 1200}}],
          "retry": {"maxAttempts": 2, "initialSeconds": 0.01}, "emits": ["report"]}
async def handler(data, ctx):
    if os.environ.get("FAIL"):
        raise RuntimeError("no")
    await ctx.state.increment("reports", "made")
    await ctx.emit("report", {"at": ctx.scheduled_at, "attempt": ctx.attempt})
"""


def last_tick() -> int:
    """Five minutes ago, as Unix minutes: of a schedule with one tick an hour no other comes meanwhile."""
    return int(time.time()) // 60 - 5


async def test_a_job_of_one_tick_runs_once_however_often_its_pod_starts(start_app) -> None:
    tick = last_tick()
    app = await start_app({"steps/report_step.py": REPORT % (tick % 60)}, workers=0)
    job = {"BEMA_JOB_NAME": f"report-{tick}"}
    for _ in range(2):
        assert await app.spawn(once=True, env=job).wait_exit() == 0
    [report] = await app.events("report")
    assert json.loads(report.data) == {"at": tick * 60, "attempt": 1}
    assert await app.state("reports", "made") == 1
    by_hand = {"BEMA_JOB_NAME": "report-by-hand"}
    assert await app.spawn(once=True, env=by_hand).wait_exit() == 0
    assert await app.state("reports", "made") == 2


async def test_a_cron_run_that_fails_for_good_exits_1_and_leaves_a_dead_letter(start_app) -> None:
    tick = last_tick()
    app = await start_app({"steps/report_step.py": REPORT % (tick % 60)}, workers=0)
    job = {"BEMA_JOB_NAME": f"report-{tick}", "FAIL": "1"}
    for _ in range(2):
        assert await app.spawn(once=True, env=job).wait_exit() == 1
    [letter] = await app.dead_letters()
    assert letter.headers["Bema-Reason"] == "AttemptsExhausted"
    assert [entry["attempt"] for entry in json.loads(letter.headers["Bema-Errors"])] == [1, 2]
    assert await app.state("reports", "made") is None


async def test_the_ticker_makes_up_for_a_missed_tick_once(start_app) -> None:
    tick = last_tick()
    app = await start_app({"steps/report_step.py": REPORT % (tick % 60)}, workers=2)
    await waits.until(lambda: app.events("report"), "the missed tick's report", explain=app.explain)
    [report] = await app.events("report")
    assert json.loads(report.data)["at"] == tick * 60
    assert await app.state("reports", "made") == 1


LONG = """
import asyncio
from pathlib import Path
config = {"triggers": [{"cron": {"schedule": "%(minute)d * * * *", "startingDeadlineSeconds": 1200}}],
          "retry": {"maxAttempts": %(attempts)d, "initialSeconds": 600, "maxSeconds": 600}}
async def handler(data, ctx):
    if not Path(%(calm)r).exists():
        print("BEGIN", flush=True)
        %(does)s
    await ctx.state.append("made", "at", ctx.scheduled_at)
"""


@pytest.mark.parametrize(
    ("attempts", "does", "said", "how"),
    [
        pytest.param(2, 'raise ValueError("no")', "trying again", signal.SIGTERM, id="while it waits to try again"),
        pytest.param(1, "await asyncio.sleep(600)", "BEGIN", signal.SIGTERM, id="while it executes its last attempt"),
        pytest.param(1, "await asyncio.sleep(600)", "BEGIN", signal.SIGKILL, id="by a kill"),
    ],
)
async def test_a_run_whose_process_stops_is_gone_on_with_by_the_next(
    start_app, tmp_path: Path, attempts: int, does: str, said: str, how: signal.Signals
) -> None:
    calm = tmp_path / "calm"
    begun = int(time.time()) // 60 * 60 - 300
    more = {"attempts": attempts, "does": does, "calm": str(calm), "minute": begun // 60 % 60}
    app = await start_app({"steps/long_step.py": LONG % more}, drain_seconds=0.1)
    await waits.until(lambda: said in app.worker.output, said, explain=app.explain)
    app.worker.stop(how)
    await app.worker.wait_exit()
    calm.touch()
    [binding] = app.bindings
    [cron] = binding.crons
    # Nothing else may make up for it
    never = cron.model_copy(update={"starting_deadline_seconds": None})
    app.bindings = [binding.model_copy(update={"crons": [never]})]
    app.spawn()
    await app.wait_state("made", "at", [begun])
    await waits.until(lambda: _is_gone(app, "meta.begun.>"), "no note of the tick", explain=app.explain)
    assert await app.dead_letters() == []
    app.worker.stop()
    await app.worker.wait_exit()
    await app.spawn().wait_ready()
    assert await app.state("made", "at") == [begun]


async def _is_gone(app: App, subject: str) -> bool:
    return not await app.messages(f"{app.root}.{subject}")


async def test_a_run_that_waits_for_its_next_attempt_is_replaced_by_the_next_tick(start_app) -> None:
    app = await start_app({"steps/report_step.py": REPORT % 0}, workers=0)
    [binding] = app.bindings
    [cron] = binding.crons
    patient = binding.model_copy(update={"retry": RetryPolicy(initial_seconds=600, max_seconds=600)})
    engine = Script([FAILED, OK], js=app.js)
    ticker = crons.Ticker(
        engine,  # type: ignore[arg-type]
        units.unit(patient),
        cron.model_copy(update={"overlap": Overlap.REPLACE}),
    )
    ticker.start(600)
    await waits.until(lambda: engine.attempts == [1], "the first attempt of the first tick")
    ticker.start(1200)
    await waits.until(lambda: engine.attempts == [1, 1], "the run of the second tick")
    assert engine.runs == [names.run_of_tick("report", 600), names.run_of_tick("report", 1200)]
    await waits.until(lambda: _is_gone(app, "meta.begun.>"), "the end of both")
