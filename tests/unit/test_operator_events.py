"""Which Events the operator writes about a Step."""

from __future__ import annotations

from typing import Any

import pytest

from bema.contract.statuses import Condition, ConditionStatus, ConditionType, Reason
from bema_operator import events, kube
from bema_operator.facts import Key, Subject

NOW = "2026-01-01T00:00:00Z"


def subject(reason: str = "RollingOut", uid: str = "u") -> Subject:
    status = {"conditions": [{"type": "Ready", "status": "False", "reason": reason}]}
    return told_before(status, uid)


def told_before(status: dict[str, Any], uid: str = "u") -> Subject:
    return Subject(Key("shop", "pay"), uid, 1, NOW, deleting=False, status=status)


def ready(reason: Reason, status: ConditionStatus = ConditionStatus.FALSE) -> Condition:
    return Condition(type=ConditionType.READY, status=status, reason=reason, message="words", last_transition_time=NOW)


class Api:
    """Keeps what it is asked to make."""

    def __init__(self, *, refuses: bool = False) -> None:
        self.made: list[dict[str, Any]] = []
        self._refuses = refuses

    async def create(self, kind: object, manifest: dict[str, Any]) -> None:
        if self._refuses:
            raise kube.Refused("forbidden")
        self.made.append(manifest)


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def writer(api: Api, clock: Clock) -> events.Events:
    return events.Events(api, clock=clock, time=lambda: NOW)  # type: ignore[arg-type]


def test_an_event_is_about_its_step_and_says_what_the_condition_says() -> None:
    assert events.warning(subject(), Reason.CRASH_LOOP, "x" * 2000, now=NOW) == {
        "apiVersion": "v1",
        "kind": "Event",
        "metadata": {"generateName": "pay.", "namespace": "shop"},
        "involvedObject": {
            "apiVersion": "bema.dev/v1alpha1",
            "kind": "Step",
            "namespace": "shop",
            "name": "pay",
            "uid": "u",
        },
        "type": "Warning",
        "reason": "CrashLoop",
        "message": "x" * 1023 + "…",
        "source": {"component": "bema-operator"},
        "reportingComponent": "bema-operator",
        "firstTimestamp": NOW,
        "lastTimestamp": NOW,
        "count": 1,
    }


@pytest.mark.parametrize("reason", list(Reason))
async def test_only_what_somebody_has_to_act_upon_is_an_event(reason: Reason) -> None:
    api = Api()
    await writer(api, Clock()).tell(subject("other"), ready(reason))
    quiet = {
        *("Available", "Reconciled", "RollingOut", "Scheduled", "Subscribed", "NoSubscription", "NoWorkload"),
        *("Suspended", "ScaledToZero", "BrokerUnavailable", "BrokerTooOld", "BrokerDataLost", "AppNotReady"),
        *("RolloutQueued", "AdoptionWaits"),
    }
    assert [made["reason"] for made in api.made] == ([] if reason in quiet else [reason])


async def test_what_lasts_or_comes_and_goes_is_told_once() -> None:
    api, clock = Api(), Clock()
    tell = writer(api, clock).tell
    await tell(subject(), ready(Reason.CRASH_LOOP))
    await tell(subject("CrashLoop"), ready(Reason.CRASH_LOOP))
    await tell(subject(), ready(Reason.CRASH_LOOP))
    await tell(subject("CrashLoop"), ready(Reason.AVAILABLE, ConditionStatus.TRUE))
    assert len(api.made) == 1
    await tell(subject(), ready(Reason.IMAGE_PULL_FAILED))
    await tell(subject(uid="other"), ready(Reason.CRASH_LOOP))
    clock.now = events.AGAIN
    await tell(subject(), ready(Reason.CRASH_LOOP))
    assert [made["reason"] for made in api.made] == ["CrashLoop", "ImagePullFailed", "CrashLoop", "CrashLoop"]


async def test_what_was_so_before_the_operator_started_is_not_told_again() -> None:
    api, clock = Api(), Clock()
    tell = writer(api, clock).tell
    await tell(subject("CrashLoop"), ready(Reason.CRASH_LOOP))
    clock.now = events.AGAIN
    await tell(subject("CrashLoop"), ready(Reason.CRASH_LOOP))
    assert api.made == []
    workload = {"type": "WorkloadReady", "status": "False", "reason": "CrashLoop"}
    without_broker = {"type": "Ready", "status": "False", "reason": "BrokerUnavailable"}
    await tell(told_before({"conditions": [without_broker, workload]}), ready(Reason.CRASH_LOOP))
    assert [made["reason"] for made in api.made] == ["CrashLoop"]


async def test_a_step_that_is_ready_is_no_event() -> None:
    api = Api()
    await writer(api, Clock()).tell(subject(), ready(Reason.CRASH_LOOP, ConditionStatus.TRUE))
    assert api.made == []


async def test_without_the_right_to_write_events_the_work_goes_on() -> None:
    await writer(Api(refuses=True), Clock()).tell(subject(), ready(Reason.CRASH_LOOP))
