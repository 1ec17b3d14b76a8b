"""Kubernetes Events about Steps and Apps: only what somebody has to act upon, once when it begins.

Everything else is in the status. What ails all Steps at once, such as a broker that is away, is in the operator's log
and metrics: an Event for each of them would bury the others.
"""

from __future__ import annotations

import logging
from collections.abc import Callable

from bema.contract import names
from bema.contract.statuses import Condition, ConditionStatus, ConditionType, Reason
from bema_operator import kinds, kube, reasons, statuses
from bema_operator.facts import Subject
from bema_operator.objects import Object

log = logging.getLogger(__name__)

AGAIN = 600.0
"""Seconds before the same is said of a Step once more: what comes and goes, as a crash loop does, is one thing."""
MESSAGE_LIMIT = 1024
"""Characters; the API server's limit for an Event."""


class Events:
    """Tells each beginning once."""

    def __init__(self, api: kube.Kube, *, clock: Callable[[], float], time: Callable[[], str]) -> None:
        self._api = api
        self._clock = clock
        self._time = time
        self._told: dict[tuple[str, Reason], float] = {}

    async def tell(self, subject: Subject, ready: Condition) -> None:
        """Say what keeps a Step from being ready, if it is new and for a person."""
        if ready.status is ConditionStatus.TRUE or ready.reason not in reasons.TO_ACT_UPON or was_so(subject, ready):
            return
        await self.warn(subject, ready.reason, ready.message)

    async def warn(self, subject: Subject, reason: Reason, message: str) -> None:
        """Best effort: the status says it too."""
        now = self._clock()
        self._told = {place: when for place, when in self._told.items() if now - when < AGAIN}
        if (subject.uid, reason) in self._told:
            return
        self._told[subject.uid, reason] = now
        try:
            await self._api.create(kinds.EVENT, warning(subject, reason, message, now=self._time()))
        except kube.KubeError as error:
            log.debug("An Event could not be written: %s", error)


def was_so(subject: Subject, ready: Condition) -> bool:
    """Whether the status before had the same reason."""
    conditions = subject.status.get("conditions", ())
    return any(item.get("type") == ConditionType.READY and item.get("reason") == ready.reason for item in conditions)


def warning(subject: Subject, reason: Reason, message: str, *, now: str) -> Object:
    """A core Event about a Step, or an App. `now` is RFC 3339."""
    key = subject.key
    return {
        "apiVersion": kinds.EVENT.api_version,
        "kind": kinds.EVENT.name,
        "metadata": {"generateName": f"{key.name}.", "namespace": key.namespace},
        "involvedObject": {
            "apiVersion": subject.kind.api_version,
            "kind": subject.kind.name,
            "namespace": key.namespace,
            "name": key.name,
            "uid": subject.uid,
        },
        "type": "Warning",
        "reason": reason,
        "message": statuses.shortened(message, MESSAGE_LIMIT),
        "source": {"component": names.FIELD_MANAGER},
        "reportingComponent": names.FIELD_MANAGER,
        "firstTimestamp": now,
        "lastTimestamp": now,
        "count": 1,
    }
