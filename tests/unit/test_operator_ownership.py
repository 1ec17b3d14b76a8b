"""Whether a live object is still what was applied, by its managed fields."""

import copy
from typing import Any

import pytest

from bema_operator import ownership

WANTED = ownership.stamp(
    {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": "a", "namespace": "n", "labels": {"x": "1"}},
        "spec": {
            "replicas": 2,
            "template": {
                "spec": {
                    "containers": [
                        {
                            "name": "step",
                            "image": "i",
                            "args": ["a", "b"],
                            "env": [{"name": "HOME", "value": "/tmp"}],
                            "ports": [{"name": "http", "containerPort": 8080}],
                        }
                    ],
                    "tolerations": [{"key": "k"}],
                    "volumes": [{"name": "tmp", "emptyDir": {}}],
                }
            },
        },
    }
)

CONTAINER: dict[str, Any] = {
    ".": {},
    "f:name": {},
    "f:image": {},
    "f:args": {},
    "f:env": {'k:{"name":"HOME"}': {".": {}, "f:name": {}, "f:value": {}}},
    "f:ports": {'k:{"containerPort":8080,"protocol":"TCP"}': {".": {}, "f:name": {}, "f:containerPort": {}}},
}
FIELDS: dict[str, Any] = {
    "f:metadata": {"f:labels": {"f:x": {}}, "f:annotations": {"f:bema.dev/hash": {}}},
    "f:spec": {
        "f:replicas": {},
        "f:template": {
            "f:spec": {
                "f:containers": {'k:{"name":"step"}': CONTAINER},
                "f:tolerations": {},
                "f:volumes": {'k:{"name":"tmp"}': {".": {}, "f:name": {}, "f:emptyDir": {}}},
            }
        },
    },
}


def live(fields: dict[str, Any], **changes: Any) -> dict[str, Any]:
    entry = {"manager": "bema-operator", "operation": "Apply", "fieldsV1": fields, **changes}
    other = {"manager": "kubectl", "operation": "Update", "fieldsV1": {"f:spec": {"f:paused": {}}}}
    return {"metadata": {"annotations": WANTED["metadata"]["annotations"], "managedFields": [other, entry]}}


def without(*path: str) -> dict[str, Any]:
    """The fields without one. What has nothing left below it goes too: the server keeps a set of paths."""
    fields = copy.deepcopy(FIELDS)
    places = [fields]
    for part in path[:-1]:
        places.append(places[-1][part])
    for place, part in zip(reversed(places), reversed(path), strict=True):
        del place[part]
        if place:
            break
    return fields


POD = ("f:spec", "f:template", "f:spec")
STEP = (*POD, "f:containers", 'k:{"name":"step"}')


def test_all_fields_ours_is_in_step() -> None:
    assert ownership.in_step(WANTED, live(FIELDS))


@pytest.mark.parametrize(
    "path",
    [
        pytest.param(("f:spec", "f:replicas"), id="a number that somebody scaled"),
        pytest.param(("f:metadata", "f:labels", "f:x"), id="a label that somebody changed"),
        pytest.param(("f:metadata", "f:labels"), id="all labels"),
        pytest.param((*STEP, "f:image"), id="an image that somebody set"),
        pytest.param((*STEP, "f:args"), id="a list that is replaced as a whole"),
        pytest.param((*STEP, "f:env", 'k:{"name":"HOME"}', "f:value"), id="a variable's value"),
        pytest.param((*STEP, "f:env", 'k:{"name":"HOME"}'), id="a variable that somebody removed"),
        pytest.param(STEP, id="a container that somebody removed"),
        pytest.param((*POD, "f:tolerations"), id="an atomic list"),
        pytest.param((*POD, "f:volumes", 'k:{"name":"tmp"}', "f:emptyDir"), id="an empty object"),
    ],
)
def test_a_field_that_is_not_ours_any_more_is_drift(path: tuple[str, ...]) -> None:
    assert not ownership.in_step(WANTED, live(without(*path)))


@pytest.mark.parametrize(
    "found",
    [
        pytest.param(live(FIELDS, operation="Update"), id="written, not applied"),
        pytest.param(live(FIELDS, manager="somebody"), id="applied by another manager"),
        pytest.param(live(FIELDS, subresource="status"), id="applied to a subresource"),
        pytest.param({"metadata": {"annotations": WANTED["metadata"]["annotations"]}}, id="no managed fields"),
        pytest.param({**live(FIELDS), "metadata": {**live(FIELDS)["metadata"], "annotations": {}}}, id="no hash"),
    ],
)
def test_what_we_did_not_apply_is_not_in_step(found: dict[str, Any]) -> None:
    assert not ownership.in_step(WANTED, found)


def test_another_desired_object_is_not_in_step() -> None:
    spec = {**WANTED["spec"], "replicas": 3}
    plain = {**WANTED, "spec": spec, "metadata": {**WANTED["metadata"], "annotations": {}}}
    assert not ownership.in_step(ownership.stamp(plain), live(FIELDS))


@pytest.mark.parametrize(
    ("fields", "value", "expected"),
    [
        pytest.param({"f:set": {'v:"a"': {}, 'v:"b"': {}}}, {"set": ["a", "b"]}, True, id="all of a set"),
        pytest.param({"f:set": {'v:"a"': {}}}, {"set": ["a", "b"]}, False, id="one of a set is missing"),
        pytest.param({"f:list": {"i:0": {}, "i:1": {}}}, {"list": [1, 2]}, True, id="items by index"),
        pytest.param({"f:list": {"i:0": {}}}, {"list": [1, 2]}, False, id="an index is missing"),
    ],
)
def test_other_kinds_of_lists(fields: dict[str, Any], value: dict[str, Any], *, expected: bool) -> None:
    assert ownership.owns({"f:spec": fields}, {"metadata": {"name": "a"}, "spec": value}) is expected
