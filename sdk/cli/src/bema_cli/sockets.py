"""The sockets that `bema dev` listens on. They outlive the workers that inherit them: while one worker follows
another, requests wait in the backlog."""

from __future__ import annotations

import errno
import socket

from bema.contract import errors
from bema.contract.bindings import Listen

DEFAULT_PORT = 3000
_TRIES = 100


class PortTaken(errors.BemaError):
    """Somebody else listens there."""


class CannotListen(errors.BemaError):
    """Not an address of this machine, or one that this user may not use."""


def listen(host: str, port: int) -> socket.socket:
    """Listen on a port; 0 for one that the system chooses. Raises `PortTaken` or `CannotListen`."""
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except (OSError, UnicodeError) as error:
        raise CannotListen(
            f"--host: expected a name or an address of this machine, found {host!r} ({error})"
        ) from error
    family, _, _, _, address = found[0]
    opened = socket.socket(family, socket.SOCK_STREAM)
    try:
        opened.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        opened.bind(address)
        opened.listen(2048)
    except OSError as error:
        opened.close()
        if error.errno == errno.EADDRINUSE:
            raise PortTaken(f"expected port {port} to be free on {host}, found it taken; use another --port") from error
        raise CannotListen(f"expected to listen on {host} port {port}, found: {error.strerror}") from error
    return opened


def listen_from(host: str, port: int) -> socket.socket:
    """Listen on the first free port from `port` on."""
    for candidate in range(port, port + _TRIES - 1):
        try:
            return listen(host, candidate)
        except PortTaken:
            continue
    return listen(host, port + _TRIES - 1)


def port_of(opened: socket.socket) -> int:
    return int(opened.getsockname()[1])


def bound(opened: socket.socket) -> Listen:
    """The socket, for a Binding."""
    host, port = opened.getsockname()[:2]
    return Listen(host=str(host), port=int(port), fd=opened.fileno())


def url(host: str, port: int) -> str:
    """A URL that works on this machine."""
    shown = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}.get(host, f"[{host}]" if ":" in host else host)
    return f"http://{shown}:{port}"
