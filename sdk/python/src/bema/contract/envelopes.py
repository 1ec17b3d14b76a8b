"""An event on the wire: CloudEvents attributes in NATS headers (binary mode), a JSON body.

Attribute values are percent-encoded as the CloudEvents bindings say. Header names that begin with `Nats-`, `Bema-` or
`ce-` never come from a user: `Nats-Rollup: all` on an emit would wipe the app's stream.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Mapping
from types import MappingProxyType
from typing import NamedTuple
from urllib.parse import quote, unquote

from bema.contract import errors

SPEC_VERSION = "ce-specversion"
ID = "ce-id"
TYPE = "ce-type"
SOURCE = "ce-source"
TIME = "ce-time"
KEY = "ce-partitionkey"
CONTENT_TYPE = "content-type"
TRACE_PARENT = "traceparent"

ATTEMPT = "Bema-Attempt"
RUN = "Bema-Run"
ERRORS = "Bema-Errors"
KIND = "Bema-Kind"
REASON = "Bema-Reason"
OMITTED = "Bema-Omitted"
"""On a dead letter whose data was too large to be kept: the sequence of the event in the stream."""
DELETED = "Bema-Deleted"
"""On a message that stands for something that was removed: a key of the state, a dead letter, a timer, an id."""
EXPIRES = "Bema-Expires"
"""On a value of the state that was changed after it was given a lifetime: the Unix time at which that ends, by the
broker's clock. The broker itself counts whole seconds from each change."""
EMITTED = "Bema-Emitted"
"""On an event with an id of the user's: the producer's run and the number of the emit. The user may use the id again
once its window is over; this tells the two events apart."""
DEPTH = "Bema-Depth"
"""How many changes to watched groups caused each other, one after the other, up to this message."""
ANCESTOR = "Bema-Ancestor"
"""On what a redrive started: the run whose dead letter was redriven."""
EDITED = "Bema-Edited"
"""On a dead letter whose data a person replaced: when, RFC 3339."""
DIED = "Bema-Died"
"""On an edited dead letter: when it became one, RFC 3339. On others that is the message's own time."""

MAX_ERRORS_BYTES = 8 * 1024

_RESERVED = ("nats-", "bema-", "ce-")
_OWN = frozenset({CONTENT_TYPE, TRACE_PARENT, "tracestate"})
_COMMON = frozenset({SPEC_VERSION, ID, TYPE, SOURCE, TIME, KEY, CONTENT_TYPE, TRACE_PARENT, "Nats-Batch-Id"}) | {
    "Nats-Batch-Sequence",
    "Nats-Batch-Commit",
}
_NONE: Mapping[str, str] = MappingProxyType({})
_NAME = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+")
_VALUE = re.compile(r"([\x21-\x7e]([\x20-\x7e]*[\x21-\x7e])?)?")
_PLAIN = re.compile(r"[A-Za-z0-9_./:@-]*")
_SAFE = "!#$&'()*+,-./:;<=>?@[\\]^_`{|}~"


class Event(NamedTuple):
    """One message on a topic."""

    id: str
    topic: str
    source: str
    """URI reference of the producer, such as /apps/shop/steps/charge-payment."""
    time: str
    """When it was produced, RFC 3339."""
    data: bytes
    """The body, JSON."""
    key: str | None = None
    trace_parent: str | None = None
    """W3C trace context of whoever produced it."""
    headers: Mapping[str, str] = MappingProxyType({})
    """The producer's own headers."""


def source(app: str, step: str) -> str:
    return f"/apps/{app}/steps/{step}"


def check_headers(headers: Mapping[str, str]) -> None:
    """Raise `ReservedHeader` for a name that is not the user's, or a name or value that a header cannot carry."""
    for name, value in headers.items():
        text = isinstance(name, str) and isinstance(value, str)
        if not text or not _NAME.fullmatch(name) or not _VALUE.fullmatch(value):
            raise errors.ReservedHeader(
                "expected a header of printable ASCII text without spaces at its ends, "
                f"found {name!r}: {value!r}; put other data into the event"
            )
        if name.lower().startswith(_RESERVED) or name.lower() in _OWN:
            raise errors.ReservedHeader(
                f"header names that begin with Nats-, Bema- or ce-, and {', '.join(sorted(_OWN))}, are reserved; "
                f"found {name!r}"
            )


@functools.lru_cache(maxsize=1024)
def _constant(topic: str, source: str) -> Mapping[str, str]:
    """What all events of a topic and a source have in common."""
    return {
        SPEC_VERSION: "1.0",
        TYPE: quoted(topic, what="topic"),
        SOURCE: source,
        CONTENT_TYPE: "application/json",
    }


def encode(event: Event) -> dict[str, str]:
    """The NATS headers of an event. Raises `NameInvalid` for an id, a topic or a key that UTF-8 cannot carry."""
    headers = {**event.headers, **_constant(event.topic, event.source)}
    headers[ID] = quoted(event.id, what="event id")
    headers[TIME] = event.time
    if event.key is not None:
        headers[KEY] = quoted(event.key, what="key")
    if event.trace_parent is not None:
        headers[TRACE_PARENT] = event.trace_parent
    return headers


def quoted(text: str, *, what: str) -> str:
    """An attribute's value as a header carries it. Raises `NameInvalid` for what UTF-8 cannot carry."""
    if _PLAIN.fullmatch(text):
        return text
    try:
        return quote(text, safe=_SAFE)
    except UnicodeEncodeError as error:
        raise errors.NameInvalid(f"{what} must be valid Unicode, found a lone surrogate in {text!r}") from error


def attribute(headers: Mapping[str, str], name: str) -> str | None:
    """One CloudEvents attribute, decoded; None when the message has none, as foreign messages may."""
    value = headers.get(name)
    return unquote(value) if value is not None and "%" in value else value


def user_headers(headers: Mapping[str, str]) -> Mapping[str, str]:
    """What the producer itself put into the headers."""
    if headers.keys() <= _COMMON:
        return _NONE
    return {
        name: value
        for name, value in headers.items()
        if not (lower := name.lower()).startswith(_RESERVED) and lower not in _OWN
    }
