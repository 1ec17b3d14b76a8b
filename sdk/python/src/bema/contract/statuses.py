"""The status of a Step and of an App: what the operator found, in Kubernetes' own shape. Holds data; deciding is the
operator's.

Conditions are positive (`True` is good), with two exceptions: `Progressing=True` says only that a change is under way,
and `Stalled=True`, which is there only while it is so, is the word by which kstatus knows a failure. Whoever waits
(Flux, Helm, Argo CD) sees the same: `Stalled` has failed, `Ready` is done, anything else is on its way.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

from pydantic import Field

from bema.contract.models import Model
from bema.contract.steps import StepSpec
from bema.contract.triggers import Trigger, normal_path


class ConditionType(StrEnum):
    """What a condition is about."""

    READY = "Ready"
    """The Step does its work: everything below that applies to it is true. The App: all that it says counts."""
    PROGRESSING = "Progressing"
    """A change is on its way to the pods."""
    WORKLOAD_READY = "WorkloadReady"
    """The Deployment or CronJob is as the Step wants it."""
    SUBSCRIPTION_READY = "SubscriptionReady"
    """The Step's consumer exists and hears its topics."""
    STALLED = "Stalled"
    """The Step, or the App, will not be ready until somebody acts. Left out while that is not so."""


class ConditionStatus(StrEnum):
    TRUE = "True"
    FALSE = "False"
    UNKNOWN = "Unknown"


class Reason(StrEnum):
    """Why a condition is as it is."""

    AVAILABLE = "Available"
    """The pods that should run are ready."""
    RECONCILED = "Reconciled"
    """The cluster has what the Step asks for; what the App says counts."""
    ROLLING_OUT = "RollingOut"
    """New pods are being started; the message says how many are up to date."""
    ROLLOUT_QUEUED = "RolloutQueued"
    """The operator makes something else of the Step than before, as after an upgrade; the pods of other Steps are
    replaced first, or NATS is waited for, and the message says which."""
    SCHEDULED = "Scheduled"
    """The CronJob is in place and starts a run at the next tick."""
    SUBSCRIBED = "Subscribed"
    """The consumer exists and hears every topic of the Step."""
    NO_SUBSCRIPTION = "NoSubscription"
    """The Step has no event trigger, so that it needs no consumer."""
    NO_WORKLOAD = "NoWorkload"
    """A noop: nothing runs."""
    SUSPENDED = "Suspended"
    """`spec.suspend` is true: no run is started."""
    SCALED_TO_ZERO = "ScaledToZero"
    """`spec.replicas` is 0, as somebody asked for."""
    NOT_SUPPORTED = "NotSupported"
    """The Step, or the App, uses a field that this version does not act on; the message names it."""
    INVALID_SPEC = "InvalidSpec"
    """The Step, or the App, contradicts itself in a way that the API server could not see; the message says how."""
    APP_NOT_READY = "AppNotReady"
    """The App of the namespace is not acted on, and its Steps are left as they are meanwhile; the message says why."""
    WORKLOAD_UNAVAILABLE = "WorkloadUnavailable"
    """Pods are missing or not ready; the message is that of Kubernetes."""
    IMAGE_PULL_FAILED = "ImagePullFailed"
    """The image cannot be pulled; the message is the kubelet's."""
    CRASH_LOOP = "CrashLoop"
    """The container starts and ends again and again; its log says why."""
    REPLICAS_CONTESTED = "ReplicasContested"
    """The Step says how many pods there are to be, and somebody else sets another number of its Deployment again and
    again; the message names them."""
    QUOTA_EXCEEDED = "QuotaExceeded"
    """A ResourceQuota or LimitRange refuses the pod; the message is the API server's."""
    POD_SECURITY_REFUSED = "PodSecurityRefused"
    """The namespace's Pod Security level refuses the pod; the message is the API server's."""
    UNSCHEDULABLE = "Unschedulable"
    """No node takes the pod; the message is the scheduler's."""
    APPLY_REFUSED = "ApplyRefused"
    """The API server refuses one of the Step's objects; the message is the API server's."""
    NAME_TAKEN = "NameTaken"
    """Another object, not made for this Step, has the name that one of its objects needs."""
    BROKER_UNAVAILABLE = "BrokerUnavailable"
    """NATS does not answer; what runs goes on as it can, and is replaced only where somebody changes the Step."""
    BROKER_REFUSED = "BrokerRefused"
    """NATS refuses the stream or the consumer; the message is the server's."""
    BROKER_TOO_OLD = "BrokerTooOld"
    """The nats-server lacks what Bema needs; the message says which version it is and which is needed."""
    BROKER_DATA_LOST = "BrokerDataLost"
    """The app's stream is another one than the Step was subscribed to: what that one held is gone. Said for a day."""
    BACKLOG_ON_REMOVED_TOPIC = "BacklogOnRemovedTopic"
    """Events wait on a topic that the Step is not to hear any more; the version before goes on until they are done."""
    ADOPTION_WAITS = "AdoptionWaits"
    """The Step whose place this one takes over is still there; once it is deleted, this one goes on from its place."""
    TAKEN_OVER = "TakenOver"
    """Another Step has the place of the one of this name, or whose place it was to take; the message says which."""
    TOO_FEW_SERVERS = "TooFewServers"
    """NATS has fewer servers than the App asks for copies; the message says what to do. What is there serves on."""
    APP_STREAM_OWNED = "AppStreamOwned"
    """The app's stream belongs to another installation or namespace; the message says how to adopt it."""


UNSEEN_GENERATION = -1
"""`observedGeneration` of an object that no operator has looked at yet. A status without any would be taken for that of
a kind that has none, and the object for one that is done."""


class Condition(Model):
    """One aspect of a Step's state, as metav1.Condition."""

    type: ConditionType
    """What the condition is about."""
    status: ConditionStatus
    """True, False or Unknown."""
    reason: Reason
    """Why, in one word."""
    message: Annotated[str, Field(max_length=32_768)]
    """Why, for people, and what to do about it."""
    observed_generation: Annotated[int, Field(ge=0)] | None = None
    """The generation of the object that the condition is about."""
    last_transition_time: Annotated[str, Field(json_schema_extra={"format": "date-time"})]
    """When `status` last changed, RFC 3339."""


Conditions = Annotated[
    list[Condition],
    Field(
        max_length=16,
        json_schema_extra={"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["type"]},
    ),
]


class AppStatus(Model):
    """What the operator found. Written only through the status subresource."""

    observed_generation: int | None = None
    """The generation of the App that the whole status is about."""
    conditions: Conditions = []
    """What is right and what is not."""
    steps: Annotated[int, Field(ge=0)] | None = None
    """Steps of the namespace."""
    storage: str | None = None
    """What is used of the storage, such as 12Mi of 1Gi (1%). Refreshed now and then."""


class StepStatus(Model):
    """What the operator found. Written only through the status subresource."""

    observed_generation: int | None = None
    """The generation of the Step that the whole status is about."""
    conditions: Conditions = []
    """What is right and what is not."""
    replicas: Annotated[int, Field(ge=0)] | None = None
    """Pods of the Step."""
    ready_replicas: Annotated[int, Field(ge=0)] | None = None
    """Pods of the Step that are ready."""
    selector: str | None = None
    """Label selector of the Step's pods, for the scale subresource."""
    url: str | None = None
    """Where the Step answers HTTP inside the cluster."""
    backlog: Annotated[int, Field(ge=0)] | None = None
    """Events that wait for the Step. Refreshed now and then."""
    stream_created: str | None = None
    """When the app's stream was made that the Step relies on, RFC 3339. Another one is noticed by another time."""
    type: str | None = None
    """The kinds of its triggers, joined by commas: api, event, cron; `noop` without triggers."""
    trigger: str | None = None
    """Its first trigger in short, such as `POST /orders`, and how many more there are."""


def type_of(spec: StepSpec) -> str:
    """`status.type` of a Step."""
    return ",".join(spec.kinds) or "noop"


TRIGGER_LIMIT = 48
"""Characters of a trigger in a table."""


def trigger_of(spec: StepSpec) -> str | None:
    """`status.trigger` of a Step: the first trigger in short and the number of the others; None for a noop."""
    texts = [text for trigger in spec.triggers for text in _texts(trigger)]
    if not texts:
        return None
    first = texts[0] if len(texts[0]) <= TRIGGER_LIMIT else f"{texts[0][: TRIGGER_LIMIT - 1]}…"
    return first if len(texts) == 1 else f"{first} +{len(texts) - 1}"


def _texts(trigger: Trigger) -> list[str]:
    if trigger.api:
        return [f"{trigger.api.method} {normal_path(trigger.api.path)}"]
    if trigger.event:
        return list(trigger.event.topics)
    if trigger.cron:
        return [trigger.cron.schedule]
    if trigger.state:
        return [trigger.state.group]
    return [trigger.stream.stream] if trigger.stream else []
