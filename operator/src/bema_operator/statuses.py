"""From facts to a Step's status. Pure: the time is a parameter."""

from __future__ import annotations

import datetime
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from bema.contract import statuses
from bema.contract.statuses import Condition, ConditionStatus, ConditionType, Reason, StepStatus
from bema_operator import reasons, scales
from bema_operator.facts import Facts, Problem, Rollout, Subject
from bema_operator.manifests import parts, services
from bema_operator.objects import Object

MESSAGE_LIMIT = 4096
LOSS_SECONDS = 24 * 3600.0
"""How long a Step says that the data of its app was lost."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """A condition without its times."""

    status: ConditionStatus
    reason: Reason
    message: str = ""

    @property
    def is_true(self) -> bool:
        return self.status is ConditionStatus.TRUE


def status(facts: Facts, now: str) -> StepStatus:
    """The whole status of a Step. `now` is RFC 3339; a condition keeps its time while its status stays."""
    lost = facts.replaced if told_for(facts, now) > 0 else ""
    verdicts = _verdicts(facts, lost)
    deployment = facts.deployment or {}
    counts = deployment.get("status", {})
    key = facts.subject.key
    has_url = facts.spec is not None and bool(facts.spec.apis) and not facts.unsupported
    return StepStatus(
        observed_generation=facts.subject.generation,
        conditions=[condition(facts.subject, type_, verdict, now) for type_, verdict in verdicts.items()],
        replicas=counts.get("replicas", 0) if deployment else None,
        ready_replicas=counts.get("readyReplicas", 0) if deployment else None,
        selector=parts.selector_text(key.name, key.namespace),
        url=services.url(key.name, key.namespace) if has_url else None,
        backlog=facts.backlog,
        stream_created=_stream_created(facts, lost),
        type=statuses.type_of(facts.spec) if facts.spec else None,
        trigger=statuses.trigger_of(facts.spec) if facts.spec else None,
    )


def told_for(facts: Facts, now: str) -> float:
    """For how many seconds more it is to be said that the data of the app was lost; 0 where it was not."""
    if not facts.replaced:
        return 0.0
    age = datetime.datetime.fromisoformat(now) - datetime.datetime.fromisoformat(facts.replaced)
    return max(0.0, LOSS_SECONDS - age.total_seconds())


def _stream_created(facts: Facts, lost: str) -> str | None:
    """The stream that the Step relies on: the one before for as long as its loss is told."""
    found = facts.subscription.created if facts.subscription else ""
    return (facts.subject.stream_created if lost or not found else found) or None


def condition(subject: Subject, type_: ConditionType, verdict: Verdict, now: str) -> Condition:
    """A verdict as a condition of what it is about."""
    conditions = subject.status.get("conditions", ())
    before: Object = next((item for item in conditions if item.get("type") == type_), {})
    since = before.get("lastTransitionTime") if before.get("status") == verdict.status else None
    message = verdict.message
    return Condition(
        type=type_,
        status=verdict.status,
        reason=verdict.reason,
        message=shortened(message, MESSAGE_LIMIT),
        observed_generation=subject.generation,
        last_transition_time=since or now,
    )


def shortened(text: str, limit: int) -> str:
    """A text of at most so many characters."""
    return text if len(text) <= limit else text[: limit - 1] + "…"


def was_unready(subject: Subject) -> bool:
    """Whether the status says of this generation that its workload is not ready, and why."""
    return any(
        item.get("type") == ConditionType.WORKLOAD_READY
        and item.get("status") == ConditionStatus.FALSE
        and item.get("reason") != Reason.ROLLING_OUT
        and item.get("observedGeneration") == subject.generation
        for item in subject.status.get("conditions", ())
    )


def _verdicts(facts: Facts, lost: str) -> Mapping[ConditionType, Verdict]:
    stopped = _stopped(facts)
    if stopped is not None:
        return _all_stopped(stopped)
    if facts.is_noop:
        return _noop()
    workload = _workload(facts)
    subscription = _subscription(facts, lost)
    stalled = _stalled(facts, workload, subscription)
    return {
        ConditionType.READY: _ready(workload, subscription),
        ConditionType.PROGRESSING: _progressing(facts, workload),
        ConditionType.WORKLOAD_READY: workload,
        ConditionType.SUBSCRIPTION_READY: subscription,
        **({ConditionType.STALLED: stalled} if stalled else {}),
    }


def _stopped(facts: Facts) -> Problem | None:
    """Why nothing is done about the Step at all."""
    if facts.spec is None:
        return Problem(Reason.INVALID_SPEC, facts.invalid)
    if facts.unsupported:
        return Problem(Reason.NOT_SUPPORTED, "; ".join(facts.unsupported))
    if facts.held:
        return Problem(Reason.APP_NOT_READY, facts.held)
    return None


def _all_stopped(problem: Problem) -> Mapping[ConditionType, Verdict]:
    """What was made before is left as it is, and says nothing about this generation."""
    refused = _no(problem)
    unknown = Verdict(ConditionStatus.UNKNOWN, problem.reason, "Left as it was, because the Step is not acted on.")
    return {
        ConditionType.READY: refused,
        ConditionType.PROGRESSING: refused,
        ConditionType.WORKLOAD_READY: unknown,
        ConditionType.SUBSCRIPTION_READY: unknown,
        ConditionType.STALLED: _yes(problem.reason, problem.message),
    }


def _noop() -> Mapping[ConditionType, Verdict]:
    nothing = _yes(Reason.NO_WORKLOAD, "A noop: nothing runs.")
    return {
        ConditionType.READY: nothing,
        ConditionType.PROGRESSING: Verdict(ConditionStatus.FALSE, Reason.RECONCILED),
        ConditionType.WORKLOAD_READY: nothing,
        ConditionType.SUBSCRIPTION_READY: _yes(Reason.NO_SUBSCRIPTION, "A noop hears no events."),
    }


def _ready(workload: Verdict, subscription: Verdict) -> Verdict:
    """What a person has to know first: without its subscription, a running workload has nothing to do."""
    for part in (subscription, workload):
        if not part.is_true:
            return Verdict(part.status, part.reason, part.message)
    return workload


def _subscription(facts: Facts, lost: str) -> Verdict:
    found = facts.subscription
    if found is None:
        return Verdict(ConditionStatus.UNKNOWN, Reason.BROKER_UNAVAILABLE, "The broker was not asked yet.")
    if found.problem is not None:
        return _no(found.problem)
    if lost:
        return _yes(Reason.BROKER_DATA_LOST, f"{loss(lost)} The Step works on the new one. This is said for 24 h.")
    topics = [topic for event in facts.spec.events for topic in event.topics] if facts.spec else []
    if not topics:
        return _yes(Reason.NO_SUBSCRIPTION, "The Step has no event trigger; its app's stream exists.")
    return _yes(Reason.SUBSCRIBED, f"The consumer hears {', '.join(topics)}. {found.adopted}".rstrip())


def loss(made: str) -> str:
    """What it means that an app's stream was made anew, at a time."""
    return (
        f"NATS had lost the app's stream, and it was made anew at {made}: events, state, timers and dead letters from "
        "before are gone."
    )


def _workload(facts: Facts) -> Verdict:
    problem = _not_applied(facts)
    if problem is not None:
        return _no(problem)
    suspended = facts.spec is not None and facts.spec.suspend
    rollout = facts.rollout
    if rollout is None:
        return _cron(suspended)
    if not rollout.is_done:
        return _no(_unready(facts, rollout))
    if scaler := scales.contested(facts):
        return _no(_contested(facts, rollout, scaler))
    if suspended:
        return _yes(Reason.SUSPENDED, f"spec.suspend is true: no pod runs{_waiting(facts)}.")
    if rollout.wanted == 0:
        return _yes(Reason.SCALED_TO_ZERO, f"spec.replicas is 0: no pod runs{_waiting(facts)}.")
    return _yes(Reason.AVAILABLE, f"{_pods(rollout.available)} of {rollout.wanted} ready.")


def _contested(facts: Facts, rollout: Rollout, scaler: str) -> Problem:
    said = facts.spec.pods if facts.spec is not None else 0
    text = (
        f"The Step says {said}, and {scaler} has set {rollout.wanted} replicas of the Deployment again and "
        "again; it has its way for some minutes. Take it away, or leave the number to it (spec.replicas, "
        "spec.scaling.minReplicas)."
    )
    return Problem(Reason.REPLICAS_CONTESTED, text)


def _waiting(facts: Facts) -> str:
    """What becomes of the Step's triggers meanwhile."""
    if facts.spec is None:
        return ""
    events = ", events wait" if facts.spec.events else ""
    requests = ", requests are not answered" if facts.spec.apis else ""
    return events + requests


def _cron(suspended: bool) -> Verdict:
    if suspended:
        return _yes(Reason.SUSPENDED, "spec.suspend is true: no tick starts a run.")
    return _yes(Reason.SCHEDULED, "The CronJob starts a run at the next tick.")


def _not_applied(facts: Facts) -> Problem | None:
    """Why the children are not what the Step asks for."""
    if facts.refused is not None:
        return facts.refused
    if facts.taken:
        taken = ", ".join(facts.taken)
        return Problem(
            Reason.NAME_TAKEN,
            f"{taken} exists and was not made for this Step: expected an object that the Step controls; "
            "rename the Step, or delete the object.",
        )
    if facts.due and not facts.ahead:
        waiting = ", ".join(f"{item['kind']} {item['metadata']['name']}" for item in facts.due)
        no_broker = facts.subscription.problem if facts.subscription else None
        return no_broker or Problem(Reason.ROLLING_OUT, f"To apply: {waiting}.")
    return None


def _progressing(facts: Facts, workload: Verdict) -> Verdict:
    if workload.is_true and facts.ahead:
        text = f"New pods follow, after those of {', '.join(map(str, facts.ahead))}."
        return Verdict(ConditionStatus.FALSE, Reason.ROLLOUT_QUEUED, text)
    if workload.is_true and not facts.withheld:
        return Verdict(ConditionStatus.FALSE, Reason.RECONCILED)
    rollout = facts.rollout
    blocked = _not_applied(facts)
    if blocked is not None and blocked.reason is not Reason.ROLLING_OUT:
        return _no(blocked)
    if facts.withheld:
        waiting = ", ".join(f"{item['kind']} {item['metadata']['name']}" for item in facts.withheld)
        text = f"Left as it was until NATS serves the Step again: {waiting}."
        return Verdict(ConditionStatus.FALSE, Reason.ROLLOUT_QUEUED, text)
    if _is_stuck(rollout, workload):
        return Verdict(ConditionStatus.FALSE, workload.reason, workload.message)
    return Verdict(ConditionStatus.TRUE, Reason.ROLLING_OUT, _counts(rollout) if rollout else workload.message)


def _is_stuck(rollout: Rollout | None, workload: Verdict) -> bool:
    """Whether Kubernetes has given up, or would wait for ever: it has no deadline after a rollout's end."""
    if rollout is None:
        return False
    if workload.reason is Reason.REPLICAS_CONTESTED:
        return True
    return rollout.is_overdue or (rollout.was_done and workload.reason in reasons.FALLEN)


def _stalled(facts: Facts, workload: Verdict, subscription: Verdict) -> Verdict | None:
    """What somebody has to act upon before the Step can be ready; None where it may come by itself."""
    # Without a broker, pods may crash for that alone.
    is_stuck = _not_applied(facts) is not None or (subscription.is_true and _is_stuck(facts.rollout, workload))
    for part, counts in ((subscription, True), (workload, is_stuck)):
        if counts and not part.is_true and part.reason not in reasons.BY_ITSELF:
            return _yes(part.reason, part.message)
    return None


def _unready(facts: Facts, rollout: Rollout) -> Problem:
    """The best explanation there is: the API server's, then the kubelet's, then the counts."""
    if rollout.failure:
        return Problem(_failure_reason(rollout.failure), rollout.failure)
    problems = [problem for pod in _newest_first(facts.pods or ()) for problem in _pod_problems(pod)]
    if problems:
        return min(problems, key=lambda problem: _WORST_FIRST.index(problem.reason))
    if rollout.is_overdue:
        return Problem(Reason.WORKLOAD_UNAVAILABLE, str(rollout.conditions["Progressing"].get("message", "")))
    return Problem(Reason.ROLLING_OUT, f"{_counts(rollout)}{_creating(facts.pods or ())}")


def _creating(pods: Iterable[Object]) -> str:
    """A pod whose containers are not made yet: for a second, or for ever when something that it mounts is missing."""
    for pod in _newest_first(pods):
        containers = (*_of(pod, "initContainerStatuses"), *_of(pod, "containerStatuses"))
        causes = [container.get("state", {}).get("waiting", {}).get("reason") for container in containers]
        if causes and all(cause in _NOT_MADE for cause in causes):
            name = pod["metadata"]["name"]
            return f" Pod {name} waits for its containers to be made; `kubectl describe pod {name}` says why."
    return ""


def _of(pod: Object, field: str) -> Iterable[Object]:
    found: Iterable[Object] = pod.get("status", {}).get(field, ())
    return found


_NOT_MADE = ("ContainerCreating", "PodInitializing")


def _counts(rollout: Rollout) -> str:
    if not rollout.observed:
        return "Kubernetes has not yet seen the new pod template."
    old = rollout.total - rollout.updated
    rest = f"; {_pods(old)} of an older generation to end" if old > 0 else ""
    return f"{rollout.updated} of {rollout.wanted} pods are up to date, {rollout.available} available{rest}."


_FAILURES = (
    (re.compile(r"exceeded quota|failed quota|LimitRange|must be less than or equal to \w+ limit"
                r"|(?:maximum|minimum) \w+ usage per|limit to request ratio"),
     Reason.QUOTA_EXCEEDED),
    (re.compile(r"violates PodSecurity"), Reason.POD_SECURITY_REFUSED),
)  # fmt: skip


def _failure_reason(message: str) -> Reason:
    return next((reason for pattern, reason in _FAILURES if pattern.search(message)), Reason.WORKLOAD_UNAVAILABLE)


def refusal_reason(message: str) -> Reason:
    """The reason of a condition for the API server's refusal of one of a Step's objects."""
    return next((reason for pattern, reason in _FAILURES if pattern.search(message)), Reason.APPLY_REFUSED)


_WORST_FIRST = (
    Reason.IMAGE_PULL_FAILED,
    Reason.CRASH_LOOP,
    Reason.UNSCHEDULABLE,
    Reason.WORKLOAD_UNAVAILABLE,
)

_WAITING = {
    "ErrImagePull": Reason.IMAGE_PULL_FAILED,
    "ImagePullBackOff": Reason.IMAGE_PULL_FAILED,
    "ErrImageNeverPull": Reason.IMAGE_PULL_FAILED,
    "InvalidImageName": Reason.IMAGE_PULL_FAILED,
    "CrashLoopBackOff": Reason.CRASH_LOOP,
    "CreateContainerConfigError": Reason.WORKLOAD_UNAVAILABLE,
    "CreateContainerError": Reason.WORKLOAD_UNAVAILABLE,
    "RunContainerError": Reason.WORKLOAD_UNAVAILABLE,
}


def _newest_first(pods: Any) -> list[Object]:
    """Pods that are not on their way out."""
    staying = [pod for pod in pods if not pod["metadata"].get("deletionTimestamp")]
    return sorted(staying, key=lambda pod: str(pod["metadata"].get("creationTimestamp", "")), reverse=True)


def _pod_problems(pod: Object) -> Iterator[Problem]:
    found = pod.get("status", {})
    for condition in found.get("conditions", ()):
        if condition["type"] == "PodScheduled" and condition.get("reason") == "Unschedulable":
            yield Problem(Reason.UNSCHEDULABLE, str(condition.get("message", "")))
    if _is_out_of_reach(pod):
        yield Problem(
            Reason.WORKLOAD_UNAVAILABLE,
            f"node {pod['spec'].get('nodeName')} does not answer for pod {pod['metadata']['name']}; unless it comes "
            "back, another pod takes its place.",
        )
    for container in (*_of(pod, "initContainerStatuses"), *_of(pod, "containerStatuses")):
        waiting = container.get("state", {}).get("waiting", {})
        reason = _WAITING.get(waiting.get("reason", ""))
        if reason is not None:
            yield Problem(reason, _container_message(pod, container, waiting))
        elif _runs_unready(container):
            where = f"container {container['name']} of pod {pod['metadata']['name']}"
            yield Problem(
                Reason.WORKLOAD_UNAVAILABLE, f"{where} runs but is not ready; see its log.{_ended(container)}"
            )


def _is_out_of_reach(pod: Object) -> bool:
    """Whether the pod is not ready though its containers are: so Kubernetes marks the pods of a node that is silent."""
    ready = [condition["status"] for condition in _of(pod, "conditions") if condition["type"] == "Ready"]
    containers = [bool(container.get("ready")) for container in _of(pod, "containerStatuses")]
    return ready == ["False"] and containers != [] and all(containers)


def _runs_unready(container: Object) -> bool:
    return "running" in container.get("state", {}) and not container.get("ready")


def _container_message(pod: Object, container: Object, waiting: Object) -> str:
    text = waiting.get("message") or waiting["reason"]
    return f"container {container['name']} of pod {pod['metadata']['name']}: {text}.{_ended(container)}"


def _ended(container: Object) -> str:
    """How the container ended the last time; what it wrote to its termination log, if anything."""
    last = container.get("lastState", {}).get("terminated")
    if not last:
        return ""
    words = f" {last['message'].strip()}" if last.get("message") else ""
    return f" It ended before with exit code {last.get('exitCode')} ({last.get('reason', 'unknown')}).{words}"


def _pods(count: int) -> str:
    return "1 pod" if count == 1 else f"{count} pods"


def _yes(reason: Reason, message: str) -> Verdict:
    return Verdict(ConditionStatus.TRUE, reason, message)


def _no(problem: Problem) -> Verdict:
    return Verdict(ConditionStatus.FALSE, problem.reason, problem.message)
