"""The baseline's process: pulls and acknowledges, and does nothing else.

`python -m bench.raw URL STREAM DURABLE CAPACITY FILE`: writes to FILE, when a message says "dump", the latencies of all
messages that carried a time, in seconds, as JSON.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from pathlib import Path

import uvloop

from bema.ports import connections
from bema.ports.connections import Message, publish_command
from bema.ports.pulls import Pull


async def main(url: str, stream: str, durable: str, capacity: int, file: Path) -> None:
    connection = await connections.connect([url], name="raw")
    loop = asyncio.get_running_loop()
    latencies: list[float] = []
    writes: set[asyncio.Task[None]] = set()

    def take(burst: list[Message]) -> None:
        now = time.time()
        for message in burst:
            if message.data.startswith(b'{"t"'):
                latencies.append(now - json.loads(message.data)["t"])
            elif message.data == b'"dump"':
                file.write_text(json.dumps(latencies))
                latencies.clear()
        acks = b"".join([publish_command(message.reply, b"+ACK") for message in burst])
        task = loop.create_task(connection.write(acks))
        writes.add(task)
        task.add_done_callback(writes.discard)
        pull.done(len(burst))

    pull = Pull(connection, stream=stream, durable=durable, capacity=capacity, deliver=take)
    await pull.start()
    print("ready", flush=True)
    await asyncio.Event().wait()


if __name__ == "__main__":
    uvloop.run(main(sys.argv[1], sys.argv[2], sys.argv[3], int(sys.argv[4]), Path(sys.argv[5])))
