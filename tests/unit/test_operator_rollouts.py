"""Rollouts that nobody asked for: which ones those are, and whose turn it is."""

from __future__ import annotations

from typing import Any

import pytest

from bema_operator import ownership, rollouts
from bema_operator.facts import Facts, Key
from tests.support.step_facts import DEPLOYMENT, DONE, deployed, live, manifest, subject

A, B, C = (Key("shop", name) for name in "abc")
NEWER = ownership.stamp({**manifest("Deployment"), "spec": {"replicas": 2, "minReadySeconds": 1}})


def status(ready: str = "True", generation: int = 3) -> dict[str, Any]:
    conditions = [{"type": "Ready", "status": ready, "observedGeneration": generation}]
    return {"observedGeneration": generation, "conditions": conditions}


READY = deployed(DONE, subject=subject(status()), wanted=[NEWER])
EDITED = live(DEPLOYMENT, DONE)
EDITED = {**EDITED, "metadata": {**EDITED["metadata"], "managedFields": []}}


@pytest.mark.parametrize(
    ("facts", "expected"),
    [
        pytest.param(READY, True, id="something else is made of a Step that is Ready"),
        pytest.param(READY.with_(subject=subject(status("False"))), False, id="of one that is not: nothing to lose"),
        pytest.param(READY.with_(subject=subject(status(generation=2))), False, id="the Step was changed"),
        pytest.param(READY.with_(wanted=[DEPLOYMENT], children=[EDITED]), False, id="the Deployment was edited"),
        pytest.param(READY.with_(children=[]), False, id="there is no Deployment yet"),
        pytest.param(READY.with_(wanted=[manifest("Deployment", 0)]), False, id="no pod runs"),
        pytest.param(READY.with_(wanted=[manifest("Service")]), False, id="a Service has no pods"),
    ],
)
def test_what_nobody_asked_for(facts: Facts, *, expected: bool) -> None:
    assert rollouts.is_unasked(facts, facts.wanted[0]) is expected


def test_so_many_at_a_time_and_one_that_does_not_end_keeps_its_turn() -> None:
    turns = rollouts.Turns(limit=2)
    assert [turns.take(key) for key in (A, B, C)] == [True, True, False]
    assert turns.take(A), "its turn is not over"
    assert turns.holders == [A, B]
    turns.done(A)
    turns.done(A)
    assert [turns.take(key) for key in (C, A)] == [True, False]
    assert turns.holders == [B, C]
