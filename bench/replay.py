"""`python -m bench.replay URL FILE`: send the batches in FILE, one after the other; prints seconds and CPU seconds."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

import uvloop

from bema.ports import connections
from bema.ports.jetstream import JetStream, Outgoing


async def main(url: str, file: Path) -> None:
    batches = [
        [Outgoing(subject, data.encode(), headers, expected) for subject, data, headers, expected in batch]
        for batch in json.loads(file.read_text())
    ]
    js = JetStream(await connections.connect([url], name="replay"))
    await js.api("STREAM.INFO.REPLAY")
    began, cpu = time.perf_counter(), time.process_time()
    for batch in batches:
        await js.publish_batch(batch, timeout=30)
    print(json.dumps({"seconds": time.perf_counter() - began, "cpu": time.process_time() - cpu}))


if __name__ == "__main__":
    uvloop.run(main(sys.argv[1], Path(sys.argv[2])))
