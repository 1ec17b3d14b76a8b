"""Statuses: what `kubectl get` shows of a Step, and the shape of a condition."""

from __future__ import annotations

import re
from typing import Any

import pytest

from bema.contract import statuses
from bema.contract.statuses import Condition, ConditionStatus, ConditionType, Reason, StepStatus
from bema.contract.steps import StepSpec

CODE = {"entrypoint": "steps/a_step.py", "image": "shop:1"}


@pytest.mark.parametrize(
    ("triggers", "type_", "trigger"),
    [
        pytest.param([], "noop", None, id="a noop"),
        pytest.param([{"api": {"method": "POST", "path": "/orders/:id"}}], "api", "POST /orders/{id}", id="an api"),
        pytest.param([{"event": {"topics": ["a", "b", "c"]}}], "event", "a +2", id="an event on three topics"),
        pytest.param([{"event": {"topics": ["t" * 60]}}], "event", "t" * 47 + "…", id="a topic too long for a table"),
        pytest.param([{"cron": {"schedule": "0 2 * * *"}}], "cron", "0 2 * * *", id="a cron"),
        pytest.param(
            [{"event": {"topics": ["a"]}}, {"api": {"path": "/a"}}, {"api": {"path": "/b"}}],
            "event,api",
            "a +2",
            id="several kinds, each once, in their order",
        ),
        pytest.param([{"state": {"group": "orders"}}], "state", "orders", id="a state trigger"),
        pytest.param([{"stream": {"stream": "chat"}}], "stream", "chat", id="a stream trigger"),
    ],
)
def test_what_kubectl_get_shows(triggers: list[Any], type_: str, trigger: str | None) -> None:
    spec = StepSpec.model_validate({"triggers": triggers, **({"code": CODE} if triggers else {})})
    assert (statuses.type_of(spec), statuses.trigger_of(spec)) == (type_, trigger)


def test_a_status_is_written_in_the_api_s_own_shape() -> None:
    condition = Condition(
        type=ConditionType.READY,
        status=ConditionStatus.FALSE,
        reason=Reason.IMAGE_PULL_FAILED,
        message="not found",
        observed_generation=4,
        last_transition_time="2026-01-02T03:04:05Z",
    )
    assert StepStatus(observed_generation=4, conditions=[condition], ready_replicas=0).dump() == {
        "observedGeneration": 4,
        "conditions": [
            {
                "type": "Ready",
                "status": "False",
                "reason": "ImagePullFailed",
                "message": "not found",
                "observedGeneration": 4,
                "lastTransitionTime": "2026-01-02T03:04:05Z",
            }
        ],
        "readyReplicas": 0,
    }


def test_types_and_reasons_are_camel_case_words() -> None:
    assert [word for word in [*ConditionType, *Reason] if not re.fullmatch(r"([A-Z][a-z]+)+", word)] == []
