"""The Binding: a Step with every name, default and limit worked out. The only thing that a runtime reads.

`bind` is where a Step meets its app and its installation; it is pure. The operator puts the result into a ConfigMap,
`bema dev` into a file, and a runtime never applies a default of its own.
"""

from __future__ import annotations

import json
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationError

from bema.contract import errors, names, quantities, triggers
from bema.contract.effects import MAX_COMMIT_BYTES, MAX_EFFECTS, MAX_PAYLOAD_BYTES
from bema.contract.models import JsonSchema, Model
from bema.contract.retries import RetryPolicy
from bema.contract.steps import Isolation, Language, Step, StepSpec
from bema.contract.triggers import Kind, Method, Overlap

VERSION = 1
"""Raised when a runtime of the version before could misread a Binding. Runtimes accept this one and the two before."""

API_TIMEOUT = 30.0
TIMEOUT = 900.0
CONCURRENCY = 16
ACK_WAIT = 10.0
DRAIN = 30.0
PARTITIONS = 8
DEDUP_SECONDS = 86_400
MAX_DEPTH = 16
STORAGE = 2**30
EVENT_RETENTION = 24 * 3600.0
DEAD_LETTER_RETENTION = 30 * 24 * 3600.0


class Listen(Model):
    """Where a server listens: an address of its own, or a socket that the parent process opened."""

    host: str = "0.0.0.0"
    port: int = 0
    fd: int | None = None
    """A listening socket's descriptor, inherited; `host` and `port` then only say what it is."""


class Broker(Model):
    """How to reach NATS."""

    urls: list[str]
    credentials_file: str | None = None


class Installation(Model):
    """What the platform says: the same for all Steps of an operator, or of one `bema dev`."""

    name: str = ""
    """Tells clusters apart that share one NATS; empty where there is only one."""
    broker: Broker
    replicas: int = 1
    """Copies of each app's stream."""
    memory: bool = False
    """Keep streams in memory only."""
    storage_bytes: int = STORAGE
    """Bytes that each app may use: of events, state and all else in its stream, one copy of it."""
    event_retention_seconds: float = EVENT_RETENTION
    """How long events are kept that nobody waits for any more."""
    dead_letter_retention_seconds: float = DEAD_LETTER_RETENTION
    http: Listen = Listen(port=names.PORT_HTTP)
    health: Listen = Listen(port=names.PORT_HEALTH)
    metrics: Listen = Listen(port=names.PORT_METRICS)
    folder: str = names.PATH_APP
    """Where the app's files are, in the runtime's eyes."""
    drain_seconds: float = DRAIN
    json_logs: bool = True


class Owner(Model):
    """Whose Step this is: names and identities that the platform gives."""

    namespace: str
    namespace_uid: str = ""
    uid: str = ""
    """The Step's own identity: another one after it was deleted and made again."""
    created: str | None = None
    """When the Step was made, RFC 3339; None where nobody knows."""


class AppStream(Model):
    """The JetStream stream that holds an app."""

    name: str
    subjects: list[str]
    replicas: int
    """Copies. In a Step's Binding, as the installation has it: where its App says another number, no pod need know."""
    memory: bool
    max_consumers: int = 1000
    metadata: dict[str, str]


class Consumer(Model):
    """A Step's durable pull consumer."""

    durable: str
    filter_subjects: list[str]
    ack_wait_seconds: float = ACK_WAIT
    max_ack_pending: int
    deliver_from: str
    """`Beginning`, `Now`, or a time in RFC 3339."""
    metadata: dict[str, str]


class Partitions(Model):
    """How the events of ordered triggers reach a Step: one after the other in each partition."""

    consumers: list[Consumer]
    """One for each partition, in their order. Each gives out one event at a time."""
    members: str
    """The subject on which the Step's processes tell each other that they live."""


class BoundApi(Model):
    trigger: int
    """The trigger's place in the Step's list."""
    method: Method
    path: str
    """With parameters in braces."""
    body: JsonSchema | None = None
    query: JsonSchema | None = None
    max_body_bytes: int
    condition: JsonSchema | None = None


class BoundBatch(Model):
    size: int
    timeout_seconds: float


class BoundEvent(Model):
    trigger: int
    topics: list[str]
    input: JsonSchema | None = None
    condition: JsonSchema | None = None
    batch: BoundBatch | None = None


class BoundCron(Model):
    trigger: int
    schedule: str
    time_zone: str
    overlap: Overlap
    starting_deadline_seconds: int | None = None
    condition: JsonSchema | None = None


class BoundState(Model):
    trigger: int
    group: str
    key: str | None = None
    """None for every key of the group."""
    condition: JsonSchema | None = None


class BoundEmit(Model):
    topic: str
    schema_: Annotated[JsonSchema | None, Field(alias="schema")] = None


class BoundCode(Model):
    language: Language
    entrypoint: str
    folder: str
    isolation: Isolation


class Limits(Model):
    effects: int = MAX_EFFECTS
    commit_bytes: int = MAX_COMMIT_BYTES
    payload_bytes: int = MAX_PAYLOAD_BYTES
    conflicts: int = 10
    """Times that a run is executed again at once when somebody changed what it had read."""
    dedup_seconds: int = DEDUP_SECONDS
    """How long the id of an emit is remembered."""
    depth: int = MAX_DEPTH
    """Changes to watched groups that may cause each other, one after the other: a loop ends there."""
    extra_deliveries: int = 50
    """Deliveries beyond `maxAttempts` after which an event that the runtime cannot settle is undeliverable."""
    unheard_deliveries: int = 8
    """Deliveries of an event for which the Step has no trigger, after which it is given up. With pauses of 1 s, then
    twice as long each time, and at most 30 s: time for a rollout."""


class Binding(Model):
    """A Step, fully resolved."""

    version: Literal[1] = 1
    app: str
    step: str
    display_name: str
    uid: str
    root: str
    """What every subject of the app begins with."""
    stream: AppStream
    consumer: Consumer | None = None
    """None for a Step that hears no events."""
    ordered: Partitions | None = None
    """None for a Step without ordered triggers."""
    adopts: str | None = None
    """The Step whose place this one takes over. Which events are handled in its name, the stream says."""
    broker: Broker
    http: Listen | None = None
    """None for a Step without api triggers."""
    health: Listen
    metrics: Listen
    code: BoundCode
    apis: list[BoundApi] = []
    events: list[BoundEvent] = []
    crons: list[BoundCron] = []
    states: list[BoundState] = []
    emits: list[BoundEmit] = []
    partitions: int
    retry: RetryPolicy
    timeout_seconds: dict[Kind, float]
    """Longest time of one attempt, by kind of trigger."""
    concurrency: int
    limits: Limits = Limits()
    drain_seconds: float
    json_logs: bool
    suspended: bool = False

    @property
    def batch(self) -> BoundBatch | None:
        """How events are gathered; None for one by one."""
        return next((event.batch for event in self.events if event.batch), None)

    @property
    def in_hand(self) -> int:
        """Events that one process takes at once."""
        return self.concurrency * (self.batch.size if self.batch else 1)

    @property
    def consumers(self) -> list[Consumer]:
        """All of the Step's consumers, its main one first."""
        return [*([self.consumer] if self.consumer else []), *(self.ordered.consumers if self.ordered else [])]

    def to_json(self) -> str:
        """Deterministic: keys sorted, two spaces."""
        return json.dumps(self.dump(), indent=2, sort_keys=True, ensure_ascii=False) + "\n"


def app_stream(owner: Owner, installation: Installation) -> AppStream:
    """The stream of an app. Its metadata says who owns it; a stream of another owner is never touched."""
    return AppStream(
        name=names.stream(owner.namespace, installation.name),
        subjects=[names.everything(names.root(owner.namespace, installation.name))],
        replicas=installation.replicas,
        memory=installation.memory,
        metadata={
            names.METADATA_INSTALLATION: installation.name,
            names.METADATA_NAMESPACE: owner.namespace,
            names.METADATA_NAMESPACE_UID: owner.namespace_uid,
        },
    )


def bind(step: Step, owner: Owner, installation: Installation) -> Binding:
    """Resolve a Step that has code. Raises `StepInvalid` for a noop, which nothing runs."""
    spec = step.spec
    if spec.code is None:
        raise errors.StepInvalid(f"{step.name}: expected a Step with code, found a noop")
    root = names.root(owner.namespace, installation.name)
    numbered = list(enumerate(spec.triggers))
    return Binding(
        app=owner.namespace,
        step=step.name,
        display_name=spec.display_name or step.name,
        uid=owner.uid,
        root=root,
        stream=app_stream(owner, installation),
        consumer=_consumer(step, owner, root) if spec.events or spec.states else None,
        ordered=_partitions(step, owner, root) if _hears_in_order(spec) else None,
        adopts=spec.adopt_from,
        broker=installation.broker,
        http=installation.http if spec.apis else None,
        health=installation.health,
        metrics=installation.metrics,
        code=BoundCode(
            language=spec.code.language,
            entrypoint=spec.code.entrypoint,
            folder=installation.folder,
            isolation=spec.isolation,
        ),
        apis=[_api(number, trigger.api) for number, trigger in numbered if trigger.api],
        events=[
            BoundEvent(
                trigger=number,
                topics=trigger.event.topics,
                input=trigger.event.input,
                condition=trigger.event.condition,
                batch=BoundBatch(**trigger.event.batch.model_dump()) if trigger.event.batch else None,
            )
            for number, trigger in numbered
            if trigger.event
        ],
        crons=[BoundCron(trigger=number, **trigger.cron.model_dump()) for number, trigger in numbered if trigger.cron],
        states=[
            BoundState(trigger=number, **trigger.state.model_dump()) for number, trigger in numbered if trigger.state
        ],
        emits=[BoundEmit(topic=emit.topic, schema_=emit.schema_) for emit in spec.emits],
        partitions=PARTITIONS,
        retry=spec.retry.policy,
        timeout_seconds={
            kind: spec.timeout_seconds or (API_TIMEOUT if kind is Kind.API else TIMEOUT) for kind in spec.kinds
        },
        concurrency=_concurrency(spec),
        drain_seconds=installation.drain_seconds,
        json_logs=installation.json_logs,
        suspended=spec.suspend,
    )


def _concurrency(spec: StepSpec) -> int:
    return CONCURRENCY if spec.concurrency is None else spec.concurrency


def _api(number: int, api: triggers.ApiTrigger) -> BoundApi:
    return BoundApi(
        trigger=number,
        method=api.method,
        path=triggers.normal_path(api.path),
        body=api.body,
        query=api.query,
        max_body_bytes=quantities.parse(api.max_body_bytes),
        condition=api.condition,
    )


def _consumer(step: Step, owner: Owner, root: str) -> Consumer:
    """Hears what comes in any order: unordered topics, and attempts that were scheduled or redriven."""
    spec = step.spec
    topics = [topic for event in spec.events if not _is_ordered(event) for topic in event.topics]
    at_once = _concurrency(spec) * max((event.batch.size for event in spec.events if event.batch), default=1)
    return Consumer(
        durable=names.durable(step.name),
        filter_subjects=[*(names.event_filter(root, topic) for topic in topics), names.retry_filter(root, step.name)],
        max_ack_pending=spec.max_in_flight or at_once * max(spec.scaling.max_replicas, spec.replicas or 0),
        deliver_from=_start(step, owner),
        metadata=_metadata(step, owner),
    )


def _start(step: Step, owner: Owner) -> str:
    start = step.spec.deliver_from
    return owner.created or "Now" if start == "Creation" else start


def _metadata(step: Step, owner: Owner) -> dict[str, str]:
    return {names.METADATA_STEP: step.name, names.METADATA_STEP_UID: owner.uid}


def _hears_in_order(spec: StepSpec) -> bool:
    """Changes of the state are heard in order, whoever hears them."""
    return bool(spec.states) or any(_is_ordered(event) for event in spec.events)


def _is_ordered(event: triggers.EventTrigger) -> bool:
    return event.ordering is not None


def _partitions(step: Step, owner: Owner, root: str) -> Partitions:
    """`max_ack_pending` 1 is what keeps the order: the next event of a partition is given out after the one before
    was acknowledged, whoever asks, and however many do."""
    topics = [topic for event in step.spec.events if _is_ordered(event) for topic in event.topics]
    watched = [(state.group, state.key) for state in step.spec.states]
    return Partitions(
        consumers=[
            Consumer(
                durable=names.durable(step.name, partition),
                filter_subjects=[
                    *(names.event_filter(root, topic, partition) for topic in topics),
                    *(names.change_filter(root, group, key, partition) for group, key in watched),
                ],
                max_ack_pending=1,
                deliver_from=_start(step, owner),
                metadata=_metadata(step, owner),
            )
            for partition in range(PARTITIONS)
        ],
        members=names.members(root, step.name),
    )


def read(text: str | bytes, *, where: str) -> Binding:
    """A Binding from its JSON. Raises `StepInvalid` that names `where`, with the version first: a Binding of another
    version is refused for that alone."""
    try:
        raw: Any = json.loads(text)
    except ValueError as error:
        raise errors.StepInvalid(f"{where}: expected a Binding as JSON, found {str(text[:40])!r}") from error
    version = raw.get("version") if isinstance(raw, dict) else None
    if version != VERSION:
        raise errors.StepInvalid(
            f"{where}: this runtime reads Bindings of version {VERSION}, found {version!r}; use a runtime image of the "
            "operator's version"
        )
    try:
        return Binding.model_validate(raw)
    except ValidationError as error:
        raise errors.StepInvalid(f"{where}: {error}") from error
