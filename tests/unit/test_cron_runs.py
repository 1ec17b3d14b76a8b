"""A cron run in one process: its attempts, and what ends it."""

from __future__ import annotations

from typing import Any

import pytest

from bema.contract.frames import End
from bema.contract.triggers import Kind
from bema_runtime import crons
from bema_runtime.commits import RunOutcome
from tests.support import units
from tests.support.scripts import CANCELLED, FAILED, OK, Script


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
        pytest.param([CANCELLED], {"stopping": True}, (None, [1], 0), id="stopped with the process: no attempt"),
        pytest.param([FAILED], {"stopping": True}, (None, [1], 0), id="the process stops before the next attempt"),
        pytest.param([OK], {"stopping": True}, (RunOutcome.OK, [1], 0), id="before the process has stopped"),
    ],
)
async def test_how_a_run_comes_to_its_end(
    ends: list[End], how: dict[str, Any], expected: tuple[RunOutcome | None, list[int], int]
) -> None:
    script = Script(ends, **how)
    soon = units.unit(units.binding(retry={"initialSeconds": 0.01, "maxSeconds": 0.01}))
    run = units.run(unit=soon, kind=Kind.CRON, event=None, delivery=None)
    outcome = await crons.run_to_end(script, run)  # type: ignore[arg-type]
    assert (outcome, script.attempts, script.dead_letters) == expected
