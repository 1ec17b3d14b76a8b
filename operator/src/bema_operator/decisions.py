"""What to do next about a Step: an ordered table of named predicates over its facts. Pure.

A reconcile asks, acts, adds what it learned to the facts, and asks again, until the answer is to leave or to report.
There is no default row: facts that none describes are a defect, and raise.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from bema.contract.statuses import Reason
from bema_operator import reasons
from bema_operator.facts import Facts


@dataclass(frozen=True, slots=True)
class Leave:
    """Do nothing, not even to the status."""


@dataclass(frozen=True, slots=True)
class Subscribe:
    """Ask the broker for the Step's stream and consumer."""


@dataclass(frozen=True, slots=True)
class Apply:
    """Write the children that differ."""


@dataclass(frozen=True, slots=True)
class Prune:
    """Delete the children that the Step does not ask for any more."""


@dataclass(frozen=True, slots=True)
class LookAtPods:
    """Find out from the pods why the workload is not ready."""


@dataclass(frozen=True, slots=True)
class Report:
    """Write the status. The end of a reconcile."""


Action = Leave | Subscribe | Apply | Prune | LookAtPods | Report


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the table."""

    name: str
    applies: Callable[[Facts], bool]
    action: Action


class Undecided(Exception):
    """No row describes these facts: the table has a hole."""


def is_being_deleted(facts: Facts) -> bool:
    """Its children go with it, by their owner references; re-creating them would fight the garbage collector."""
    return facts.subject.deleting


def is_invalid(facts: Facts) -> bool:
    return facts.spec is None


def is_unsupported(facts: Facts) -> bool:
    """No workload is made; one that exists is left as it is."""
    return bool(facts.unsupported)


def is_held_by_its_app(facts: Facts) -> bool:
    """As what is not supported: what exists is left as it is."""
    return bool(facts.held)


def is_noop_with_leftovers(facts: Facts) -> bool:
    return facts.is_noop and bool(facts.surplus)


def is_noop(facts: Facts) -> bool:
    return facts.is_noop


def is_not_subscribed(facts: Facts) -> bool:
    """Before the workload: a pod of an app whose stream is somebody else's must never start."""
    return facts.subscription is None


def has_foreign_stream(facts: Facts) -> bool:
    return _subscription_reason(facts) is Reason.APP_STREAM_OWNED


def is_held_back(facts: Facts) -> bool:
    """Its workload stays what it is: only the version before, or another Step, can do what waits."""
    return _subscription_reason(facts) in reasons.HELD_BACK


def has_no_broker_and_no_workload(facts: Facts) -> bool:
    """Nobody has said yet that the stream is ours, and nothing runs that could be kept running."""
    return _subscription_reason(facts) in reasons.NO_BROKER and not facts.has_workload


def is_refused(facts: Facts) -> bool:
    """Trying again at once cannot help."""
    return facts.refused is not None


def has_name_taken(facts: Facts) -> bool:
    return bool(facts.taken)


def waits_for_its_turn(facts: Facts) -> bool:
    """All but its Deployment was applied."""
    return bool(facts.ahead)


def has_differing_children(facts: Facts) -> bool:
    return bool(facts.due)


def waits_for_its_broker(facts: Facts) -> bool:
    """What runs is left running: nobody has asked for what differs, and nobody knows whether new pods would find NATS.
    Nothing is pruned either, which what runs may need."""
    return bool(facts.withheld)


def has_surplus_children(facts: Facts) -> bool:
    """After applying: the old workload goes when the new one is in place."""
    return bool(facts.surplus)


def is_unready_for_unknown_reasons(facts: Facts) -> bool:
    rollout = facts.rollout
    return rollout is not None and not rollout.is_done and facts.patience_over and facts.pods is None


def is_in_step(facts: Facts) -> bool:
    return not facts.differing and not facts.surplus


TABLE = (
    Row("it is being deleted", is_being_deleted, Leave()),
    Row("its spec cannot be read", is_invalid, Report()),
    Row("it asks for what this version does not do", is_unsupported, Report()),
    Row("its App is not acted on", is_held_by_its_app, Report()),
    Row("it is a noop that had a workload", is_noop_with_leftovers, Prune()),
    Row("it is a noop", is_noop, Report()),
    Row("its subscription is unknown", is_not_subscribed, Subscribe()),
    Row("its stream belongs to somebody else", has_foreign_stream, Report()),
    Row("another version or another Step has to do what waits", is_held_back, Report()),
    Row("there is neither a broker nor a workload", has_no_broker_and_no_workload, Report()),
    Row("the API server refuses an object", is_refused, Report()),
    Row("a name is taken", has_name_taken, Report()),
    Row("others are rolled out first", waits_for_its_turn, Report()),
    Row("children differ", has_differing_children, Apply()),
    Row("what nobody asked for waits for the broker", waits_for_its_broker, Report()),
    Row("there are children too many", has_surplus_children, Prune()),
    Row("it is not ready and nobody knows why", is_unready_for_unknown_reasons, LookAtPods()),
    Row("everything is in place", is_in_step, Report()),
)


def decide(facts: Facts) -> Action:
    """The first row that applies. Raises `Undecided` when none does."""
    for row in TABLE:
        if row.applies(facts):
            return row.action
    raise Undecided(f"no decision for {facts.subject.key}: {facts}")


def _subscription_reason(facts: Facts) -> Reason | None:
    problem = facts.subscription.problem if facts.subscription else None
    return problem.reason if problem else None
