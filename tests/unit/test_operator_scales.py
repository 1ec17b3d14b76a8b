"""Whose the number of a Step's pods is."""

from __future__ import annotations

from typing import Any

import pytest

from bema_operator import ownership, scales, statuses
from bema_operator.facts import Key, identity, pods_of
from tests.support.step_facts import (
    API,
    DEPLOYMENT,
    DONE,
    EVENT,
    NOW,
    contested,
    deployed,
    live,
    manifest,
    scaled,
    spec,
)

SERVICE = manifest("Service")
BUDGET = manifest("PodDisruptionBudget")
HPA = scaled(5)
PLAIN = live(DEPLOYMENT, DONE)


@pytest.mark.parametrize(
    ("found", "expected"),
    [(PLAIN, ""), (scaled(5, subresource="status"), ""), (scaled(5, subresource=""), ""), (HPA, "autoscaler")],
    ids=["nobody", "a status", "an edit", "an autoscaler"],
)
def test_who_scales_is_who_owns_the_number_by_the_subresource(found: dict[str, Any], expected: str) -> None:
    assert ownership.scaler(found) == expected


def left(fields: dict[str, Any], found: dict[str, Any] | None = HPA, *, yields: bool = False) -> list[dict[str, Any]]:
    children = [] if found is None else [found]
    settled = scales.settled([BUDGET, SERVICE, DEPLOYMENT], children, spec(EVENT, API, **fields), yields=yields)
    return [dict(item) for item in settled]


def test_a_number_that_is_somebody_elses_is_left_out_and_nothing_else() -> None:
    budget, service, deployment = left({})
    assert (budget, service) == (BUDGET, SERVICE)
    assert deployment["spec"] == {}
    assert identity(deployment) == identity(DEPLOYMENT)
    assert not ownership.in_step(deployment, HPA), "it is to be written once"
    stored = {**HPA, "metadata": {**HPA["metadata"], "annotations": left({})[2]["metadata"]["annotations"]}}
    assert ownership.in_step(left({}, stored)[2], stored), "and not again"
    assert pods_of(deployment, HPA) == 5


@pytest.mark.parametrize(
    ("fields", "found"),
    [
        pytest.param({"replicas": 2}, HPA, id="the Step says how many"),
        pytest.param({"suspend": True}, HPA, id="the Step says none"),
        pytest.param({"scaling": {"minReplicas": 6}}, HPA, id="fewer than the Step's fewest"),
        pytest.param({}, PLAIN, id="nobody scales"),
        pytest.param({}, None, id="there is no Deployment yet"),
    ],
)
def test_otherwise_the_step_says_how_many(fields: dict[str, Any], found: dict[str, Any] | None) -> None:
    assert left(fields, found) == [BUDGET, SERVICE, DEPLOYMENT]


@pytest.mark.parametrize(("replicas", "expected"), [(0, False), (1, False), (2, True)])
def test_a_budget_for_disruptions_needs_more_than_one_pod(replicas: int, *, expected: bool) -> None:
    own = scales.settled([BUDGET, manifest("Deployment", replicas)], [], spec(EVENT), yields=False)
    assert (BUDGET in own) is expected
    if replicas:
        assert (BUDGET in left({}, scaled(replicas))) is expected


def test_two_who_say_a_number_take_turns_that_are_ever_longer() -> None:
    contests, key = scales.Contests(), Key("shop", "a")
    assert scales.is_overruled(DEPLOYMENT, HPA)
    assert not scales.is_overruled(DEPLOYMENT, PLAIN)
    assert not scales.is_overruled(SERVICE, HPA)
    waits = []
    now = 0.0
    for _ in range(9):
        contests.note(key, now)
        waits.append(contests.wait(key, now))
        now += waits[-1]
    assert waits == [0, 0, 60, 120, 240, 480, 900, 900, 900]
    assert contests.wait(key, now) == 0
    contests.note(key, now + scales.FORGOTTEN + 1)
    assert contests.wait(key, now + scales.FORGOTTEN + 1) == 0, "after a long peace it begins anew"
    contests.forget(key)
    assert contests.wait(key, now) == 0


def test_whoever_has_their_way_is_named_with_what_to_do() -> None:
    assert scales.contested(deployed(DONE)) == scales.contested(deployed(DONE, children=[HPA])) == ""
    facts = contested()
    assert scales.contested(facts) == "autoscaler"
    [workload] = [item for item in statuses.status(facts, NOW).conditions if item.type == "WorkloadReady"]
    assert (workload.status, workload.reason) == ("False", "ReplicasContested")
    assert workload.message.startswith("The Step says 1, and autoscaler has set 5 replicas of the Deployment again")
