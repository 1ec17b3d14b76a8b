"""Real parts for integration tests: a nats-server and runtime processes, each on ports of its own."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import pytest

from tests.support import brokers, runtimes
from tests.support.proxies import Proxy


@pytest.fixture
def nats(tmp_path: Path) -> Iterator[brokers.NatsServer]:
    """A nats-server with JetStream, in a folder of its own."""
    with brokers.running(tmp_path / "nats") as server:
        yield server


@pytest.fixture
async def proxy(nats: brokers.NatsServer) -> AsyncIterator[Proxy]:
    """A way to the broker that can be cut."""
    proxy = Proxy(nats.port)
    await proxy.start()
    yield proxy
    await proxy.close()


@pytest.fixture
async def start_app(nats: brokers.NatsServer, tmp_path: Path) -> AsyncIterator[Callable[..., runtimes.App]]:
    """Make apps out of Step sources: `app = await start_app({"steps/a_step.py": "…"})`."""
    apps: list[runtimes.App] = []

    async def start(files: dict[str, str], **options: object) -> runtimes.App:
        app = runtimes.App(nats.url, tmp_path / f"app{len(apps)}", files)
        apps.append(app)
        await app.start(**options)
        return app

    try:
        yield start  # type: ignore[misc]
    finally:
        for app in apps:
            await app.close()
