"""Each fact on each version of the server. A fact that is marked `since` must fail before: then what the docs say of a
version is exact in both directions.

`BEMA_FACTS` names other versions than those of `tools.servers`, with commas between them.

A server that cannot be had here is skipped, and said so; in CI it is a failure. The newest is always there.
"""

from __future__ import annotations

import os
import secrets
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from tests.support import brokers, facts
from tests.support.brokers import NatsServer
from tests.support.facts import Place
from tools import servers


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        mark, call = item.get_closest_marker("since"), getattr(item, "callspec", None)
        if mark is not None and call is not None and _numbers(call.params["program"]) < _numbers(mark.args[0]):
            item.add_marker(pytest.mark.xfail(reason=f"since {mark.args[0]}", strict=True))


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(map(int, version.split(".")))


VERSIONS = os.environ["BEMA_FACTS"].split(",") if os.environ.get("BEMA_FACTS") else servers.VERSIONS


@pytest.fixture(scope="session", params=VERSIONS)
def program(request: pytest.FixtureRequest) -> Path:
    """A nats-server of each version."""
    try:
        return servers.binary(request.param)
    except servers.Unavailable as error:
        if os.environ.get("CI", "").lower() == "true":
            raise
        pytest.skip(f"SKIPPED, facts are not checked: {error}")


@pytest.fixture(scope="session")
def shared(program: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[NatsServer]:
    """One server for all facts that need no restart."""
    with brokers.running(tmp_path_factory.mktemp("shared"), program=program) as server:
        yield server


@pytest.fixture
async def place(shared: NatsServer) -> AsyncIterator[Place]:
    """A stream of its own on the shared server."""
    async with facts.connected(shared.url, f"F{secrets.token_hex(4)}") as found:
        await found.make()
        yield found


@pytest.fixture
def own(program: Path, tmp_path: Path) -> Iterator[NatsServer]:
    """A server that a test may kill."""
    with brokers.running(tmp_path, program=program) as server:
        yield server
