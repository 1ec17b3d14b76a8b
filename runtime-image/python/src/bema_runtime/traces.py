"""W3C trace context: one trace id for all that one outside trigger caused, a span id for each attempt."""

from __future__ import annotations

import random
import re

_PARENT = re.compile(r"00-([0-9a-f]{32})-([0-9a-f]{16})-[0-9a-f]{2}")


def trace_of(trace_parent: str | None) -> str:
    """The trace id of a `traceparent` header, or a new one where there is none that can be read."""
    if trace_parent is not None and (match := _PARENT.fullmatch(trace_parent)) and match[1] != "0" * 32:
        return match[1]
    return f"{random.getrandbits(128):032x}"


def new_span() -> str:
    return f"{random.getrandbits(64):016x}"


def parent(trace_id: str, span_id: str) -> str:
    return f"00-{trace_id}-{span_id}-01"
