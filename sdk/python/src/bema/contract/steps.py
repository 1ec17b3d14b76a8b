"""The Step: what a user declares. `config` in Python, `spec` in YAML; one schema.

What the schema accepts and this version does not act on is listed by `not_supported`, so that every surface refuses
it by name instead of accepting it silently.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator, Mapping
from datetime import datetime
from enum import StrEnum
from typing import Annotated, Any

from pydantic import AfterValidator, Field, ValidationError, field_validator, model_validator

from bema.contract import errors, names
from bema.contract.models import JsonSchema, Model, Text
from bema.contract.pods import PodFields, RestartOn
from bema.contract.retries import RetryFields
from bema.contract.triggers import ApiTrigger, CronTrigger, EventTrigger, Kind, StateTrigger, Topic, Trigger

MAX_INLINE_BYTES = 96 * 1024
"""Inline code of one Step. Client-side `kubectl apply` keeps the manifest in an annotation of at most 256 KiB."""


OUTSIDE_PATTERN = r"(^|/)\.{0,2}(/|$)"
"""A regular expression (RE2) that finds something in a path which is not a plain way down: an empty part, `.`, `..`."""

DELIVER_FROM_PATTERN = (
    r"^(Creation|Beginning|Now|[0-9]{4}-"
    r"((0[13578]|1[02])-(0[1-9]|[12][0-9]|3[01])|(0[469]|11)-(0[1-9]|[12][0-9]|30)|02-(0[1-9]|[12][0-9]))"
    r"T([01][0-9]|2[0-3]):[0-5][0-9]:[0-5][0-9](\.[0-9]{1,9})?(Z|[+-]([01][0-9]|2[0-3]):[0-5][0-9]))$"
)
"""A regular expression (RE2) of `deliverFrom`."""

SourceText = Annotated[str, Field(json_schema_extra={"maxLength": MAX_INLINE_BYTES})]
"""A source file. Python counts the bytes of all of them together, which says more than a limit for each."""


Timeout = Annotated[float, Field(gt=0, le=86_400)]
"""Seconds of one attempt."""

Concurrency = Annotated[int, Field(ge=1, le=1024)]
"""Attempts at once in one pod."""


class Isolation(StrEnum):
    THREAD = "Thread"
    PROCESS = "Process"


class Engine(StrEnum):
    NATIVE = "Native"
    HPA = "HPA"
    KEDA = "KEDA"


class DeletionPolicy(StrEnum):
    DELETE = "Delete"
    DRAIN = "Drain"


class Capture(StrEnum):
    OFF = "Off"
    METADATA = "Metadata"
    PAYLOAD = "Payload"


class Language(StrEnum):
    PYTHON = "python"
    NODE = "node"


class Emit(Model):
    """A topic that a Step may emit."""

    topic: Topic
    """Name of the topic."""
    schema_: Annotated[JsonSchema | None, Field(alias="schema")] = None
    """JSON Schema of the data; an emit that does not fit is an error in the handler."""
    description: Text | None = None
    """What the event says, for people."""

    @model_validator(mode="before")
    @classmethod
    def _topic_alone(cls, value: Any) -> Any:
        """A config may name a topic alone; the stored form is always an object."""
        if isinstance(value, str):
            return {"topic": value}
        if not isinstance(value, Mapping | Emit):
            raise ValueError(f"expected a topic, or an object with `topic` and `schema`, found {_found(value)}")
        return value


class Code(Model):
    """Where the handler comes from: an image, or source inside the Step itself."""

    language: Language = Language.PYTHON
    """Language of the handler. Only python is acted on by this version."""
    entrypoint: Annotated[str, Field(min_length=1, max_length=512)]
    """File that holds the handler, relative to the app's folder."""
    inline: Annotated[dict[str, SourceText], Field(max_length=64)] | None = None
    """Source files by path, at most 96 KiB together."""
    image: Annotated[str, Field(min_length=1, max_length=1024)] | None = None
    """Image built on the runtime image, with the app's folder in /app."""

    @model_validator(mode="after")
    def _one_source(self) -> Code:
        if (self.inline is None) == (self.image is None):
            found = "both" if self.inline is not None else "neither"
            raise ValueError(f"code has exactly one of inline, image; found {found}")
        for path in [self.entrypoint, *(self.inline or {})]:
            if re.search(OUTSIDE_PATTERN, path):
                raise ValueError(f"expected a path below the app's folder, found {path!r}")
        if self.inline is not None:
            self._check_inline(self.inline)
        return self

    def _check_inline(self, inline: dict[str, str]) -> None:
        size = sum(len(text.encode("utf-8", "surrogatepass")) for text in inline.values())
        if size > MAX_INLINE_BYTES:
            raise ValueError(f"inline code: expected at most {MAX_INLINE_BYTES} bytes together, found {size}")
        if self.entrypoint not in inline:
            raise ValueError(f"inline code: expected the entrypoint {self.entrypoint!r}, found {', '.join(inline)}")


class Scaling(Model):
    """Bounds for the number of pods. This version runs `minReplicas` pods."""

    min_replicas: Annotated[int, Field(ge=0, le=1000)] = 1
    """Fewest pods. 0 is not acted on by this version."""
    max_replicas: Annotated[int, Field(ge=1, le=1000)] = 10
    """Most pods. Bounds, times concurrency, what the Step may have in hand."""
    engine: Engine = Engine.NATIVE
    """Who scales. Not acted on by this version."""
    target_drain_seconds: Annotated[int, Field(ge=1, le=86_400)] = 60
    """Scale so that the backlog is worked off within this time, in seconds. Not acted on by this version."""
    idle_seconds: Annotated[int, Field(ge=1, le=86_400)] = 300
    """Idle time before a Step goes down to its fewest pods, in seconds. Not acted on by this version."""

    @model_validator(mode="after")
    def _bounds(self) -> Scaling:
        if self.min_replicas > self.max_replicas:
            raise ValueError(f"expected minReplicas ≤ maxReplicas, found {self.min_replicas} > {self.max_replicas}")
        return self


def _check_deliver_from(value: str) -> str:
    try:
        if re.fullmatch(DELIVER_FROM_PATTERN, value):
            if value[0].isdigit():
                datetime.fromisoformat(value)
            return value
    except ValueError:
        pass
    raise ValueError(f"expected Creation, Beginning, Now or a time such as 2026-01-31T12:00:00Z, found {value!r}")


IN_FLIGHT = "expected maxInFlight to be at least the size of a batch, or none would ever fill"
ONE_GROUP = "expected each state group in one trigger"
ADOPTS = "expected adoptFrom with event or state triggers, because a place in the stream is what is taken over"
ADOPTED_NAME = "expected the name of another Step such as charge-payment"
RESTART_ON = (
    "expected restartOn with pods that run all the time (api, event or state triggers), because a schedule's Job reads "
    "its ConfigMaps as it starts"
)
ONLY_TRIGGER = "expected a trigger with a batch to be the only one of its Step, because its handler takes a list"


class StepSpec(Model):
    """One unit of work: what triggers it, what it emits, how it runs."""

    display_name: Annotated[Text, Field(max_length=253)] | None = None
    """The name as its author wrote it."""
    description: Annotated[Text, Field(max_length=4096)] | None = None
    """What the Step does, for people."""
    flows: Annotated[list[Annotated[str, Field(min_length=1, max_length=253)]], Field(max_length=32)] = []
    """Pictures in which the Step appears."""
    triggers: Annotated[list[Trigger], Field(max_length=8)] = []
    """What starts the Step. None for a noop, which stands for a person or an outside system."""
    emits: Annotated[
        list[Emit],
        Field(
            max_length=64,
            json_schema_extra={"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["topic"]},
        ),
    ] = []
    """Topics that the Step may emit. In a config, a topic's name alone will do."""
    virtual_emits: Annotated[list[Topic], Field(max_length=64)] = []
    """Topics that a noop stands for, in pictures only."""
    virtual_subscribes: Annotated[list[Topic], Field(max_length=64)] = []
    """Topics that a noop is drawn as hearing, in pictures only."""
    code: Code | None = None
    """The handler's source. Absent for a noop."""
    retry: RetryFields = RetryFields()
    """How often and when a failed run is tried again."""
    timeout_seconds: Timeout | None = None
    """Longest time of one attempt, in seconds. Default: the App's, else 30 for api and 900 for anything else."""
    concurrency: Concurrency | None = None
    """Attempts at once in one pod. Default: the App's, else 16."""
    max_in_flight: Annotated[int, Field(ge=1, le=100_000)] | None = None
    """Events in hand across all pods. Default: concurrency × maxReplicas."""
    isolation: Isolation = Isolation.THREAD
    """Where handlers run: in the runtime (Thread), or in a process of their own beside it (Process)."""
    scaling: Scaling = Scaling()
    """Bounds for the number of pods."""
    replicas: Annotated[int, Field(ge=0, le=1000)] | None = None
    """Number of pods by hand, as `kubectl scale step` sets it. Overrides scaling. Without it, whoever scales the Step's
    Deployment, such as an autoscaler, is left alone."""
    deliver_from: Annotated[
        str,
        Field(max_length=64, json_schema_extra={"pattern": DELIVER_FROM_PATTERN}),
        AfterValidator(_check_deliver_from),
    ] = "Creation"
    """First event of a new Step: since its Creation, from the Beginning, from Now on, or since a time (RFC 3339)."""
    adopt_from: Annotated[str, Field(max_length=names.MAX_STEP_NAME)] | None = None
    """Name of the Step, gone by now, whose place in the stream this one takes over: it was renamed."""
    deletion_policy: DeletionPolicy = DeletionPolicy.DELETE
    """What happens to the backlog of a deleted Step. Only Delete is acted on by this version."""
    suspend: bool = False
    """Start no more runs."""
    capture: Capture | None = None
    """What the run history keeps. Not acted on by this version."""
    pod: PodFields = PodFields()
    """What the Step says about its pod."""
    restart_on: RestartOn | None = None
    """What the pods start again for, although nothing of the Step has changed."""

    @field_validator("emits", mode="before")
    @classmethod
    def _emits_in_order(cls, value: Any) -> Any:
        if not isinstance(value, list | tuple):
            raise ValueError(f"expected a list of topics, found {_found(value)}")
        return list(value)

    @field_validator("emits")
    @classmethod
    def _topics_once(cls, value: list[Emit]) -> list[Emit]:
        topics = [emit.topic for emit in value]
        twice = sorted({topic for topic in topics if topics.count(topic) > 1})
        if twice:
            raise ValueError(f"expected each topic once, found {', '.join(twice)} twice")
        return value

    @model_validator(mode="after")
    def _code_iff_triggers(self) -> StepSpec:
        if self.triggers and self.code is None:
            raise ValueError("a Step with triggers has code; found triggers without code")
        if self.code is not None and not self.triggers:
            raise ValueError("a Step with code has triggers; found code without triggers")
        if self.triggers and (self.virtual_emits or self.virtual_subscribes):
            raise ValueError("virtualEmits and virtualSubscribes belong to a noop; found triggers too")
        topics = [topic for trigger in self.events for topic in trigger.topics]
        twice = sorted({topic for topic in topics if topics.count(topic) > 1})
        if twice:
            raise ValueError(f"expected each topic in one trigger, found {', '.join(twice)} in several")
        groups = [trigger.group for trigger in self.states]
        twice = sorted({group for group in groups if groups.count(group) > 1})
        if twice:
            raise ValueError(f"{ONE_GROUP}, found {', '.join(map(repr, twice))} in several")
        if self.adopt_from is not None and not (self.events or self.states):
            raise ValueError(f"{ADOPTS}, found none")
        if self.restart_on is not None and all(trigger.cron for trigger in self.triggers):
            raise ValueError(f"{RESTART_ON}, found {'only a schedule' if self.triggers else 'a noop'}")
        largest = max((event.batch.size for event in self.events if event.batch), default=0)
        if self.max_in_flight is not None and self.max_in_flight < largest:
            raise ValueError(f"{IN_FLIGHT}, found {self.max_in_flight} for batches of {largest}")
        if len(self.triggers) > 1 and any(event.batch for event in self.events):
            raise ValueError(f"{ONLY_TRIGGER}, found {len(self.triggers)} triggers")
        return self

    @property
    def apis(self) -> list[ApiTrigger]:
        return [trigger.api for trigger in self.triggers if trigger.api is not None]

    @property
    def events(self) -> list[EventTrigger]:
        return [trigger.event for trigger in self.triggers if trigger.event is not None]

    @property
    def crons(self) -> list[CronTrigger]:
        return [trigger.cron for trigger in self.triggers if trigger.cron is not None]

    @property
    def states(self) -> list[StateTrigger]:
        return [trigger.state for trigger in self.triggers if trigger.state is not None]

    @property
    def pods(self) -> int | None:
        """How many pods are to run all the time; None for a Step without any: a noop, or one that a schedule starts."""
        if not self.triggers or self.crons:
            return None
        if self.suspend:
            return 0
        return self.scaling.min_replicas if self.replicas is None else self.replicas

    @property
    def says_pods(self) -> bool:
        """Whether the Step itself says how many, so that nobody else may."""
        return self.replicas is not None or self.suspend

    @property
    def kinds(self) -> list[Kind]:
        """The kinds of its triggers, each once, in order of first use."""
        return list(dict.fromkeys(trigger.kind for trigger in self.triggers))


API_NAME_MESSAGE = (
    "expected a name that begins with a letter, because a Service is named after a Step with an api trigger"
)


class Step(Model):
    """A Step with its name."""

    name: Annotated[str, Field(min_length=1, max_length=names.MAX_STEP_NAME)]
    spec: StepSpec

    @field_validator("name")
    @classmethod
    def _is_label(cls, value: str) -> str:
        if not names.is_label(value, limit=names.MAX_STEP_NAME):
            raise ValueError(
                f"expected a DNS label of at most {names.MAX_STEP_NAME} characters such as charge-payment, "
                f"found {value!r}"
            )
        return value

    @model_validator(mode="after")
    def _adopts_another(self) -> Step:
        former = self.spec.adopt_from
        if former is not None and (former == self.name or not names.is_label(former, limit=names.MAX_STEP_NAME)):
            raise ValueError(f"adoptFrom: {ADOPTED_NAME}, found {former!r}")
        return self

    @model_validator(mode="after")
    def _is_service_name(self) -> Step:
        if self.spec.apis and not self.name[0].isalpha():
            raise ValueError(f"{API_NAME_MESSAGE}, found {self.name!r}")
        return self


def not_supported(spec: StepSpec) -> list[str]:
    """What a Step asks for that this version does not act on, each as a sentence that names the field."""
    return list(_unsupported(spec))


def _unsupported(spec: StepSpec) -> Iterator[str]:
    later = "is not supported by this version"
    for index, trigger in enumerate(spec.triggers):
        where = f"triggers[{index}].{trigger.kind}"
        if trigger.kind is Kind.STREAM:
            yield f"{where}: a {trigger.kind} trigger {later}"
            continue
        for field in ("auth",):
            if getattr(trigger.member, field, None) is not None:
                yield f"{where}.{field} {later}"
        if trigger.event is not None and trigger.event.ordering is not None:
            yield from _beside_ordering(spec, trigger.event, where, later)
    if spec.crons and len(spec.triggers) > 1:
        yield f"triggers: a cron trigger beside other triggers {later}; give the schedule a Step of its own"
    if spec.code is not None and spec.code.language is not Language.PYTHON:
        yield f"code.language: {spec.code.language} {later}; use python"
    if spec.scaling.min_replicas == 0:
        yield f"scaling.minReplicas: 0 {later}; use 1 or more"
    for field, default in (("engine", Engine.NATIVE), ("target_drain_seconds", 60), ("idle_seconds", 300)):
        if getattr(spec.scaling, field) != default:
            yield f"scaling.{_camel(field)} {later}; leave it out"
    if spec.deletion_policy is not DeletionPolicy.DELETE:
        yield f"deletionPolicy: {spec.deletion_policy} {later}; use Delete"
    if spec.capture is not None:
        yield f"capture {later}"
    yield from unsupported_pod(spec.pod)


def unsupported_pod(pod: PodFields) -> Iterator[str]:
    """What this version does not act on about a pod."""
    if pod.service_account_name is not None:
        yield "pod.serviceAccountName is not supported by this version"


def _beside_ordering(spec: StepSpec, event: EventTrigger, where: str, later: str) -> Iterator[str]:
    """What cannot be had together with an order, or not yet."""
    if event.batch is not None:
        yield f"{where}.ordering beside batch {later}: events in order come one at a time; leave one of them out"
    if spec.max_in_flight is not None:
        yield (
            f"{where}.ordering beside maxInFlight {later}: each partition has one event in flight; leave maxInFlight "
            "out, and say concurrency"
        )


def _camel(name: str) -> str:
    head, *rest = name.split("_")
    return head + "".join(part.title() for part in rest)


def parse_spec(config: Mapping[str, Any], *, where: str) -> StepSpec:
    """A spec from plain values, camelCase or snake_case. Raises `StepInvalid` with one line per problem, each with
    `where` (a file or an object's name), the field, and for an unknown key the nearest valid one."""
    try:
        return StepSpec.model_validate(dict(config))
    except ValidationError as error:
        raise errors.StepInvalid("\n".join(explain(error, where=where))) from error


def named(name: str, spec: StepSpec, *, where: str) -> Step:
    """A Step of that name. Raises `StepInvalid` for a name that it cannot have."""
    try:
        return Step(name=name, spec=spec)
    except ValidationError as error:
        raise errors.StepInvalid("\n".join(explain(error, where=where))) from error


def explain(error: ValidationError, *, where: str, root: type[Model] = StepSpec) -> list[str]:
    """A validation error as lines for people. `root`: the model that was expected."""
    return [_sentence(where, details, root) for details in error.errors(include_url=False)]


def _sentence(where: str, details: Any, root: type[Model]) -> str:
    path = _path(details["loc"])
    match details["type"]:
        case "extra_forbidden":
            return f"{where}: unknown key {path!r}{_nearest(details['loc'], root)}"
        case "missing":
            return f"{where}: {path} is required"
        case "value_error":
            return f"{where}: {path + ': ' if path else ''}{details['ctx']['error']}"
        case _:
            return f"{where}: {path}: {details['msg'][0].lower()}{details['msg'][1:]}, found {_found(details['input'])}"


def _found(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else text[:79] + "…"


def _path(loc: tuple[int | str, ...]) -> str:
    text = ""
    for part in loc:
        text += f"[{part}]" if isinstance(part, int) else f".{part}" if text else str(part)
    return text


def _nearest(loc: tuple[int | str, ...], root: type[Model]) -> str:
    """Suggest the valid key closest to the unknown last part of `loc`."""
    model: Any = root
    for part in loc[:-1]:
        if isinstance(part, str) and (field := _field(model, part)) is not None:
            model = _model_in(field.annotation)
    if model is None:
        return ""
    valid = [str(field.alias or name) for name, field in model.model_fields.items()]
    unknown = str(loc[-1])
    plain = {re.sub("[_-]", "", key).lower(): key for key in valid}
    close = difflib.get_close_matches(re.sub("[_-]", "", unknown).lower(), plain, n=1, cutoff=0.5)
    return f"; did you mean {plain[close[0]]!r}?" if close else f"; valid keys are {', '.join(valid)}"


def _field(model: Any, key: str) -> Any:
    if model is None:
        return None
    for name, field in model.model_fields.items():
        if key in (name, field.alias):
            return field
    return None


def _model_in(annotation: Any) -> Any:
    """The first model inside an annotation such as `list[Annotated[X, …]] | None`."""
    if isinstance(annotation, type) and issubclass(annotation, Model):
        return annotation
    for inner in getattr(annotation, "__args__", ()):
        if (found := _model_in(inner)) is not None:
            return found
    return None
