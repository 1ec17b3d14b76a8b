"""The HTTP server of a runtime, with real connections: who is answered while it stops."""

from __future__ import annotations

import asyncio

import pytest

from bema.contract.bindings import Listen
from bema_runtime import servers
from tests.support import waits


async def test_a_connection_that_was_accepted_is_answered_though_the_server_stops(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(servers, "UNREAD_SECONDS", 1.0)
    listening = servers.listening_socket(Listen(host="127.0.0.1", port=0))
    place = listening.getsockname()
    serving = servers.Serving(servers.probes(list), listening)
    reader, writer = await asyncio.open_connection(*place)
    await waits.until(lambda: serving._server.server_state.connections, "the connection to be accepted")
    stopping = asyncio.create_task(serving.stop(5))
    await asyncio.sleep(0.4)
    with pytest.raises(ConnectionRefusedError):
        await asyncio.open_connection(*place)
    writer.write(b"GET /livez HTTP/1.1\r\nHost: x\r\n\r\n")
    assert await reader.readline() == b"HTTP/1.1 200 OK\r\n"
    await stopping
    writer.close()
