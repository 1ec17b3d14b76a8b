"""Ports for servers of tests and benchmarks."""

from __future__ import annotations

import contextlib
import fcntl
import itertools
import os
import random
import socket
import tempfile
from collections.abc import Iterator
from functools import cache
from pathlib import Path

FIRST, BLOCKS, BLOCK = 15_000, 140, 100
"""Below those of Kubernetes' Services (30000 and up) and those that the kernel gives to outgoing connections (32768 and
up): one of them could be taken before it is listened on."""


def free() -> int:
    """A TCP port on loopback that nobody uses now. No other process that asks here is given it, and this one not again
    before it was given 99 others: what is to listen there may take its time."""
    ports = _own()
    for port in itertools.islice(ports, BLOCK):
        with contextlib.suppress(OSError), socket.socket() as probe:
            probe.bind(("127.0.0.1", port))
            return port
    raise AssertionError(f"expected a free one among {BLOCK} TCP ports of this process, found none")


@cache
def _own() -> Iterator[int]:
    """The ports of a block that is this process's alone, round and round. Its lock is held until the process ends."""
    folder = Path(tempfile.gettempdir()) / f"bema-ports-{os.getuid()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    for block in random.sample(range(BLOCKS), BLOCKS):
        lock = os.open(folder / str(block), os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(lock)
        else:
            return itertools.cycle(range(FIRST + block * BLOCK, FIRST + (block + 1) * BLOCK))
    raise AssertionError(f"expected a block of ports that no other process holds in {folder}, found {BLOCKS} held")
