"""An engine for tests of cron runs."""

from __future__ import annotations

from collections.abc import Iterator

from bema.contract.frames import End, Failure, Outcome
from bema.ports.jetstream import JetStream
from bema_runtime.commits import RunOutcome
from bema_runtime.committers import Committed, Result
from bema_runtime.runs import Run

OK = End(1, Outcome.OK)
FAILED = End(1, Outcome.FAILED, failure=Failure("ValueError", "no"))
CANCELLED = End(1, Outcome.CANCELLED, failure=Failure("Timeout", "timeout after 1 s"))


class Script:
    """An engine whose executions end as they are told to."""

    def __init__(
        self,
        ends: list[End],
        *,
        before: RunOutcome | None = None,
        given_up: bool = False,
        stopping: bool = False,
        js: JetStream | None = None,
    ) -> None:
        self.js = js
        self._ends: Iterator[End] = iter(ends)
        self._before = before
        self._given_up = given_up
        self._stops = stopping
        self.stopping = False
        self.attempts: list[int] = []
        self.runs: list[str] = []
        self.dead_letters = 0

    async def outcome_of(self, run: Run) -> RunOutcome | None:
        return self._before

    async def execute(self, run: Run) -> tuple[End, Result | None]:
        self.attempts.append(run.attempt)
        self.runs.append(run.id)
        run.given_up |= self._given_up
        self.stopping = self._stops
        return next(self._ends), Committed()

    async def give_up(self, run: Run, reason: str, entry: dict[str, object]) -> Result:
        assert (reason, entry["attempt"]) == ("AttemptsExhausted", run.attempt)
        self.dead_letters += 1
        return Committed()

    def cancel(self, run: Run, reason: str) -> None:
        run.given_up = True
