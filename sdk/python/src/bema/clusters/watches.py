"""One watch of the API server: what changes of a kind, from a version on."""

from __future__ import annotations

import contextlib
import json
from collections.abc import AsyncGenerator, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Protocol

from bema.clusters.errors import Expired, Unavailable
from bema.clusters.kinds import Kind

WATCH_SECONDS = 30
"""The API server ends a watch after this time, and another begins where it ended."""
SILENCE_SECONDS = 40.0
"""A connection on which nothing came for longer is dead: the end of the watch should have come."""


class Lines(Protocol):
    """How to ask for an answer that goes on: see `calls.Client.lines`."""

    def __call__(self, path: str, query: Mapping[str, str], *, silence: float | None) -> AsyncGenerator[bytes]: ...


class Type(StrEnum):
    """What an event is about, as the API server says it."""

    ADDED = "ADDED"
    MODIFIED = "MODIFIED"
    DELETED = "DELETED"
    BOOKMARK = "BOOKMARK"
    """Nothing changed of the kind; its object has a version only."""


@dataclass(frozen=True, slots=True)
class Event:
    """One change, or none."""

    type: Type
    object: dict[str, Any]

    @property
    def version(self) -> str:
        """Where a watch goes on from."""
        return str(self.object["metadata"].get("resourceVersion", ""))


async def follow(
    lines: Lines, kind: Kind, namespace: str | None, version: str, **query: str
) -> AsyncGenerator[Event, None]:
    """The changes since a version, until the API server ends the watch, as it does after `WATCH_SECONDS`.

    Raises `Expired` when the version is forgotten: list again; `Unavailable` when the connection is lost.
    """
    asked = {
        **query,
        "watch": "true",
        "allowWatchBookmarks": "true",
        "resourceVersion": version,
        "timeoutSeconds": str(WATCH_SECONDS),
    }
    async with contextlib.aclosing(lines(kind.path(namespace), asked, silence=SILENCE_SECONDS)) as found:
        async for line in found:
            yield _event(line)


def _event(line: bytes) -> Event:
    try:
        found = json.loads(line)
    except ValueError as error:
        raise Unavailable(f"expected an event of a watch, found {line[:80]!r}") from error
    if found["type"] == "ERROR":
        text = str(found["object"].get("message", ""))
        if found["object"].get("code") == Expired.CODE:
            raise Expired(text, Expired.CODE)
        raise Unavailable(f"the API server ends a watch: {text}")
    return Event(Type(found["type"]), found["object"])
