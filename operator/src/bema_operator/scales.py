"""Whose the number of a Step's pods is: the Step's where it says one, else that of whoever scales its Deployment. No
I/O.

An autoscaler, or a person with `kubectl scale`, sets the number by the `scale` subresource and owns the field from then
on. What we apply leaves it out then, which changes nothing: a field that is another's stays. Left out while it is ours,
it would fall back to its default. Of 0 the API server notes no owner: that one is the Step's to say.

Where both say one, the Step's counts; but an autoscaler sets its own again within seconds. After a few times it has its
way for a while, and the status says so: otherwise pods would be made and killed for ever.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from bema.contract.steps import StepSpec
from bema_operator import facts, kinds, ownership
from bema_operator.facts import Facts, Key
from bema_operator.objects import Object

BURST = 3
"""How often in a row somebody else's number is overruled at once."""
FIRST_PAUSE, LONGEST_PAUSE = 60.0, 900.0
"""Seconds until it is overruled once more; twice as long each time."""
FORGOTTEN = 2 * LONGEST_PAUSE
"""Seconds of peace after which it begins anew."""


@dataclass(frozen=True, slots=True)
class _Contest:
    times: int
    last: float

    @property
    def pause(self) -> float:
        """Seconds from the last time to the next."""
        return 0.0 if self.times < BURST else min(FIRST_PAUSE * 2.0 ** (self.times - BURST), LONGEST_PAUSE)


class Contests:
    """How often each Step has overruled somebody else, by a clock in seconds."""

    def __init__(self) -> None:
        self._contests: dict[Key, _Contest] = {}

    def note(self, key: Key, now: float) -> None:
        """The number of somebody else was overruled."""
        before = self._contests.get(key)
        times = 0 if before is None or now - before.last > FORGOTTEN else before.times
        self._contests[key] = _Contest(times + 1, now)

    def wait(self, key: Key, now: float) -> float:
        """Seconds for which the other one has its way."""
        contest = self._contests.get(key)
        return 0.0 if contest is None else max(0.0, contest.last + contest.pause - now)

    def forget(self, key: Key) -> None:
        self._contests.pop(key, None)


def is_theirs(live: Object | None, spec: StepSpec) -> bool:
    """Whether the number of a Deployment's pods is somebody else's, and the Step does not mind."""
    if live is None or spec.says_pods or not ownership.scaler(live):
        return False
    return int(live["spec"]["replicas"]) >= spec.scaling.min_replicas


def is_overruled(manifest: Object, live: Object | None) -> bool:
    """Whether to apply a manifest would take the number of pods from somebody else."""
    is_ours = manifest["kind"] == kinds.DEPLOYMENT.name and "replicas" in manifest["spec"]
    return is_ours and live is not None and bool(ownership.scaler(live))


def settled(
    wanted: Sequence[Object], children: Sequence[Object], spec: StepSpec | None, *, yields: bool
) -> Sequence[Object]:
    """The stamped manifests, without a number of pods that is somebody else's, and with a PodDisruptionBudget only
    where there are several. `yields`: the other one has its way, whatever the Step says."""
    deployment = next((item for item in wanted if item["kind"] == kinds.DEPLOYMENT.name), None)
    if spec is None or deployment is None:
        return wanted
    live = next((child for child in children if facts.identity(child) == facts.identity(deployment)), None)
    left = deployment
    if is_theirs(live, spec) or (yields and is_overruled(deployment, live)):
        left = _without_replicas(deployment)
    several = facts.pods_of(left, live) > 1
    kept = (item for item in wanted if several or item["kind"] != kinds.DISRUPTION_BUDGET.name)
    return [left if item is deployment else item for item in kept]


def contested(seen: Facts) -> str:
    """Who has set another number of pods than the Step says, again and again, and has their way for now; else empty."""
    wanted = next((item for item in seen.wanted if item["kind"] == kinds.DEPLOYMENT.name), None)
    if seen.spec is None or wanted is None or "replicas" in wanted["spec"]:
        return ""
    live = seen.live(wanted)
    return "" if live is None or is_theirs(live, seen.spec) else ownership.scaler(live)


def _without_replicas(deployment: Object) -> Object:
    spec = {key: value for key, value in deployment["spec"].items() if key != "replicas"}
    return ownership.stamp({**deployment, "spec": spec})
