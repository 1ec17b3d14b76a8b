"""What a reconcile knows about one Step, as one frozen value. Pure: made by `reconciles`, read by `decisions` and
`statuses`."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from bema.contract import names
from bema.contract.bindings import AppStream, Binding
from bema.contract.statuses import UNSEEN_GENERATION, ConditionType, Reason
from bema.contract.steps import StepSpec
from bema_operator import kinds, ownership, reasons
from bema_operator.objects import Object

CONFIG_MAPS_KEPT = 3
"""The one in use among them."""


class Key(NamedTuple):
    """A Step's, or an App's, namespace and name: what a queue works on."""

    namespace: str
    name: str

    def __str__(self) -> str:
        return f"{self.namespace}/{self.name}"

    @property
    def bound(self) -> dict[str, str]:
        """What every sentence about it in the log carries."""
        return {"app": self.namespace, "step": self.name}


@dataclass(frozen=True, slots=True)
class Problem:
    """Why something is not as it should be, as a condition says it."""

    reason: Reason
    message: str


@dataclass(frozen=True, slots=True)
class Subscription:
    """What came of asking the broker for the Step's stream and consumer; no problem: both exist."""

    problem: Problem | None = None
    created: str = ""
    """When the stream was made, RFC 3339; empty with a problem."""
    leftovers: bool = False
    """Whether consumers are left of a time when the Step heard events."""
    adopted: str = ""
    """What became of the place that it was to take over; empty where it was to take over none."""


@dataclass(frozen=True, slots=True)
class Subject:
    """The Step, or the App, itself."""

    key: Key
    uid: str
    generation: int
    created: str
    deleting: bool
    status: Object
    discards: frozenset[str] = frozenset()
    """Topics whose waiting events a person gives up."""
    kind: kinds.Kind = kinds.STEP

    @property
    def was_reconciled(self) -> bool:
        return bool(self.status.get("observedGeneration", UNSEEN_GENERATION) != UNSEEN_GENERATION)

    @property
    def is_changed(self) -> bool:
        """Whether somebody has changed it since its status was written."""
        return bool(self.status.get("observedGeneration") != self.generation)

    @property
    def workload_reason(self) -> str:
        """Why the workload is as it is, as the status says."""
        conditions: Sequence[Object] = self.status.get("conditions", ())
        found = (item.get("reason", "") for item in conditions if item.get("type") == ConditionType.WORKLOAD_READY)
        return next(found, "")

    @property
    def stream_created(self) -> str:
        """When the stream was made that the Step was subscribed to; empty when it never was."""
        return str(self.status.get("streamCreated") or "")


@dataclass(frozen=True)
class Facts:
    """Everything that a decision or a status depends on."""

    subject: Subject
    spec: StepSpec | None
    """None when it cannot be read; then `invalid` says why."""
    invalid: str = ""
    unsupported: Sequence[str] = ()
    """Sentences that name each field which this version does not act on."""
    held: str = ""
    """Why the App of the namespace is not acted on, so that nobody knows how the Step is to run."""
    binding: Binding | None = None
    """None when nothing of this Step runs."""
    stream: AppStream | None = None
    """The app's stream, as the App has it; None without a Binding."""
    wanted: Sequence[Object] = ()
    """Stamped manifests of the children that the Step asks for."""
    children: Sequence[Object] = ()
    """Live children of this Step, by label and owner."""
    taken: Sequence[str] = ()
    """Wanted objects whose names belong to objects of somebody else, as `Service shop/orders`."""
    subscription: Subscription | None = None
    """None: not asked yet."""
    released: bool = True
    """Of a noop: whether no consumer is left of a time when it heard events."""
    refused: Problem | None = None
    """What the API server said to the last apply, if it refused for good."""
    ahead: Sequence[Key] = ()
    """Steps that are rolled out before this one's pods are replaced."""
    pods: Sequence[Object] | None = None
    """Pods of a Step that is not rolled out; None: not looked at."""
    patience_over: bool = False
    """Whether the workload has been unready for so long that its pods are worth a look."""
    backlog: int | None = None
    """Events that wait for the Step; None: not known."""

    @property
    def replaced(self) -> str:
        """When the stream was made that took the place of the one that the Step was subscribed to; empty when it is
        the same."""
        created = self.subscription.created if self.subscription else ""
        return created if self.subject.stream_created not in ("", created) else ""

    def with_(self, **changes: Any) -> Facts:
        """These facts, with some of them replaced."""
        return dataclasses.replace(self, **changes)

    @property
    def is_noop(self) -> bool:
        return self.spec is not None and not self.spec.triggers

    @property
    def is_cron(self) -> bool:
        return self.spec is not None and bool(self.spec.crons)

    @functools.cached_property
    def differing(self) -> list[Object]:
        """Wanted manifests that no live child was applied from, or whose fields somebody else has changed."""
        return [item for item in self.wanted if (live := self.live(item)) is None or not ownership.in_step(item, live)]

    @functools.cached_property
    def withheld(self) -> list[Object]:
        """Those of `differing` that nobody has asked for and that wait until NATS serves the Step: were it our own
        settings that are wrong, nothing that runs would survive. What somebody has edited or deleted is not among
        them, so it is repaired."""
        problem = self.subscription.problem if self.subscription else None
        if problem is None or problem.reason not in reasons.UNSERVED or self.subject.is_changed:
            return []
        found = ((item, self.live(item)) for item in self.differing)
        return [item for item, live in found if live is not None and not ownership.was_applied(item, live)]

    @property
    def due(self) -> list[Object]:
        """Those of `differing` that are not withheld."""
        return [item for item in self.differing if item not in self.withheld]

    @functools.cached_property
    def surplus(self) -> list[Object]:
        """Live children that the Step does not ask for any more; of ConfigMaps, the newest few are kept, and all of
        them until a rollout has ended: the pods that still serve may need an old one to start again."""
        wanted = {identity(item) for item in self.wanted}
        extra = [child for child in self.children if identity(child) not in wanted]
        maps = sorted((child for child in extra if _is_config_map(child)), key=_age, reverse=True)
        if self.rollout is not None and not self.rollout.is_done:
            maps = []
        kept = CONFIG_MAPS_KEPT - 1 if wanted else 0
        return [child for child in extra if not _is_config_map(child)] + maps[kept:]

    def live(self, manifest: Object) -> Object | None:
        """The live child that a manifest is about."""
        return next((child for child in self.children if identity(child) == identity(manifest)), None)

    @property
    def deployment(self) -> Object | None:
        """The live Deployment, also one that is not wanted any more."""
        return next((child for child in self.children if child["kind"] == kinds.DEPLOYMENT.name), None)

    @property
    def cron_job(self) -> Object | None:
        return next((child for child in self.children if child["kind"] == kinds.CRON_JOB.name), None)

    @property
    def has_workload(self) -> bool:
        return self.deployment is not None or self.cron_job is not None

    @property
    def rollout(self) -> Rollout | None:
        """How far the Deployment is; None without one that is wanted."""
        wanted = next((item for item in self.wanted if item["kind"] == kinds.DEPLOYMENT.name), None)
        return None if wanted is None else rollout_of(wanted, self.live(wanted))


@dataclass(frozen=True, slots=True)
class Rollout:
    """How far a Deployment is."""

    wanted: int
    updated: int
    available: int
    total: int
    observed: bool
    """Whether Kubernetes has seen the latest template."""
    conditions: Mapping[str, Object] = field(default_factory=dict)
    """The Deployment's conditions by type."""

    @property
    def is_done(self) -> bool:
        return self.observed and self.updated == self.wanted and self.available >= self.wanted == self.total

    @property
    def is_overdue(self) -> bool:
        return self.conditions.get("Progressing", {}).get("reason") == "ProgressDeadlineExceeded"

    @property
    def was_done(self) -> bool:
        """Whether the latest template has run once as it should: Kubernetes then waits for nothing any more."""
        reason = self.conditions.get("Progressing", {}).get("reason")
        return self.observed and reason == "NewReplicaSetAvailable"

    @property
    def failure(self) -> str:
        """Why pods cannot be created, in the API server's words."""
        condition = self.conditions.get("ReplicaFailure", {})
        return str(condition.get("message", "")) if condition.get("status") == "True" else ""


def rollout_of(wanted: Object, live: Object | None) -> Rollout:
    status = live.get("status", {}) if live else {}
    generation = live["metadata"].get("generation", 0) if live else 0
    return Rollout(
        wanted=pods_of(wanted, live),
        updated=status.get("updatedReplicas", 0),
        available=status.get("availableReplicas", 0),
        total=status.get("replicas", 0),
        observed=live is not None and status.get("observedGeneration", -1) >= generation,
        conditions={condition["type"]: condition for condition in status.get("conditions", ())},
    )


def pods_of(wanted: Object, live: Object | None) -> int:
    """How many pods a Deployment is to have: as its manifest says, else as whoever scales it has set."""
    said: int | None = wanted["spec"].get("replicas")
    if said is not None:
        return said
    return int(live["spec"]["replicas"]) if live else 0


def identity(manifest: Object) -> tuple[str, str]:
    """Kind and name; the namespace is the Step's."""
    return manifest["kind"], manifest["metadata"]["name"]


def owner_uid(child: Object) -> str | None:
    """The uid of the Step that controls a child."""
    owner = controller(child)
    return owner["uid"] if owner else None


def controller(child: Object) -> Object | None:
    """The owner reference of the Step that controls a child."""
    for owner in child["metadata"].get("ownerReferences", ()):
        group = owner["apiVersion"].partition("/")[0]
        if owner.get("controller") and owner["kind"] == kinds.STEP.name and group == names.API_GROUP:
            found: Object = owner
            return found
    return None


def _is_config_map(child: Object) -> bool:
    return bool(child["kind"] == kinds.CONFIG_MAP.name)


def _age(child: Object) -> tuple[str, str]:
    return child["metadata"].get("creationTimestamp", ""), child["metadata"]["name"]
