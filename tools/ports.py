"""Ports for servers of tests and benchmarks."""

from __future__ import annotations

import contextlib
import random
import socket


def free() -> int:
    """A TCP port on loopback that nobody uses now, below those that the kernel gives to outgoing connections: one of
    them could be taken again before it is listened on."""
    for _ in range(1000):
        port = random.randrange(15_000, 32_000)
        with contextlib.suppress(OSError), socket.socket() as probe:
            probe.bind(("127.0.0.1", port))
            return port
    raise AssertionError("expected a free TCP port between 15000 and 32000, found none")
