"""`python -m bema_runtime.workers --socket FD`: a worker process that executes handlers for a runtime, as
`bema.contract.wires` says. What it is to load comes in the first message; it ends with its socket.

The socket is read on the handlers' own loop: a hop to another thread would cost each run more than it could save, as a
handler that blocks this loop keeps its results back as well.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import ctypes
import logging
import os
import select
import signal
import socket
import sys
from collections.abc import Sequence
from typing import Any

from bema.contract import bindings, errors, wires
from bema.contract.frames import Call, Cancel, Chunk, End, Failure, Invoke, Outcome, Reply
from bema.contract.wires import Hello, Refusal, ToRuntime, Welcome
from bema_runtime import lines, logs, memories
from bema_runtime.invokers import PythonInvoker
from bema_runtime.lines import Line

log = logging.getLogger(__name__)

_PR_SET_PDEATHSIG = 1


class Host:
    """`frames.Peer` over the socket. All but `serve` belongs to the handlers' loop."""

    def __init__(self, invoker: PythonInvoker) -> None:
        self._invoker = invoker
        self._line = Line(self._read, lambda: None)
        self._asked: dict[int, asyncio.Future[Reply]] = {}

    async def serve(self, sock: socket.socket) -> None:
        """Take over the socket, and say that the handlers are loaded."""
        await asyncio.get_running_loop().create_unix_connection(lambda: self._line, sock=sock)
        self._send(Welcome(wires.VERSION, "python"))

    async def call(self, call: Call) -> Reply:
        answer: asyncio.Future[Reply] = asyncio.get_running_loop().create_future()
        self._asked[call.id] = answer
        try:
            self._send(call)
            return await answer
        finally:
            del self._asked[call.id]

    def ended(self, ends: Sequence[End]) -> None:
        for end in ends:
            try:
                self._send(end)
            except Exception as error:  # noqa: BLE001 - whatever a handler has put into it: there has to be an end
                failure = Failure(type(error).__name__, str(error))
                self._send(End(end.invocation, Outcome.FAILED, failure=failure))

    def _send(self, frame: ToRuntime) -> None:
        self._line.send(wires.encode(frame))

    def _read(self, messages: list[Any]) -> None:
        invocations: list[Invoke] = []
        cancels: list[Cancel] = []
        for message in messages:
            match wires.decode_for_worker(message):
                case Invoke() as invoke:
                    invocations.append(invoke)
                case Reply() as reply:
                    # A handler that was cancelled waits no more
                    if (answer := self._asked.get(reply.id)) is not None and not answer.done():
                        answer.set_result(reply)
                case Cancel() as cancel:
                    cancels.append(cancel)
                case Hello() | Chunk() as other:
                    raise errors.WireInvalid(f"expected invoke, cancel or a response, found {type(other).__name__}")
        if invocations:
            self._invoker.invoke(invocations)
        # After a while without a look at the socket an execution and its cancel may come in one burst
        for cancel in cancels:
            self._invoker.cancel(cancel)


def main() -> int:
    """The exit code: 0 when the runtime is gone, 1 when the handlers cannot be loaded."""
    parser = argparse.ArgumentParser(prog="bema-worker", description="Executes handlers for a runtime.")
    parser.add_argument("--socket", required=True, type=int, metavar="FD", help="the socket to the runtime")
    number: int = parser.parse_args().socket
    # As in the runtime: a handler that computes must not keep the socket waiting for 5 ms each time
    sys.setswitchinterval(0.0005)
    _end_with_parent()
    # It ends with the runtime, which lets its runs end first. A function, because ignoring would be inherited by the
    # processes that handlers start
    for stop in (signal.SIGTERM, signal.SIGINT):
        signal.signal(stop, lambda *_: None)
    # What a handler prints must not be lost when it takes the process with it
    sys.stdout.reconfigure(line_buffering=True)  # type: ignore[union-attr]
    logs.configure()
    with socket.socket(fileno=number) as sock:
        sock.set_inheritable(False)
        try:
            _serve(sock)
        except errors.Invalid as error:
            sock.sendall(lines.dumps(wires.encode(Refusal(str(error)))))
            return 1
        _until_hung_up(sock.fileno())
    return 0


def _serve(sock: socket.socket) -> None:
    """Load what the first message names, and execute it from now on."""
    hello = wires.decode_for_worker(lines.loads(_first_line(sock)))
    if not isinstance(hello, Hello):
        raise errors.WireInvalid(f"expected hello, found {type(hello).__name__}")
    if hello.version != wires.VERSION:
        raise errors.WireInvalid(
            f"this worker speaks version {wires.VERSION} of the runtime's protocol, found {hello.version}; "
            "use a worker and a runtime of the same release"
        )
    invoker = PythonInvoker([bindings.read(lines.dumps(dict(one)), where="hello") for one in hello.bindings])
    host = Host(invoker)
    asyncio.run(invoker.start(host))
    memories.settle()
    asyncio.run_coroutine_threadsafe(host.serve(sock.dup()), invoker.loop).result()


def _first_line(sock: socket.socket) -> bytes:
    """The runtime says nothing after it until it is answered."""
    parts = []
    while part := sock.recv(65536):
        parts.append(part)
        if part.endswith(b"\n"):
            break
    return b"".join(parts)


def _until_hung_up(number: int) -> None:
    """Until the runtime's end of the socket is closed. On a thread of its own, so that it is seen also while a handler
    blocks the loop."""
    poll = select.poll()
    poll.register(number, 0)
    poll.poll()


def _end_with_parent() -> None:
    """On Linux the kernel ends this process with its parent, also one that executes C code and sees no hang-up."""
    if sys.platform == "linux":
        with contextlib.suppress(OSError, AttributeError):
            ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


if __name__ == "__main__":
    code = main()
    sys.stdout.flush()
    # A plain handler that still runs in its thread would keep the interpreter from leaving
    os._exit(code)
