"""`python -m bench.replay URL STREAM FILE CONCURRENCY SECONDS`: send the batches in FILE in order, so many at a time,
for so long at most; prints how many were sent, seconds and CPU seconds."""

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import uvloop

from bema.ports import connections
from bema.ports.jetstream import JetStream, Outgoing


class Replay:
    """Batches on their way."""

    def __init__(self, js: JetStream, batches: Sequence[Sequence[Outgoing]], seconds: float) -> None:
        self.sent = 0
        self._js = js
        self._waiting: Iterator[Sequence[Outgoing]] = iter(batches)
        self._deadline = time.perf_counter() + seconds

    async def send(self) -> None:
        while time.perf_counter() < self._deadline and (batch := next(self._waiting, None)) is not None:
            await self._js.publish_batch(batch, timeout=30)
            self.sent += 1


async def main(url: str, stream: str, file: Path, concurrency: int, seconds: float) -> None:
    batches = [
        [Outgoing(subject, data.encode(), headers, expected) for subject, data, headers, expected in batch]
        for batch in json.loads(file.read_text())
    ]
    js = JetStream(await connections.connect([url], name="replay"))
    await js.api(f"STREAM.INFO.{stream}")
    began, cpu = time.perf_counter(), time.process_time()
    replay = Replay(js, batches, seconds)
    await asyncio.gather(*(replay.send() for _ in range(concurrency)))
    spent = {"seconds": time.perf_counter() - began, "cpu": time.process_time() - cpu}
    print(json.dumps({"batches": replay.sent, **spent}))


if __name__ == "__main__":
    uvloop.run(main(sys.argv[1], sys.argv[2], Path(sys.argv[3]), int(sys.argv[4]), float(sys.argv[5])))
