"""A run in the hands of this process: one Step handling one trigger, from its arrival to its end."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from bema.contract import frames, names
from bema.contract.adoptions import Adoption
from bema.contract.bindings import Binding
from bema.contract.envelopes import Event
from bema.contract.triggers import Kind
from bema_runtime.metrics import StepMetrics
from bema_runtime.turns import Turns

NOT_HEARD = -1
"""In place of a trigger: the Step has none for this, as this process knows it."""


_NOTHING = Adoption()


@dataclass(eq=False, slots=True)
class Unit:
    """A Step that this process executes: its Binding and what is derived from it once."""

    binding: Binding
    metrics: StepMetrics
    topics: Mapping[str, int]
    """Topic → place of the trigger that hears it."""
    retry_prefix: str
    change_prefix: str
    in_flight: int = 0
    """Runs in hand."""
    release: Callable[[int], None] = lambda count: None
    """Tell the pull that so many messages are no longer in hand."""
    gather: Callable[[Run], None] | None = None
    """Take an event for the next batch; None for a Step that takes them one by one."""
    partition: int | None = None
    """The partition that it stands for, where events are heard in order."""
    told: set[str] = field(default_factory=set)
    """The watched groups of the state that it was seen to write to: that adds events, too."""
    adoption: Adoption = _NOTHING
    """Whose place the Step has taken over, as the stream says."""
    turns: Turns | None = None
    """When its runs may execute; None where they may at once, and a later attempt is a message of its own."""

    @classmethod
    def of(cls, binding: Binding, metrics: StepMetrics) -> Unit:
        topics = {topic: event.trigger for event in binding.events for topic in event.topics}
        unit = cls(
            binding,
            metrics,
            topics,
            names.retry_prefix(binding.root),
            names.change_prefix(binding.root),
        )
        metrics.in_flight = lambda: unit.in_flight
        return unit

    def watching(self, group: str, key: str) -> int:
        """The place of the trigger that watches a key of the state."""
        for state in self.binding.states:
            if state.group == group and state.key in (None, key):
                return state.trigger
        return NOT_HEARD

    def trigger_of(self, topic: str) -> int:
        """The place of the trigger that hears a topic. None may: a retry or a redriven event is of another time, and
        while a Step is rolled out, its consumer hears for its next version, too."""
        return self.topics.get(topic, NOT_HEARD)


class Delivery(NamedTuple):
    """How an event came: what JetStream says about a message, read from its reply subject."""

    reply: str
    subject: str
    delivered: int
    """1 on the first delivery. Not an attempt: a drain redelivers without the handler having run."""
    sequence: int
    timestamp: str

    @classmethod
    def of(cls, subject: str, reply: str) -> Delivery:
        tokens = reply.split(".")
        # `$JS.ACK.<stream>.<consumer>.<delivered>.<seq>.<cseq>.<time>.<pending>`, or with domain and account first
        first = 4 if len(tokens) == 9 else 6
        return cls(reply, subject, int(tokens[first]), int(tokens[first + 1]), tokens[first + 3])


@dataclass(eq=False, slots=True)
class Run:
    """One run. Mutable: it belongs to the engine's thread alone."""

    unit: Unit
    kind: Kind
    id: str
    attempt: int
    trigger: int
    trace_id: str
    data: bytes
    event: Event | None = None
    delivery: Delivery | None = None
    named: str = ""
    """The Step in whose name it is, which may be the one whose place its own has taken over; empty for its own."""
    retried: bool = False
    """Whether it came as a scheduled attempt, not as the event itself."""
    depth: int = 0
    """Changes to watched groups that caused each other and in the end this run."""
    ancestor: str | None = None
    """The run whose dead letter was redriven as this one."""
    twins: tuple[Delivery, ...] = ()
    """Other messages with the same event: they share its run and its end."""
    request: frames.HttpRequest | None = None
    scheduled_at: float | None = None
    errors: list[dict[str, object]] = field(default_factory=list)
    """What earlier attempts failed with."""
    span_id: str = ""
    deadline: float = 0.0
    """When its attempt is cancelled, by `time.monotonic`: a clock that is set must not end it."""
    until: float = 0.0
    """Of a run that somebody waits for: when they wait no more, by `time.monotonic`. A conflict does not move it."""
    started: float = field(default_factory=time.time)
    """Unix time of its arrival in this process."""
    invoked: float = 0.0
    """When its handler was last started, by `time.monotonic`; 0 before."""
    invocation: int = 0
    reads: dict[tuple[str, str], int] = field(default_factory=dict)
    """Revision of each key that the current execution read."""
    conflicts: int = 0
    cancelled: bool = False
    given_up: bool = False
    """Whether nobody waits for its result any more."""
    items: Sequence[Run] = ()
    """Of a batch: the runs that it executes together."""
    waiter: asyncio.Future[Any] | None = None
    """Set where somebody waits for the end of the execution instead of leaving it to the engine."""

    def takes(self, delivery: Delivery) -> bool:
        """Take in another delivery of the same event while it runs here. True when it is the same message again: the
        newest token counts then. False for a twin, a second message with the event's id."""
        if self.delivery is not None and self.delivery.sequence == delivery.sequence:
            self.delivery = delivery
            return True
        again = [twin for twin in self.twins if twin.sequence == delivery.sequence]
        self.twins = (*(twin for twin in self.twins if twin not in again), delivery)
        return bool(again)

    def prolong(self) -> None:
        """Its time starts anew."""
        self.deadline = self.until = time.monotonic() + self.timeout

    @property
    def members(self) -> Sequence[Run]:
        """The runs whose ends this one brings about: those of a batch, else itself."""
        return self.items or (self,)

    @property
    def place(self) -> tuple[str, str, int]:
        """What tells it from others in hand. A scheduled attempt may arrive while the one before is still being
        settled: it is a message of its own, and never a twin. Nor is an ordered event, whose partition may have been
        pulled anew: each message counts for the pull that brought it."""
        alone = self.retried or self.unit.partition is not None
        sequence = self.delivery.sequence if alone and self.delivery else 0
        return names.durable(self.unit.binding.step, self.unit.partition), self.id, sequence

    @property
    def step(self) -> str:
        """The Step in whose name it is: of its marker and its further attempts."""
        return self.named or self.unit.binding.step

    @property
    def binding(self) -> Binding:
        return self.unit.binding

    @property
    def timeout(self) -> float:
        return self.unit.binding.timeout_seconds[self.kind]

    @property
    def log_fields(self) -> dict[str, object]:
        binding = self.unit.binding
        return {
            "app": binding.app,
            "step": binding.step,
            "run": self.id,
            "attempt": self.attempt,
            "trace": self.trace_id,
        }
