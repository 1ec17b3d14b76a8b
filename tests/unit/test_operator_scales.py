"""Whose the number of a Step's pods is."""

from __future__ import annotations

from typing import Any

import pytest

from bema_operator import ownership, scales
from bema_operator.facts import identity, pods_of
from tests.support.step_facts import API, DEPLOYMENT, DONE, EVENT, live, manifest, spec

SCALED = {"f:spec": {"f:replicas": {}}}
SERVICE = manifest("Service")


def entry(manager: str, subresource: str, fields: dict[str, Any]) -> dict[str, Any]:
    return {"manager": manager, "operation": "Update", "subresource": subresource, "fieldsV1": fields}


def managed(*entries: dict[str, Any], replicas: int = 5) -> dict[str, Any]:
    found = live(DEPLOYMENT, DONE)
    fields = [*found["metadata"]["managedFields"], *entries]
    return {**found, "spec": {"replicas": replicas}, "metadata": {**found["metadata"], "managedFields": fields}}


@pytest.mark.parametrize(
    ("entries", "expected"),
    [
        ([], ""),
        ([entry("kube-controller-manager", "status", {"f:status": {"f:replicas": {}}})], ""),
        ([entry("kubectl-edit", "", SCALED)], ""),
        ([entry("kube-controller-manager", "scale", SCALED)], "kube-controller-manager"),
    ],
    ids=["nobody", "a status", "an edit", "an autoscaler"],
)
def test_who_scales_is_who_owns_the_number_by_the_subresource(entries: list[dict[str, Any]], expected: str) -> None:
    assert ownership.scaler(managed(*entries)) == expected


HPA = managed(entry("kube-controller-manager", "scale", SCALED))


def test_a_number_that_is_somebody_elses_is_left_out_and_nothing_else() -> None:
    service, deployment = scales.leave([SERVICE, DEPLOYMENT], [HPA], spec(EVENT, API))
    assert service == SERVICE
    assert deployment["spec"] == {}
    assert identity(deployment) == identity(DEPLOYMENT)
    assert not ownership.in_step(deployment, HPA), "it is to be written once"
    again = scales.leave([SERVICE, DEPLOYMENT], [HPA], spec(EVENT, API))[1]
    stored = {**HPA, "metadata": {**HPA["metadata"], "annotations": again["metadata"]["annotations"]}}
    assert ownership.in_step(again, stored), "and not again"
    assert pods_of(deployment, HPA) == 5


@pytest.mark.parametrize("fields", [{"replicas": 2}, {"suspend": True}])
def test_a_step_that_says_how_many_has_its_own_way(fields: dict[str, Any]) -> None:
    assert scales.leave([DEPLOYMENT], [HPA], spec(EVENT, **fields)) == [DEPLOYMENT]


def test_without_anybody_who_scales_the_step_says_how_many() -> None:
    assert scales.leave([DEPLOYMENT], [managed()], spec(EVENT)) == [DEPLOYMENT]
    assert scales.leave([DEPLOYMENT], [], spec(EVENT)) == [DEPLOYMENT]
