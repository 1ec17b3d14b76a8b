"""An app's data on its broker, for people: events sent, state read. Only the ports speak to NATS."""

from __future__ import annotations

import contextlib
import datetime
import json
import re
import secrets
import time
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bema.contract import bindings, envelopes, errors, names
from bema.contract.effects import MAX_PAYLOAD_BYTES
from bema.contract.envelopes import Event
from bema.ports import admin, connections
from bema.ports.dead_letters import Place
from bema.ports.jetstream import JetStream, Outgoing, Stored
from bema_cli.workspaces import Workspace
from bema_runtime import payloads

CONNECT_SECONDS = 5.0


@dataclass(frozen=True, slots=True)
class Target:
    """Which app, on which broker."""

    app: str
    url: str

    @property
    def root(self) -> str:
        return names.root(self.app)

    @property
    def stream(self) -> str:
        return names.stream(self.app)

    @property
    def place(self) -> Place:
        return Place.of(self.app)


@dataclass(frozen=True, slots=True)
class Entry:
    """A key of a state group."""

    key: str
    value: Any
    revision: int
    time: str


def target(folder: Path, *, nats: str | None, app: str | None) -> Target:
    """The app of the `bema dev` in a folder, unless both are given. Raises `NotRunning`, or `NameInvalid`."""
    if app is not None and not names.is_label(app):
        raise errors.NameInvalid(f"--app: expected a name such as my-shop, found {app!r}")
    if nats is not None:
        if app is None:
            raise errors.NameInvalid(
                "--nats URL (or BEMA_NATS_URL, if that is set) needs --app NAME: expected an app's name, found none"
            )
        return Target(app, nats)
    record = Workspace(folder).running()
    return Target(app or record.app, record.nats)


@contextlib.asynccontextmanager
async def connected(target: Target) -> AsyncIterator[JetStream]:
    """JetStream on the app's broker. Raises `BrokerUnavailable`, or `BrokerRefused` when there is no such app."""
    connection = await connections.connect([target.url], name="bema cli", wait=CONNECT_SECONDS)
    try:
        js = JetStream(connection)
        if not await admin.stream_exists(js, target.stream):
            raise errors.BrokerUnavailable(f"expected an app named {target.app!r} on {target.url}, found none")
        yield js
    finally:
        await connection.close()


def parse_data(text: str) -> bytes:
    """JSON, made compact. Raises `PayloadInvalid`, also for what no handler could emit, or `PayloadTooLarge`."""
    try:
        value = json.loads(text)
    except RecursionError as error:
        raise errors.PayloadInvalid("data: expected a value that JSON can hold, found too many levels") from error
    except ValueError as error:
        raise errors.PayloadInvalid(f"expected JSON, found {_short(text)!r}: {error}") from error
    return payloads.dumps(value, what="data", limit=MAX_PAYLOAD_BYTES)


def now() -> str:
    """The time of day, RFC 3339 in UTC, with milliseconds."""
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def new_event(target: Target, topic: str, data: bytes, *, key: str | None, headers: Mapping[str, str]) -> Event:
    """An event from outside, at the start of a trace. Raises `ReservedHeader` or `NameInvalid`."""
    envelopes.check_headers(headers)
    if not topic:
        raise errors.NameInvalid("expected a topic, found an empty text")
    names.encode_topic(topic)
    return Event(
        id=names.new_id(time.time_ns() // 1_000_000, secrets.randbits(80)),
        topic=topic,
        source=_source(target.app),
        time=now(),
        data=data,
        key=key,
        trace_parent=f"00-{secrets.token_hex(16)}-{secrets.token_hex(8)}-01",
        headers=headers,
    )


def _source(app: str) -> str:
    return f"/apps/{app}/cli"


async def emit(js: JetStream, target: Target, event: Event) -> bool:
    """Store an event; whether any Step hears its topic."""
    partition = names.partition(event.key, bindings.PARTITIONS)
    subject = names.event(target.root, event.topic, partition)
    wanted = {names.event_filter(target.root, event.topic, which) for which in (None, partition)}
    states = await admin.consumer_states(js, target.stream)
    heard = any(not wanted.isdisjoint(state.filters) for state in states.values())
    await js.publish(Outgoing(subject, event.data, envelopes.encode(event)))
    return heard


async def state_get(js: JetStream, target: Target, group: str, key: str) -> Entry | None:
    """A key's value as the leader has it, or None."""
    found = await js.get_last(target.stream, names.state(target.root, group, key))
    return None if found is None else _entry(target, found)


async def state_list(js: JetStream, target: Target, group: str, *, prefix: str, limit: int) -> list[Entry]:
    """Entries of a group, by key. It may lag behind writes."""
    found = [
        entry
        async for stored in js.scan(target.stream, names.state_filter(target.root, group))
        if (entry := _entry(target, stored)) is not None and entry.key.startswith(prefix)
    ]
    return sorted(found, key=lambda entry: entry.key)[:limit]


def _entry(target: Target, stored: Stored) -> Entry | None:
    if envelopes.DELETED in stored.headers:
        return None
    _, key = names.state_of(target.root, stored.subject)
    return Entry(key, value_of(stored.data), stored.sequence, stored.time)


def step_name(text: str) -> str:
    """A Step's name, in any way that it may be written. It is never a wildcard."""
    return names.label(text)


def run_id(text: str) -> str:
    """A run's id. Raises `NameInvalid` for what cannot be one, wildcards among it."""
    if not re.fullmatch(r"[A-Za-z0-9~_-]+(\.[A-Za-z0-9~_-]+)*", text):
        raise errors.NameInvalid(f"expected a run's id, found {text!r}")
    return text


def value_of(data: bytes) -> Any:
    """JSON, or the text itself: a poison message may be anything."""
    try:
        return json.loads(data)
    except ValueError:
        return data.decode("utf-8", "replace")


def _short(text: str) -> str:
    return text if len(text) <= 40 else text[:39] + "…"
