"""From facts to an App's status. Pure: the time is a parameter."""

from __future__ import annotations

from dataclasses import dataclass

from bema.contract import quantities
from bema.contract.retentions import Quota
from bema.contract.statuses import AppStatus, ConditionStatus, ConditionType, Reason
from bema_operator import statuses
from bema_operator.facts import Problem, Subject
from bema_operator.plans import AppPlan
from bema_operator.statuses import Verdict


@dataclass(frozen=True, slots=True)
class AppFacts:
    """Everything that an App's status depends on."""

    subject: Subject
    plan: AppPlan
    steps: int
    """How many Steps the namespace has."""
    quota: Quota | None = None
    """What is used is as of the last sweep that changed what is shown; None before the first, and without a stream."""
    shortfall: str = ""
    """Why the app's stream has fewer copies than asked for."""


def status(facts: AppFacts, now: str) -> AppStatus:
    """The whole status of an App. `now` is RFC 3339; a condition keeps its time while its status stays."""
    problem = _problem(facts)
    verdicts = {ConditionType.READY: _ready(problem)}
    if problem is not None:
        verdicts[ConditionType.STALLED] = Verdict(ConditionStatus.TRUE, problem.reason, problem.message)
    return AppStatus(
        observed_generation=facts.subject.generation,
        conditions=[statuses.condition(facts.subject, type_, verdict, now) for type_, verdict in verdicts.items()],
        steps=facts.steps,
        storage=_storage(facts.quota) if facts.quota else None,
    )


def _ready(problem: Problem | None) -> Verdict:
    if problem is None:
        return Verdict(ConditionStatus.TRUE, Reason.RECONCILED, "What it says counts for all Steps of the namespace.")
    return Verdict(ConditionStatus.FALSE, problem.reason, problem.message)


def _problem(facts: AppFacts) -> Problem | None:
    plan = facts.plan
    if plan.spec is None:
        kept = "The Steps stay as they are, and nothing is removed from the app's stream."
        return Problem(Reason.INVALID_SPEC, f"{plan.invalid}. {kept}")
    if plan.unsupported:
        return Problem(Reason.NOT_SUPPORTED, f"{plan.problem}. The Steps stay as they are; leave the field out.")
    if facts.shortfall:
        return Problem(Reason.TOO_FEW_SERVERS, f"{facts.shortfall}. All else that it says counts.")
    return None


def _storage(quota: Quota) -> str:
    used, storage = quantities.show(quota.used), quantities.show(quota.storage)
    return f"{used} of {storage} ({quota.share:.0%})"


def differs_visibly(one: Quota, other: Quota) -> bool:
    """Whether the difference is worth a write: a percent, or another limit."""
    return (one.storage, round(one.share, 2)) != (other.storage, round(other.share, 2))
