"""Writes the status of a Step or an App, where it says something else than the one before, and tells of what it begins
to say.

A CRD that is older than the operator gets what it knows: without the fields that it does not declare, and with a word
about them.
"""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Callable
from typing import Any

from bema.contract.statuses import AppStatus, StepStatus
from bema_operator import caches, events, kube, plans, schemas
from bema_operator.facts import Subject
from bema_operator.objects import Object

log = logging.getLogger(__name__)

AGAIN = 60.0
"""Seconds before fields are tried again that the CRD did not know: somebody may have applied it meanwhile."""


class Writer:
    """Writes the statuses of one kind."""

    def __init__(self, api: kube.Kube, cache: caches.Cache, told: events.Events, *, clock: Callable[[], float]) -> None:
        """`told`: where what somebody has to act upon is told, too."""
        self._api = api
        self._cache = cache
        self._events = told
        self._clock = clock
        self._undeclared: frozenset[str] = frozenset()
        """Fields that the CRD does not know, which is older than we are."""
        self._undeclared_since = 0.0
        self._undeclared_told: frozenset[str] = frozenset()

    @property
    def leaves_out(self) -> bool:
        """Whether what is written lacks something, and is to be written again after `AGAIN`."""
        return bool(self._undeclared)

    async def write(self, subject: Subject, status: StepStatus | AppStatus) -> None:
        """Write a status, if it differs. Of an object that was deleted, or made again, meanwhile, nothing: its own
        event brings it back. Raises `KubeError`."""
        if self._clock() - self._undeclared_since >= AGAIN:
            self._undeclared = frozenset()
        wanted = status.dump()
        if schemas.without(wanted, self._undeclared) == subject.status:
            return
        try:
            written = await self._apply(subject, wanted)
        except (kube.Gone, kube.Conflict):
            return
        if _is_the_same(plans.subject(written, subject.kind), subject):
            self._cache.put(subject.kind, written)
        ready = status.conditions[0]
        log.debug("Ready=%s (%s)", ready.status, ready.reason, extra=subject.key.bound)
        await self._events.tell(subject, ready)

    async def _apply(self, subject: Subject, status: Object) -> Any:
        """Without what the CRD that is installed does not know."""
        key = subject.key
        while True:
            asked = schemas.without(status, self._undeclared)
            try:
                return await self._api.apply_status(subject.kind, key.namespace, key.name, subject.uid, asked)
            except kube.Refused as error:
                new = schemas.undeclared(str(error)) - self._undeclared
                if not new:
                    raise
                self._learn(new)

    def _learn(self, new: frozenset[str]) -> None:
        """Said once for each field, however often it is tried."""
        self._undeclared |= new
        self._undeclared_since = self._clock()
        if not new <= self._undeclared_told:
            self._undeclared_told |= new
            log.error(schemas.advice(new))


def _is_the_same(written: Subject, known: Subject) -> bool:
    """Whether nothing but its status has changed. Otherwise what a watch is about to tell of it has to be news."""
    return dataclasses.replace(written, status=known.status) == known
