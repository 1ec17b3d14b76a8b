"""The payment provider: a small HTTP service outside the app, with a ledger of its own.

What it does to an order follows from the order's id alone, so that each run meets the same troubles: one order in ten
fails on the first try (a refusal, or a charge whose answer never arrives), a few take seconds, a few are declined for
good.
"""

from __future__ import annotations

import json
import threading
import time
import zlib
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from enum import Enum
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from tools.demo.histories import Charge

LATENCY = 0.02
"""Seconds that a charge takes, about what a provider nearby needs."""
SLOW = 3.0
"""Seconds that a slow one takes: more than a pod gets that is deleted by force."""


class Fate(Enum):
    """What happens to an order's payment."""

    CHARGED = "charged"
    BUSY_FIRST = "refused with 503 on the first try"
    SILENT_FIRST = "charged on the first try, but the answer is lost"
    SLOW = "charged, after a long time"
    DECLINED = "declined for good"


def fate(order_id: str) -> Fate:
    """The same for an order every time."""
    number = zlib.crc32(order_id.encode())
    if number % 50 == 7:
        return Fate.DECLINED
    if number % 50 == 13:
        return Fate.SLOW
    if number % 10 == 0:
        return Fate.SILENT_FIRST if number // 10 % 3 == 0 else Fate.BUSY_FIRST
    return Fate.CHARGED


class Ledger:
    """What was charged, by idempotency key. Used by many threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._charges: dict[str, Charge] = {}
        self._keys: Counter[str] = Counter()
        self._tries: Counter[str] = Counter()
        self._clients: Counter[str] = Counter()

    def charge(self, key: str, order_id: str, cents: int, *, client: str = "") -> tuple[int | None, dict[str, Any]]:
        """Status and body of the answer; no status when the answer is to be lost. `client` is what asked."""
        with self._lock:
            self._clients[client] += 1
            self._keys[key] += 1
            self._tries[order_id] += 1
            first = self._tries[order_id] == 1
            match fate(order_id):
                case Fate.DECLINED:
                    return 402, {"reason": "card declined"}
                case Fate.BUSY_FIRST if first:
                    return 503, {"reason": "busy"}
            known = key in self._charges
            made = self._charges.setdefault(key, Charge(key, order_id, cents, f"p-{len(self._charges) + 1:05}"))
        if first and fate(order_id) is Fate.SILENT_FIRST:
            return None, {}
        return 200 if known else 201, {"payment_id": made.payment_id, "order_id": order_id, "cents": made.cents}

    def charges(self) -> list[Charge]:
        with self._lock:
            return list(self._charges.values())

    def clients(self) -> dict[str, int]:
        """Requests by the program that sent them, as it calls itself: `python-httpx/0.28.1`."""
        with self._lock:
            return dict(self._clients)

    def repeats(self) -> int:
        """Requests that came again with a key that had come before."""
        with self._lock:
            return sum(times - 1 for times in self._keys.values())


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    ledger: Ledger

    def do_POST(self) -> None:
        text = self.rfile.read(int(self.headers.get("Content-Length", "0")))
        time.sleep(LATENCY)
        try:
            body = json.loads(text)
            key, order_id, cents = self.headers["Idempotency-Key"], str(body["order_id"]), int(body["cents"])
        except (ValueError, KeyError, TypeError) as error:
            self._answer(400, {"reason": f"expected order_id and cents as JSON: {error}"})
            return
        if self.path != "/charges" or not key:
            self._answer(400, {"reason": "expected POST /charges with an Idempotency-Key"})
            return
        if fate(order_id) is Fate.SLOW:
            time.sleep(SLOW)
        status, answer = self.ledger.charge(key, order_id, cents, client=self.headers.get("User-Agent", ""))
        if status is None:
            self.close_connection = True
            return
        self._answer(status, answer)

    def do_GET(self) -> None:
        charges = self.ledger.charges()
        self._answer(200, {"charges": len(charges), "cents": sum(charge.cents for charge in charges)})

    def _answer(self, status: int, body: dict[str, Any]) -> None:
        data = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, format: str, *args: Any) -> None:
        """Nobody reads an access log here."""


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that is killed takes its connection with it: that is what the demo is about."""


class Provider:
    """A provider at work."""

    def __init__(self, host: str, port: int) -> None:
        self.ledger = Ledger()
        handler = type("Handler", (_Handler,), {"ledger": self.ledger})
        self._server = _Server((host, port), handler)

    @property
    def url(self) -> str:
        host, port = self._server.server_address[:2]
        return f"http://{host!s}:{port}"

    def serve(self) -> None:
        self._server.serve_forever(poll_interval=0.05)

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


@contextmanager
def running(host: str = "127.0.0.1", port: int = 0) -> Iterator[Provider]:
    """A provider in a thread, for the time of the block. Port 0 takes a free one."""
    provider = Provider(host, port)
    thread = threading.Thread(target=provider.serve, name="provider", daemon=True)
    thread.start()
    try:
        yield provider
    finally:
        provider.close()
        thread.join()
