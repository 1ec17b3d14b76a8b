"""What starts a Step: api, event, cron, state and stream. A trigger has exactly one of these as its member.

One-of members instead of a discriminated union: only they survive as a structural schema in Kubernetes.
"""

from __future__ import annotations

import re
from enum import StrEnum
from typing import Annotated, Any

from pydantic import AfterValidator, Field, model_validator

from bema.contract import names, quantities, schedules
from bema.contract.models import JsonSchema, Model

FUNCTION = "decided by a function in the Step's code"
"""In a schema's `$comment`: stands for a condition that is a function."""


class Kind(StrEnum):
    """The kinds of trigger, by the member's name."""

    API = "api"
    EVENT = "event"
    CRON = "cron"
    STATE = "state"
    STREAM = "stream"


class Method(StrEnum):
    GET = "GET"
    POST = "POST"
    PUT = "PUT"
    PATCH = "PATCH"
    DELETE = "DELETE"
    HEAD = "HEAD"
    OPTIONS = "OPTIONS"


class Overlap(StrEnum):
    """What happens to a tick that falls due while the run before it is still going."""

    SKIP = "Skip"
    ALLOW = "Allow"
    REPLACE = "Replace"


class StreamChange(StrEnum):
    CREATE = "Create"
    UPDATE = "Update"
    DELETE = "Delete"


_PARAMETER = re.compile(r"\{([A-Za-z_][A-Za-z0-9_]*)\}|:([A-Za-z_][A-Za-z0-9_]*)")


PATH_PATTERN = r"^/([A-Za-z0-9/_.~%!$&'()+,;=@-]|\{[A-Za-z_][A-Za-z0-9_]*\}|:[A-Za-z_][A-Za-z0-9_]*)*$"
"""A regular expression (RE2) of an api path."""


def _check_topic(topic: str) -> str:
    if not topic:
        raise ValueError("expected a topic, found an empty string")
    names.encode_topic(topic)
    return topic


def _check_name(name: str) -> str:
    names.encode(name)
    return name


Topic = Annotated[str, Field(min_length=1, max_length=1024), AfterValidator(_check_topic)]


def path_parameters(path: str) -> tuple[str, ...]:
    """The names of the parameters in an api path, `{id}` or `:id`, in order."""
    return tuple(brace or colon for brace, colon in _PARAMETER.findall(path))


def normal_path(path: str) -> str:
    """The path with each `:id` written as `{id}`."""
    return _PARAMETER.sub(lambda match: "{" + (match[1] or match[2]) + "}", path)


def _check_path(path: str) -> str:
    parameters = path_parameters(path)
    if len(set(parameters)) != len(parameters):
        raise ValueError(f"expected each path parameter once, found {path!r}")
    if not re.fullmatch(PATH_PATTERN, path):
        raise ValueError(f"expected a path such as /orders/{{id}}, found {path!r}")
    return path


class ApiTrigger(Model):
    """An HTTP request on a method and a path."""

    method: Method = Method.GET
    """HTTP method."""
    path: Annotated[str, Field(min_length=1, max_length=1024), AfterValidator(_check_path)]
    """Path with parameters in braces, such as /orders/{id}."""
    body: JsonSchema | None = None
    """JSON Schema of the request body."""
    query: JsonSchema | None = None
    """JSON Schema of the query parameters, as an object of strings or lists of strings."""
    responses: Annotated[dict[str, JsonSchema], Field(max_length=32)] | None = None
    """JSON Schemas of the answers, by status code."""
    max_body_bytes: quantities.Quantity = "1Mi"
    """Largest request body that is read, as a quantity such as 1Mi."""
    auth: JsonSchema | None = None
    """Who may call. Not acted on by this version."""
    condition: JsonSchema | None = None
    """When to run: a JSON Schema that the body has to fit; in Python also a function of input and context."""


class Ordering(Model):
    """In order per key, across replicas. Events without a key are in order among themselves."""


class Batch(Model):
    """Several events in one execution of the handler."""

    size: Annotated[int, Field(ge=1, le=400)] = 100
    """Events in a batch, at most."""
    timeout_seconds: Annotated[float, Field(gt=0, le=3600)] = 1
    """How long to wait for a batch to fill, in seconds."""


class EventTrigger(Model):
    """An event on one of several topics."""

    topics: Annotated[
        list[Topic], Field(min_length=1, max_length=32, json_schema_extra={"x-kubernetes-list-type": "set"})
    ]
    """Exact names of topics."""
    input: JsonSchema | None = None
    """JSON Schema of the event's data."""
    condition: JsonSchema | None = None
    """When to run: a JSON Schema that the data has to fit; in Python also a function of input and context."""
    ordering: Ordering | None = None
    """Events of one key one after the other, in the order in which they were emitted."""
    batch: Batch | None = None
    """Hand several events to the handler at once, as a list. Such a trigger is the only one of its Step."""

    @model_validator(mode="after")
    def _topics_once(self) -> EventTrigger:
        twice = sorted({topic for topic in self.topics if self.topics.count(topic) > 1})
        if twice:
            raise ValueError(f"topics: expected each topic once, found {', '.join(twice)} twice")
        return self


class CronTrigger(Model):
    """A time by the clock."""

    schedule: Annotated[str, Field(min_length=1, max_length=256), AfterValidator(schedules.check)]
    """Five fields (minute hour day-of-month month day-of-week), or a name such as @daily."""
    time_zone: Annotated[str, Field(max_length=64), AfterValidator(schedules.check_time_zone)] = "Etc/UTC"
    """IANA time zone, such as Europe/Paris."""
    overlap: Overlap = Overlap.SKIP
    """What happens to a tick that falls due while the run before it is still going."""
    starting_deadline_seconds: Annotated[int, Field(ge=10, le=86_400 * 30)] | None = None
    """How late a tick may still start, in seconds."""
    condition: JsonSchema | None = None
    """When to run: a function of input and context in the Step's code. A tick has no data that a schema could test."""

    @model_validator(mode="after")
    def _condition_is_a_function(self) -> CronTrigger:
        if self.condition is not None and self.condition.get("$comment") != FUNCTION:
            raise ValueError(
                "condition: expected a function in the Step's code, found a JSON Schema; a tick has no data that could "
                "fit one"
            )
        return self


class StateTrigger(Model):
    """A write to a group of the state."""

    group: Annotated[str, Field(min_length=1, max_length=1024), AfterValidator(_check_name)]
    """The state group to watch."""
    key: Annotated[str, Field(max_length=1024), AfterValidator(_check_name)] | None = None
    """Only this key."""
    condition: JsonSchema | None = None
    """When to run: a JSON Schema that the change (group, key, type, old, new) has to fit; in Python also a function."""


class StreamTrigger(Model):
    """A change of a realtime stream's item. Not acted on by this version."""

    stream: Annotated[str, Field(min_length=1, max_length=63)]
    """Name of the stream."""
    on: Annotated[list[StreamChange], Field(min_length=1, max_length=3)] = [
        StreamChange.CREATE,
        StreamChange.UPDATE,
        StreamChange.DELETE,
    ]
    """Which changes."""
    condition: JsonSchema | None = None
    """When to run."""


class Trigger(Model):
    """What starts a Step. Exactly one member."""

    api: ApiTrigger | None = None
    """An HTTP request."""
    event: EventTrigger | None = None
    """An event on a topic."""
    cron: CronTrigger | None = None
    """A time by the clock."""
    state: StateTrigger | None = None
    """A write to the state."""
    stream: StreamTrigger | None = None
    """A change of a realtime stream. Not acted on by this version."""

    @model_validator(mode="after")
    def _one_member(self) -> Trigger:
        found = [kind.value for kind in Kind if getattr(self, kind.value) is not None]
        if len(found) != 1:
            expected = ", ".join(Kind)
            raise ValueError(f"a trigger has exactly one of {expected}; found {' and '.join(found) or 'none'}")
        return self

    @property
    def kind(self) -> Kind:
        return next(kind for kind in Kind if getattr(self, kind.value) is not None)

    @property
    def member(self) -> ApiTrigger | EventTrigger | CronTrigger | StateTrigger | StreamTrigger:
        member: Any = getattr(self, self.kind.value)
        return member  # type: ignore[no-any-return]
