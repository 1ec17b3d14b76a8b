"""How long a value of the state lives. Pure.

The broker counts whole seconds from when a message was stored. A change stores the value anew, so each would add up to
a second: what is changed carries the exact moment instead, and the broker removes it within a second of that. Until
then nobody here sees it.
"""

from __future__ import annotations

import datetime
import math
import re
from typing import TypeGuard

from bema.contract.envelopes import DELETED, EXPIRES
from bema.ports.jetstream import TTL, Stored

_MOMENT = re.compile(r"[0-9]{1,11}(\.[0-9]{1,6})?")
_LIFETIME = re.compile(r"([0-9]{1,11})s")


def fresh(ttl: float | None) -> dict[str, str]:
    """The headers of a value that begins to live now, by the broker's clock."""
    return {} if ttl is None else {TTL: _seconds(ttl)}


def kept(expires: float | None, *, now: float) -> dict[str, str]:
    """The headers of a value that is changed, and keeps its end. Both are Unix times by the broker's clock."""
    return {} if expires is None else {TTL: _seconds(expires - now), EXPIRES: f"{expires:.3f}"}


def _seconds(lifetime: float) -> str:
    return f"{max(1, math.ceil(lifetime))}s"


def end(stored: Stored) -> float | None:
    """Unix time by the broker's clock at which a stored value goes away by itself; None for never."""
    moment = _MOMENT.fullmatch(stored.headers.get(EXPIRES, ""))
    if moment is not None:
        return float(moment[0])
    lifetime = _LIFETIME.fullmatch(stored.headers.get(TTL, ""))
    if lifetime is None:
        return None
    return datetime.datetime.fromisoformat(stored.time).timestamp() + int(lifetime[1])


def is_there(stored: Stored | None, now: float) -> TypeGuard[Stored]:
    """Whether a key holds a value now, a Unix time by the broker's clock."""
    if stored is None or DELETED in stored.headers:
        return False
    expires = end(stored)
    return expires is None or now < expires
