"""Bindings: a Step with everything worked out, and how a runtime reads it. More are in the golden vectors."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings

from bema.contract import bindings, errors
from bema.contract.bindings import Binding, Broker, Installation, Owner
from bema.contract.steps import Step, StepSpec
from tests.support import strategies

OWNER = Owner(namespace="shop", namespace_uid="ns-1", uid="step-1", created="2026-01-02T03:04:05Z")
INSTALLATION = Installation(broker=Broker(urls=["nats://nats:4222"]))
SPEC: dict[str, Any] = {
    "displayName": "ChargePayment",
    "triggers": [{"event": {"topics": ["order.reserved"]}}, {"api": {"method": "POST", "path": "/charges/:id"}}],
    "emits": ["order.paid"],
    "code": {"entrypoint": "steps/charge_payment_step.py", "image": "shop:1"},
}

WHOLE: dict[str, Any] = {
    "version": 1,
    "app": "shop",
    "step": "charge-payment",
    "displayName": "ChargePayment",
    "uid": "step-1",
    "root": "bema.shop",
    "stream": {
        "name": "BEMA-shop",
        "subjects": ["bema.shop.>"],
        "replicas": 1,
        "memory": False,
        "maxConsumers": 1000,
        "metadata": {
            "bema.dev/installation": "",
            "bema.dev/namespace": "shop",
            "bema.dev/namespace-uid": "ns-1",
        },
    },
    "consumer": {
        "durable": "charge-payment",
        "filterSubjects": ["bema.shop.evt.*.*.order.reserved", "bema.shop.retry.charge-payment.>"],
        "ackWaitSeconds": 10.0,
        "maxAckPending": 160,
        "deliverFrom": "2026-01-02T03:04:05Z",
        "metadata": {"bema.dev/step": "charge-payment", "bema.dev/step-uid": "step-1"},
    },
    "broker": {"urls": ["nats://nats:4222"]},
    "http": {"host": "0.0.0.0", "port": 8080},
    "health": {"host": "0.0.0.0", "port": 8081},
    "metrics": {"host": "0.0.0.0", "port": 9090},
    "code": {
        "language": "python",
        "entrypoint": "steps/charge_payment_step.py",
        "folder": "/app",
        "isolation": "Thread",
    },
    "apis": [{"trigger": 1, "method": "POST", "path": "/charges/{id}", "maxBodyBytes": 1048576}],
    "events": [{"trigger": 0, "topics": ["order.reserved"]}],
    "crons": [],
    "states": [],
    "emits": [{"topic": "order.paid"}],
    "partitions": 8,
    "retry": {"maxAttempts": 3, "backoff": "Exponential", "initialSeconds": 1.0, "maxSeconds": 300.0, "jitter": 0.2},
    "timeoutSeconds": {"event": 900.0, "api": 30.0},
    "concurrency": 16,
    "limits": {
        "effects": 500,
        "commitBytes": 4194304,
        "payloadBytes": 786432,
        "conflicts": 10,
        "dedupSeconds": 86400,
        "depth": 16,
        "extraDeliveries": 50,
        "unheardDeliveries": 8,
    },
    "drainSeconds": 30.0,
    "jsonLogs": True,
    "suspended": False,
}


def bound(spec: dict[str, Any] | None = None, *, owner: Owner = OWNER) -> Binding:
    return bindings.bind(Step(name="charge-payment", spec=StepSpec.model_validate(spec or SPEC)), owner, INSTALLATION)


def test_a_binding_says_everything() -> None:
    assert bound().dump() == WHOLE


def test_a_binding_as_json_is_the_same_every_time_and_ends_with_a_line() -> None:
    text = bound().to_json()
    assert text == bound().to_json()
    assert text.endswith("}\n")
    assert list(json.loads(text)) == sorted(WHOLE)


@settings(max_examples=50)
@given(strategies.specs().filter(lambda spec: "code" in spec))
def test_a_runtime_reads_what_was_bound(spec: dict[str, Any]) -> None:
    binding = bound(spec)
    assert bindings.read(binding.to_json(), where="binding.json") == binding


@pytest.mark.parametrize(
    ("changes", "field", "value"),
    [
        pytest.param({"maxInFlight": 7}, "max_ack_pending", 7, id="events in hand as the Step says"),
        pytest.param(
            {"concurrency": 3, "scaling": {"maxReplicas": 4}},
            "max_ack_pending",
            12,
            id="events in hand: concurrency times the most pods",
        ),
        pytest.param({"deliverFrom": "Beginning"}, "deliver_from", "Beginning", id="from the beginning"),
        pytest.param({"deliverFrom": "Creation"}, "deliver_from", OWNER.created, id="since the Step's creation"),
    ],
)
def test_a_consumer_follows_the_spec(changes: dict[str, Any], field: str, value: object) -> None:
    assert getattr(bound({**SPEC, **changes}).consumer, field) == value


def test_ordered_topics_go_to_a_consumer_for_each_partition_and_others_to_the_main_one() -> None:
    both = [{"event": {"topics": ["a.b", "c"], "ordering": {}}}, {"event": {"topics": ["d"]}}]
    found = bound({**SPEC, "triggers": both})
    assert found.consumer is not None
    assert found.ordered is not None
    retries = f"bema.shop.retry.{found.step}.>"
    assert found.consumer.filter_subjects == ["bema.shop.evt.*.*.d", retries]
    assert found.ordered.members == f"bemacore.shop.members.{found.step}"
    assert [consumer.durable for consumer in found.ordered.consumers] == [f"{found.step}_{n}" for n in range(8)]
    assert found.ordered.consumers[5].dump() == {
        **found.consumer.dump(),
        "durable": f"{found.step}_5",
        "filterSubjects": ["bema.shop.evt.*.5.a.b", "bema.shop.evt.*.5.c"],
        "maxAckPending": 1,
    }
    assert len(found.consumers) == 9


def test_a_step_whose_topics_are_all_ordered_still_hears_what_is_redriven() -> None:
    found = bound({**SPEC, "triggers": [{"event": {"topics": ["a"], "ordering": {}}}]})
    assert found.consumer is not None
    assert found.consumer.filter_subjects == [f"bema.shop.retry.{found.step}.>"]


def test_without_a_time_of_creation_events_count_from_now_on() -> None:
    consumer = bound(owner=Owner(namespace="shop")).consumer
    assert consumer is not None
    assert consumer.deliver_from == "Now"


def test_a_step_without_events_has_no_consumer_and_one_without_apis_no_http() -> None:
    cron = bound({**SPEC, "triggers": [{"cron": {"schedule": "@daily"}}]})
    assert (cron.consumer, cron.http) == (None, None)
    assert [item.model_dump(mode="json", by_alias=True, exclude_none=True) for item in cron.crons] == [
        {"trigger": 0, "schedule": "@daily", "timeZone": "Etc/UTC", "overlap": "Skip"}
    ]


def test_one_timeout_of_the_step_is_the_timeout_of_all_its_triggers() -> None:
    assert bound({**SPEC, "timeoutSeconds": 5}).timeout_seconds == {"event": 5, "api": 5}


def test_a_noop_cannot_be_bound() -> None:
    with pytest.raises(errors.StepInvalid) as caught:
        bindings.bind(Step(name="person", spec=StepSpec()), OWNER, INSTALLATION)
    assert str(caught.value) == "person: expected a Step with code, found a noop"


OTHER_VERSION = (
    "binding.json: this runtime reads Bindings of version 1, found {}; use a runtime image of the operator's version"
)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        pytest.param("", "binding.json: expected a Binding as JSON, found ''", id="an empty file"),
        pytest.param(
            "kind: Step\n", "binding.json: expected a Binding as JSON, found 'kind: Step\\n'", id="YAML is not JSON"
        ),
        pytest.param(
            b"\xff" * 50, f"binding.json: expected a Binding as JSON, found {str(bytes([255]) * 40)!r}", id="no text"
        ),
        pytest.param("[]", OTHER_VERSION.format("None"), id="a list"),
        pytest.param("{}", OTHER_VERSION.format("None"), id="no version"),
        pytest.param(
            json.dumps({**WHOLE, "version": 2, "novelty": 1}),
            OTHER_VERSION.format("2"),
            id="another version is refused for that alone",
        ),
        pytest.param(json.dumps({**WHOLE, "version": "1"}), OTHER_VERSION.format("'1'"), id="a version as text"),
    ],
)
def test_what_is_no_binding_is_refused_with_these_words(text: str | bytes, message: str) -> None:
    with pytest.raises(errors.StepInvalid) as caught:
        bindings.read(text, where="binding.json")
    assert str(caught.value) == message


def test_a_binding_with_an_unknown_key_is_refused() -> None:
    with pytest.raises(errors.StepInvalid, match=r"(?s)binding\.json: .*novelty.*Extra inputs are not permitted"):
        bindings.read(json.dumps({**WHOLE, "novelty": 1}), where="binding.json")
