"""The Lease that the acting operator holds. Of several, which is a mistake, one acts, and the others say who it is.

Who holds it renews it every `RENEW_PAUSE`; a holder that is silent for `DURATION` is taken for dead, by the clock of
whoever waits. Nothing is begun later than `PATIENCE` after the last renewal, so what was begun has time to end before
somebody else acts. An API server that is away costs the Lease nothing: nobody else can take it meanwhile either.
"""

from __future__ import annotations

import asyncio
import datetime
import logging
from collections.abc import Callable
from typing import Any

from bema.clusters import calls
from bema.contract import names
from bema_operator import kinds
from bema_operator.kube import Conflict, Gone, KubeError

log = logging.getLogger(__name__)

DURATION = 15.0
RENEW_PAUSE = 5.0
PATIENCE = 10.0
LOOK_PAUSE = 2.0
"""Between two looks of an operator that waits."""
TIMEOUT = 3.0
TRIES = 3
"""How often somebody else may be faster in one look."""


class NotHeld(KubeError):
    """The Lease is not ours, or was not renewed for too long: nothing may be begun."""


class Lease:
    """One operator's part in the Lease of its installation."""

    def __init__(
        self,
        client: calls.Client,
        namespace: str,
        identity: str,
        *,
        clock: Callable[[], float],
        time: Callable[[], datetime.datetime],
    ) -> None:
        """`clock` gives seconds for durations, `time` the time of day for people to read."""
        self._client = client
        self._namespace = namespace
        self._identity = identity
        self._clock = clock
        self._time = time
        self._renewed: float | None = None
        """When the last renewal that succeeded was begun."""
        self._ours: dict[str, Any] = {}
        """The Lease as we wrote it last."""
        self._seen: tuple[str, str] = ("", "")
        """Holder and version at the last look, while it is not ours."""
        self._seen_since = 0.0
        self._problem = ""

    @property
    def name(self) -> str:
        return f"Lease {self._namespace}/{names.LEASE}"

    def check(self) -> None:
        """Raise `NotHeld` unless something may be begun now."""
        if self._renewed is None or self._clock() - self._renewed >= PATIENCE:
            raise NotHeld(f"the {self.name} was not renewed for {PATIENCE:g} s")

    def problems(self) -> list[str]:
        """Why this operator does not act."""
        return [self._problem] if self._problem else []

    async def acquire(self) -> None:
        """Return once the Lease is ours, however long that takes."""
        while True:
            if await self._look():
                break
            await asyncio.sleep(LOOK_PAUSE)
        self._problem = ""
        log.info("Holds the %s as %s", self.name, self._identity)

    async def keep(self) -> None:
        """Renew the Lease for as long as it is ours; return when somebody else holds it."""
        while True:
            await asyncio.sleep(RENEW_PAUSE)
            try:
                if not await self._renew():
                    return
            except KubeError as error:
                log.warning("Could not renew the %s (%s)", self.name, error)

    async def release(self) -> None:
        """Let the next operator begin at once. Nothing may be at work any more."""
        if self._renewed is None:
            return
        self._renewed = None
        try:
            await self._write("PUT", {**self._ours, "spec": {**self._ours["spec"], "holderIdentity": ""}})
        except KubeError as error:
            log.warning("Could not release the %s (%s); the next operator waits %g s", self.name, error, DURATION)

    async def close(self) -> None:
        await self._client.close()

    async def _look(self) -> bool:
        try:
            if await self._take():
                return True
            text = f"the {self.name} is held by {self._seen[0]}, which acts; this operator, {self._identity}, waits"
        except KubeError as error:
            text = f"the {self.name} cannot be taken: {error}"
        if text != self._problem:
            log.warning("%s%s", text[0].upper(), text[1:])
        self._problem = text
        return False

    async def _take(self) -> bool:
        """Take the Lease if it is nobody's, ours, or that of somebody who is silent for too long."""
        for _ in range(TRIES):
            try:
                return await self._try_to_take()
            except Conflict:
                continue
        return False

    async def _try_to_take(self) -> bool:
        path = kinds.LEASE.path(self._namespace, names.LEASE)
        begun = self._clock()
        try:
            found = await self._client.call("GET", path)
        except Gone:
            await self._write("POST", {"metadata": {"name": names.LEASE}, "spec": self._spec()}, begun)
            return True
        if not self._is_free(found):
            return False
        await self._write("PUT", {**found, "spec": self._spec()}, begun)
        return True

    async def _renew(self) -> bool:
        begun = self._clock()
        try:
            await self._write("PUT", {**self._ours, "spec": self._spec()}, begun)
        except (Conflict, Gone):
            return await self._take()
        return True

    def _is_free(self, found: dict[str, Any]) -> bool:
        holder = found.get("spec", {}).get("holderIdentity") or ""
        if holder in ("", self._identity):
            return True
        seen = (holder, found["metadata"]["resourceVersion"])
        if seen != self._seen:
            self._seen, self._seen_since = seen, self._clock()
        return self._clock() - self._seen_since >= DURATION

    def _spec(self) -> dict[str, Any]:
        now = self._time().strftime("%Y-%m-%dT%H:%M:%S.%fZ")
        return {"holderIdentity": self._identity, "leaseDurationSeconds": int(DURATION), "renewTime": now}

    async def _write(self, method: str, lease: dict[str, Any], begun: float | None = None) -> None:
        name = names.LEASE if method == "PUT" else None
        body = {"apiVersion": kinds.LEASE.api_version, "kind": kinds.LEASE.name, **lease}
        written = await self._client.call(method, kinds.LEASE.path(self._namespace, name), body=body)
        if begun is not None:
            self._ours, self._renewed = written, begun
