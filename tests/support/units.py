"""Bindings, runs and buffers for tests of the runtime's pure parts."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from bema.contract import bindings
from bema.contract.bindings import Binding, Broker, Installation, Limits, Owner
from bema.contract.envelopes import Event
from bema.contract.steps import Step
from bema.contract.triggers import Kind
from bema_runtime.buffers import Buffer
from bema_runtime.metrics import Metrics
from bema_runtime.runs import Delivery, Run, Unit

ROOT = "bema.shop"
BROKER = Broker(urls=["nats://nats"])
SPEC: dict[str, Any] = {
    "triggers": [{"event": {"topics": ["order.created"]}}],
    "emits": ["order.paid"],
    "code": {"entrypoint": "steps/pay_step.py", "image": "none"},
}
EVENT = Event(
    id="e1",
    topic="order.created",
    source="/test",
    time="2026-01-01T00:00:00Z",
    data=b'{"id": 1}',
    key="ann",
    trace_parent=f"00-{'a' * 32}-{'b' * 16}-01",
    headers={"X-Tenant": "acme"},
)
DELIVERY = Delivery("$JS.ACK.s.c.1.7.7.0.0", "bema.shop.evt.live.0.order=2Ecreated", 1, 7, "0")


def binding(**more: Any) -> Binding:
    step = Step(name="pay", spec={**SPEC, **more})  # type: ignore[arg-type]
    return bindings.bind(step, Owner(namespace="shop"), Installation(broker=BROKER))


def unit(bound: Binding | None = None) -> Unit:
    bound = bound or binding()
    return Unit.of(bound, Metrics().of(bound.app, bound.step))


def run(**more: Any) -> Run:
    """The run `r1` of the Step `pay`, for `EVENT`."""
    given: dict[str, Any] = {
        "unit": unit(),
        "kind": Kind.EVENT,
        "id": "r1",
        "attempt": 1,
        "trigger": 0,
        "trace_id": "a" * 32,
        "data": EVENT.data,
        "event": EVENT,
        "delivery": DELIVERY,
        "span_id": "c" * 16,
        "started": 0.0,
    }
    return Run(**{**given, **more})


def buffer(topics: Mapping[str, Callable[[Any], None] | None] | None = None, **limits: int) -> Buffer:
    """A buffer of the run `r1` of the Step `pay`, which emits `paid`."""
    return Buffer(run="r1", step="pay", limits=Limits(**limits), topics=topics or {"paid": None})
