"""A cron run in one process: its attempts, and what ends it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from bema.contract.frames import End, Failure, Outcome
from bema.contract.triggers import Kind
from bema_runtime import crons
from bema_runtime.commits import RunOutcome
from bema_runtime.committers import Committed, Result
from bema_runtime.runs import Run
from tests.support import units

OK = End(1, Outcome.OK)
FAILED = End(1, Outcome.FAILED, failure=Failure("ValueError", "no"))
CANCELLED = End(1, Outcome.CANCELLED, failure=Failure("Timeout", "timeout after 1 s"))


class Script:
    """An engine whose executions end as they are told to."""

    def __init__(self, ends: list[End], *, before: RunOutcome | None, given_up: bool) -> None:
        self._ends: Iterator[End] = iter(ends)
        self._before = before
        self._given_up = given_up
        self.attempts: list[int] = []
        self.dead_letters = 0

    async def outcome_of(self, run: Run) -> RunOutcome | None:
        return self._before

    async def execute(self, run: Run) -> tuple[End, Result | None]:
        self.attempts.append(run.attempt)
        run.given_up = self._given_up
        return next(self._ends), Committed()

    async def give_up(self, run: Run, reason: str, entry: dict[str, object]) -> Result:
        assert (reason, entry["attempt"]) == ("AttemptsExhausted", run.attempt)
        self.dead_letters += 1
        return Committed()


@pytest.mark.parametrize(
    ("ends", "how", "expected"),
    [
        pytest.param([OK], {}, (RunOutcome.OK, [1], 0), id="at once"),
        pytest.param([FAILED, CANCELLED, OK], {}, (RunOutcome.OK, [1, 2, 3], 0), id="at the third attempt"),
        pytest.param([FAILED] * 3, {}, (RunOutcome.DEAD, [1, 2, 3], 1), id="never"),
        pytest.param([], {"before": RunOutcome.DEAD}, (RunOutcome.DEAD, [], 0), id="before, elsewhere"),
        pytest.param(
            [CANCELLED], {"given_up": True}, (RunOutcome.DEAD, [1], 0), id="replaced by the next tick: no retry"
        ),
        pytest.param([OK], {"given_up": True}, (RunOutcome.OK, [1], 0), id="replaced too late"),
    ],
)
async def test_how_a_run_comes_to_its_end(
    ends: list[End], how: dict[str, Any], expected: tuple[RunOutcome, list[int], int]
) -> None:
    script = Script(ends, **{"before": None, "given_up": False, **how})
    soon = units.unit(units.binding(retry={"initialSeconds": 0.01, "maxSeconds": 0.01}))
    run = units.run(unit=soon, kind=Kind.CRON, event=None, delivery=None)
    outcome = await crons.run_to_end(script, run)  # type: ignore[arg-type]
    assert (outcome, script.attempts, script.dead_letters) == expected
