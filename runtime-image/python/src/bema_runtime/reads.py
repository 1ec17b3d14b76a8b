"""What handlers read of the state while they run: from the stream's leader, so that a run sees all that was committed
before its trigger. The revision of each key is remembered with the run, to be checked at commit."""

from __future__ import annotations

import asyncio
import time

from bema.contract import errors, names
from bema.ports.jetstream import JetStream
from bema_runtime.commits import DELETED
from bema_runtime.lanes import Lanes
from bema_runtime.runs import Run


class StateReader:
    """Reads for the runs of one app."""

    def __init__(self, js: JetStream, stream: str, lanes: Lanes) -> None:
        self._js = js
        self._stream = stream
        self._lanes = lanes

    async def get(self, run: Run, group: str, key: str) -> bytes | None:
        """The value as JSON, or None. Waits for a broker that is away, until the attempt's deadline."""
        subject = names.state(run.binding.root, group, key)
        if self._lanes.is_hot((group, key)):
            await self._lanes.enter((group, key), run)
        while True:
            try:
                stored = await self._js.get_last(self._stream, subject)
                break
            except errors.BrokerUnavailable:
                if time.time() > run.deadline:
                    raise
                await asyncio.sleep(0.1)
        revision = stored.sequence if stored else 0
        # Of two reads at once the handler may use either value: the older one is guarded
        run.reads[group, key] = min(revision, run.reads.get((group, key), revision))
        return stored.data if stored and DELETED not in stored.headers else None

    async def list(self, run: Run, group: str) -> list[tuple[str, bytes]]:
        """Every entry of a group as key and JSON. It may lag behind other runs' commits."""
        root = run.binding.root
        entries: dict[str, bytes] = {}
        async for stored in self._js.scan(self._stream, names.state_filter(root, group)):
            key = names.state_of(root, stored.subject)[1]
            if DELETED in stored.headers:
                entries.pop(key, None)
            else:
                entries[key] = stored.data
        return list(entries.items())
