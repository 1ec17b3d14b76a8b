"""The payment provider: an HTTP service outside, and outside every transaction of ours.

`POST /charges` with an `Idempotency-Key`: the same key is the same charge, however often it is sent.
"""

import json
import os
import urllib.error
import urllib.request
from functools import cache
from typing import Any

try:
    # Inline code runs on the bare runtime image, which has no httpx; an image of one's own may (requirements.txt).
    # It keeps connections open, which urllib cannot.
    import httpx
except ImportError:
    httpx = None  # type: ignore[assignment]

TIMEOUT = 5.0
"""Seconds to wait for an answer."""


class Declined(Exception):
    """The provider says no, and will say so again."""


class Unavailable(Exception):
    """The provider did not do it, or did not say whether it did: ask again, with the same key."""


def charge(order_id: str, cents: int, *, key: str) -> dict[str, Any]:
    """Charge an order; the provider's receipt. Raises `Declined` or `Unavailable`."""
    status, receipt = _post("/charges", {"order_id": order_id, "cents": cents}, key)
    if status == 402:
        raise Declined(receipt.get("reason", "payment declined"))
    if status not in (200, 201):
        raise Unavailable(f"the provider answered {status}")
    return receipt


def _post(path: str, body: dict[str, Any], key: str) -> tuple[int, dict[str, Any]]:
    url = os.environ.get("PAYMENT_URL", "http://127.0.0.1:9900") + path
    headers = {"Idempotency-Key": key, "Content-Type": "application/json"}
    send = _send_plain if httpx is None else _send_pooled
    status, text = send(url, json.dumps(body).encode(), headers)
    return status, json.loads(text) if text else {}


def _send_plain(url: str, body: bytes, headers: dict[str, str]) -> tuple[int, bytes]:
    request = urllib.request.Request(url, body, headers)
    try:
        with urllib.request.urlopen(request, timeout=TIMEOUT) as answer:
            return answer.status, answer.read()
    except urllib.error.HTTPError as refusal:
        return refusal.code, refusal.read()
    except OSError as error:
        raise Unavailable(f"no answer from {url}: {error}") from None


def _send_pooled(url: str, body: bytes, headers: dict[str, str]) -> tuple[int, bytes]:
    try:
        answer = _client().post(url, content=body, headers=headers)
    except httpx.TransportError as error:
        raise Unavailable(f"no answer from {url}: {type(error).__name__}: {error}") from None
    return answer.status_code, answer.content


@cache
def _client() -> "httpx.Client":
    return httpx.Client(timeout=TIMEOUT)
