"""Rollouts that nobody asked for: which ones those are, and whose turn it is."""

from __future__ import annotations

from typing import Any

import pytest

from bema_operator import ownership, rollouts
from bema_operator.facts import Facts, Key
from tests.support.step_facts import DEPLOYMENT, DONE, deployed, live, manifest, subject

A, B, C = (Key("shop", name) for name in "abc")
MORE = manifest("Deployment", 5)
NEWER = ownership.stamp({**manifest("Deployment"), "spec": {"replicas": 2, "minReadySeconds": 1}})


def status(reason: str = "Available", generation: int = 3) -> dict[str, Any]:
    conditions = [
        {"type": "Ready", "status": "False", "reason": "BrokerUnavailable"},
        {"type": "WorkloadReady", "reason": reason},
    ]
    return {"observedGeneration": generation, "conditions": conditions}


def of(reason: str, counts: dict[str, Any] = DONE) -> Facts:
    return deployed(counts, subject=subject(status(reason)), wanted=[NEWER])


READY = of("Available")
UNREADY = {**DONE, "availableReplicas": 0}
ENDED = {**UNREADY, "conditions": [{"type": "Progressing", "status": "True", "reason": "NewReplicaSetAvailable"}]}
EDITED = live(DEPLOYMENT, DONE)
EDITED = {**EDITED, "metadata": {**EDITED["metadata"], "managedFields": []}}


@pytest.mark.parametrize(
    ("facts", "expected"),
    [
        pytest.param(READY, True, id="something else is made of a Step whose pods are ready, with or without NATS"),
        pytest.param(of("WorkloadUnavailable", ENDED), True, id="its pods were ready, and may only wait for NATS"),
        pytest.param(of("AppNotReady"), True, id="the App was mended, which is about all of its Steps"),
        pytest.param(of("RollingOut", UNREADY), False, id="its pods were never ready: nothing to lose"),
        pytest.param(of("CrashLoop", ENDED), False, id="its pods crash: nothing to lose"),
        pytest.param(of("BacklogOnRemovedTopic"), False, id="a change of the Step was held back"),
        pytest.param(of("ApplyRefused"), False, id="a change of the Step was refused"),
        pytest.param(READY.with_(wanted=[MORE]), True, id="another number of pods is made of it as well"),
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
