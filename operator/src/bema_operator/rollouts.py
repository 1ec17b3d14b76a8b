"""Rollouts that nobody asked for: after an upgrade of the operator, or of what counts for many Steps at once, the pods
of all of them are made anew, a few Steps at a time. What a person changes in a Step waits for nobody. No I/O."""

from __future__ import annotations

from collections.abc import Sequence

from bema_operator import kinds, ownership, reasons
from bema_operator.facts import Facts, Key, pods_of, rollout_of
from bema_operator.objects import Object

LIMIT = 10


class Turns:
    """The Steps that are rolled out now. One whose rollout does not end keeps its turn: after as many as there are
    turns, nothing else is broken in the same way."""

    def __init__(self, limit: int = LIMIT) -> None:
        self._limit = limit
        self._rolling: dict[Key, None] = {}

    def take(self, key: Key) -> bool:
        """Whether it is this Step's turn, or was already."""
        if key not in self._rolling and len(self._rolling) >= self._limit:
            return False
        self._rolling[key] = None
        return True

    def done(self, key: Key) -> None:
        self._rolling.pop(key, None)

    @property
    def holders(self) -> Sequence[Key]:
        """Oldest first."""
        return list(self._rolling)


def is_unasked(seen: Facts, manifest: Object) -> bool:
    """Whether to apply a manifest would replace the pods of a Step that has something to lose, although nobody has
    changed the Step, nor its Deployment. Pods that are not ready now may only wait for their broker; a rollout that has
    not ended, and pods that have fallen, have nothing to lose."""
    live = seen.live(manifest)
    if live is None or manifest["kind"] != kinds.DEPLOYMENT.name or not pods_of(manifest, live):
        return False
    if ownership.was_applied(manifest, live) or seen.subject.is_changed:
        return False
    rollout = rollout_of(live, live)
    has_ended = rollout.is_done or rollout.was_done
    return has_ended and seen.subject.workload_reason not in reasons.UNFOLLOWED | reasons.FALLEN
