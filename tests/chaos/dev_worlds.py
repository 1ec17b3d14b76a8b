"""A bank in `bema dev --persist`: one supervisor, one worker, one broker, and what happens when one of them is gone."""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import signal
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from pathlib import Path

from tests.chaos import banks, contents
from tests.chaos.contents import Contents, Reader
from tests.chaos.faults import Blow
from tests.chaos.places import PATIENCE, Place
from tests.support import devs, waits


class DevWorld(Place):
    """What a developer has on the table."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self._app = devs.write(folder / banks.APP, banks.FILES)
        self._urls: list[str] = []
        self._connected = contextlib.AsyncExitStack()
        self.worker = 0
        self.dev: devs.Dev | None = None

    @property
    def urls(self) -> list[str]:
        return self._urls

    async def start(self) -> None:
        """Start `bema dev`, the first time or after its end. Its broker is at another place then."""
        env = {banks.WITNESSES: str(self.witnesses.file)}
        self.dev = devs.Dev(self._app, "--persist", env=env)
        await self.ready()

    async def ready(self) -> None:
        assert self.dev is not None
        event = await asyncio.to_thread(self.dev.next, "ready")
        self.worker, self._urls = int(event["worker"]), [str(event["nats"])]
        # The connection before stays open until the end: whoever waits for an answer on it is not to be cancelled
        connection = await self._connected.enter_async_context(contents.client(self._urls))
        self.reader = Reader(connection, banks.APP)

    def broker(self) -> int | None:
        """The process of the broker; None between two."""
        assert self.dev is not None
        found = self.dev.processes().items()
        return next((pid for pid, command in found if "nats-server" in command.partition(" ")[0]), None)

    async def contents(self) -> Contents:
        entries = await self.reader.everything()
        return Contents(entries, await waits.until(self.reader.waiting, "what is on its way", timeout=PATIENCE))

    def explain(self) -> str:
        said = self.dev.lines[-60:] if self.dev is not None else []
        log = self._app / ".bema" / "nats.log"
        broker = log.read_text("utf-8", "replace").splitlines()[-40:] if log.exists() else []
        return "".join(said) + "\n".join(broker)

    async def close(self) -> None:
        await self._connected.aclose()
        if self.dev is not None:
            self.dev.clean_up()
        self.recorder.close()


async def kill_supervisor(world: DevWorld, chance: random.Random) -> Blow:
    """All of `bema dev` goes, and is started again."""
    assert world.dev is not None
    await world.busy()
    blow = Blow(time.monotonic())
    world.dev.signal(signal.SIGKILL)
    await asyncio.to_thread(world.dev.wait)
    world.dev.clean_up()
    await asyncio.sleep(chance.uniform(0, 1))
    await world.start()
    return blow


async def kill_worker(world: DevWorld, chance: random.Random) -> Blow | None:
    await world.busy()
    blow = _kill(world.worker)
    # If it had gone before: of the one in its place
    await world.ready()
    return blow


async def kill_broker(world: DevWorld, chance: random.Random) -> Blow | None:
    await world.busy()
    return _kill(world.broker())


def _kill(pid: int | None) -> Blow | None:
    """None when the process is gone already, and about to be replaced."""
    blow = Blow(time.monotonic())
    try:
        if pid is not None:
            os.kill(pid, signal.SIGKILL)
            return blow
    except ProcessLookupError:
        pass
    return None


OF_DEVS: Mapping[str, Callable[[DevWorld, random.Random], Awaitable[Blow | None]]] = {
    "`bema dev` killed": kill_supervisor,
    "its worker killed": kill_worker,
    "its broker killed": kill_broker,
}


@contextlib.asynccontextmanager
async def running(folder: Path) -> AsyncIterator[DevWorld]:
    world = DevWorld(folder)
    try:
        await world.start()
        yield world
    except BaseException as error:
        error.add_note(world.explain())
        raise
    finally:
        await world.close()
