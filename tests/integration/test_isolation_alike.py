"""What is true of runs, effects and answers is as true where the handlers run in worker processes: the same tests."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import pytest

from bema.contract.steps import Isolation
from tests.integration import test_apis, test_crons, test_effects, test_lifetimes, test_review, test_runs

for module in (test_apis, test_effects, test_runs):
    globals().update({name: value for name, value in vars(module).items() if name.startswith("test_")})

# Of what follows the rest is done by the runtime, wherever its handlers are
test_a_run_whose_process_stops_is_gone_on_with_by_the_next = (
    test_crons.test_a_run_whose_process_stops_is_gone_on_with_by_the_next
)
test_a_cron_run_that_fails_for_good_exits_1_and_leaves_a_dead_letter = (
    test_crons.test_a_cron_run_that_fails_for_good_exits_1_and_leaves_a_dead_letter
)
test_a_value_goes_away_by_itself_and_a_change_keeps_the_time = (
    test_lifetimes.test_a_value_goes_away_by_itself_and_a_change_keeps_the_time
)
test_runs_that_time_out_before_they_begin_are_tried_again = (
    test_review.test_runs_that_time_out_before_they_begin_are_tried_again
)
test_a_retry_after_for_ever_holds_no_place = test_review.test_a_retry_after_for_ever_holds_no_place


@pytest.fixture
def start_app(start_app: Callable[..., Any]) -> Callable[..., Any]:
    """Apps whose Steps have worker processes."""
    return functools.partial(start_app, isolation=Isolation.PROCESS)
