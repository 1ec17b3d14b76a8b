"""What an App says, and how it goes together with what its Steps and its installation say."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings

from bema.contract import apps, bindings, durations, errors, quantities
from bema.contract.apps import AppSpec
from bema.contract.bindings import Binding, Broker, Installation, Owner
from bema.contract.pods import PodFields
from bema.contract.retries import RetryFields, RetryPolicy
from bema.contract.steps import Step
from tests.support import strategies

INSTALLATION = Installation(broker=Broker(urls=["nats://nats"]))
SPEC: dict[str, Any] = {
    "triggers": [{"event": {"topics": ["order"]}}, {"api": {"path": "/orders"}}],
    "code": {"entrypoint": "a.py", "image": "shop"},
}


def bound(spec: dict[str, Any], **defaults: Any) -> Binding:
    step = Step(name="pay", spec={**SPEC, **spec})  # type: ignore[arg-type]
    app = apps.parse({"defaults": defaults}, where="app.yaml")
    return bindings.bind(apps.complete(step, app), Owner(namespace="shop"), INSTALLATION)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        pytest.param("90s", 90, id="seconds"),
        pytest.param("15m", 900, id="minutes"),
        pytest.param("24h", 86_400, id="hours"),
        pytest.param("30d", 2_592_000, id="days"),
        pytest.param("4w", 2_419_200, id="weeks"),
        pytest.param("3650d", 315_360_000, id="ten years"),
    ],
)
def test_a_length_of_time(text: str, seconds: float) -> None:
    assert durations.parse(text) == seconds


@pytest.mark.parametrize("text", ["", "0s", "1", "1.5h", "-1h", "1y", "3651d", "522w", "1 d", "1d ", "999999999999s"])
def test_what_is_no_length_of_time_is_refused_by_what_it_is(text: str) -> None:
    with pytest.raises(errors.AppInvalid, match=r"^app: eventRetention: expected a time of at most 3650d") as caught:
        apps.parse({"eventRetention": text}, where="app")
    assert str(caught.value).endswith(f"found {text!r}")


@pytest.mark.parametrize("size", [1, "10", 2**20 - 1, "1M", "1048k", "1023Ki"])
def test_a_storage_whose_unit_was_forgotten_is_refused(size: int | str) -> None:
    with pytest.raises(errors.AppInvalid) as caught:
        apps.parse({"storage": size}, where="app")
    expected = "expected at least 1Mi, such as 512Mi or 10Gi"
    assert str(caught.value) == f"app: storage: {expected}, found {size!r}: is its unit missing?"


@pytest.mark.parametrize("size", [2**20, "1048576", "2M", "1049k", "1024Ki", "1Mi", "1Gi", "9999999999999999Gi"])
def test_the_smallest_storages(size: int | str) -> None:
    assert apps.parse({"storage": size}, where="app").storage == size


def test_an_app_says_otherwise_than_its_installation() -> None:
    spec = apps.parse(
        {"eventRetention": "2h", "deadLetterRetention": "1w", "storage": "5Gi", "replicas": 3}, where="app"
    )
    assert spec.over(INSTALLATION) == INSTALLATION.model_copy(
        update={
            "event_retention_seconds": 7200,
            "dead_letter_retention_seconds": 604_800,
            "storage_bytes": 5 * 2**30,
            "replicas": 3,
        }
    )
    assert AppSpec().over(INSTALLATION) == INSTALLATION


def test_a_step_is_the_same_object_without_defaults() -> None:
    step = Step(name="pay", spec=SPEC)  # type: ignore[arg-type]
    assert apps.complete(step, None) is step
    assert apps.complete(step, apps.parse({"storage": "1Gi", "defaults": {"retry": {}}}, where="app")) is step


def test_without_an_app_a_step_has_the_defaults_that_it_always_had() -> None:
    found = bound({})
    assert found.retry == RetryPolicy()
    assert found.concurrency == 16
    assert {kind.value: seconds for kind, seconds in found.timeout_seconds.items()} == {"event": 900, "api": 30}


def test_defaults_count_where_a_step_says_nothing() -> None:
    defaults = {"retry": {"maxAttempts": 7, "jitter": 0}, "timeoutSeconds": 5, "concurrency": 2}
    found = bound({"retry": {"maxAttempts": 2}}, **defaults)
    assert (found.retry.max_attempts, found.retry.jitter, found.retry.backoff) == (2, 0, "Exponential")
    assert {kind.value: seconds for kind, seconds in found.timeout_seconds.items()} == {"event": 5, "api": 5}
    assert found.concurrency == 2
    assert found.consumer is not None
    assert found.consumer.max_ack_pending == 20
    said = bound({"timeoutSeconds": 6, "concurrency": 3}, **defaults)
    assert (said.concurrency, set(said.timeout_seconds.values())) == (3, {6})


@pytest.mark.parametrize(
    ("step", "app", "bounds"),
    [
        pytest.param({}, {}, (1, 300), id="nobody says any"),
        pytest.param({"initialSeconds": 600}, {}, (600, 600), id="a first delay beyond the longest that is usual"),
        pytest.param({"maxSeconds": 0.5}, {}, (0.5, 0.5), id="a longest delay below the first that is usual"),
        pytest.param({"initialSeconds": 60}, {"maxSeconds": 10}, (60, 60), id="a first delay beyond the App's longest"),
        pytest.param({"maxSeconds": 10}, {"initialSeconds": 60}, (10, 10), id="a longest delay below the App's first"),
        pytest.param({"maxSeconds": 10}, {"initialSeconds": 2, "maxSeconds": 60}, (2, 10), id="both, without conflict"),
        pytest.param({}, {"initialSeconds": 600}, (600, 600), id="of the App alone"),
    ],
)
def test_what_is_not_said_gives_way_to_what_is(
    step: dict[str, Any], app: dict[str, Any], bounds: tuple[float, float]
) -> None:
    found = bound({"retry": step}, retry=app).retry
    assert (found.initial_seconds, found.max_seconds) == bounds


def test_one_who_contradicts_himself_is_refused() -> None:
    with pytest.raises(
        errors.AppInvalid, match=r"^app: defaults.retry: expected initialSeconds ≤ maxSeconds, found 2 >"
    ):
        apps.parse({"defaults": {"retry": {"initialSeconds": 2, "maxSeconds": 1}}}, where="app")


@settings(max_examples=100)
@given(strategies.retries(), strategies.retries())
def test_a_policy_is_made_of_any_two(step: dict[str, Any], app: dict[str, Any]) -> None:
    """Valid, for it is a model; and whatever the Step says is in it."""
    said = RetryFields.model_validate(step)
    found = said.over(RetryFields.model_validate(app)).policy
    assert said.model_dump(exclude_none=True).items() <= found.model_dump().items()


def test_pods_are_put_together_by_name() -> None:
    below = PodFields.model_validate(
        {
            "env": [{"name": "A", "value": "app"}, {"name": "B", "value": "app"}],
            "labels": {"team": "app", "tier": "app"},
            "volumes": [{"name": "v", "emptyDir": {}}],
            "volumeMounts": [{"name": "v", "mountPath": "/v"}, {"name": "v", "mountPath": "/w"}],
            "resources": {"requests": {"cpu": "1"}},
            "tolerations": [{"key": "app"}],
            "priorityClassName": "app",
        }
    )
    said = PodFields.model_validate(
        {
            "env": [{"name": "C", "value": "step"}, {"name": "A", "valueFrom": {"secretKeyRef": {}}}],
            "labels": {"team": "step"},
            "volumeMounts": [{"name": "v", "mountPath": "/w", "readOnly": True}],
            "resources": {"limits": {"memory": "1Gi"}},
            "tolerations": [],
        }
    )
    assert said.over(below).dump() == {
        "env": [
            {"name": "A", "valueFrom": {"secretKeyRef": {}}},
            {"name": "B", "value": "app"},
            {"name": "C", "value": "step"},
        ],
        "labels": {"team": "step", "tier": "app"},
        "volumes": [{"name": "v", "emptyDir": {}}],
        "volumeMounts": [{"name": "v", "mountPath": "/v"}, {"name": "v", "mountPath": "/w", "readOnly": True}],
        "resources": {"limits": {"memory": "1Gi"}},
        "tolerations": [],
        "priorityClassName": "app",
    }
    assert PodFields().over(below) == below
    assert said.over(PodFields()) == said


@settings(max_examples=100)
@given(strategies.pods(), strategies.pods())
def test_what_a_step_says_of_its_pod_is_in_it(step: dict[str, Any], app: dict[str, Any]) -> None:
    said = PodFields.model_validate(step)
    found = said.over(PodFields.model_validate(app))
    for name in ("env", "volumes", "init_containers", "sidecars"):
        assert set(map(repr, getattr(said, name) or [])) <= set(map(repr, getattr(found, name) or []))
    for name in ("resources", "tolerations", "affinity", "env_from", "priority_class_name"):
        assert getattr(said, name) is None or getattr(found, name) == getattr(said, name)


@pytest.mark.parametrize("field", ["sidecars", "initContainers"])
def test_the_name_of_the_handlers_container_is_taken(field: str) -> None:
    pod = {field: [{"name": "step", "image": "a"}]}
    sentence = "the name step belongs to the container that runs the handler, found it for another one"
    with pytest.raises(errors.AppInvalid, match=rf"^app: defaults\.pod\.{field}\[0\]: {sentence}$"):
        apps.parse({"defaults": {"pod": pod}}, where="app")


def test_what_this_version_does_not_act_on_is_named() -> None:
    spec = apps.parse({"defaults": {"pod": {"serviceAccountName": "a"}}}, where="app")
    assert apps.not_supported(spec) == ["defaults.pod.serviceAccountName is not supported by this version"]
    assert apps.not_supported(AppSpec()) == []


@pytest.mark.parametrize(
    ("size", "text"),
    [(0, "0"), (900, "900"), (1024, "1Ki"), (12_900_000, "12.3Mi"), (2**30, "1Gi"), (1047 * 2**20, "1.02Gi")],
)
def test_bytes_for_people(size: int, text: str) -> None:
    assert quantities.show(size) == text
