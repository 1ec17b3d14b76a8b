"""Streams and consumers: made, checked and measured. Used by the operator and by `bema dev`; runtimes only bind."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from bema.contract import errors, floors, names
from bema.contract.bindings import AppStream, Consumer
from bema.ports.jetstream import CONSUMER_NOT_FOUND, STREAM_NOT_FOUND, JetStream

log = logging.getLogger(__name__)

MINIMUM_SERVER = (2, 14, 0)
"""The oldest nats-server that we stand for: every fact of docs/broker.md is tested on it."""

_FLAGS = ("allow_atomic", "allow_direct", "allow_rollup_hdrs", "allow_msg_ttl", "allow_msg_schedules")
_TOO_FEW_SERVERS = (10005, 10074)
"""Of several servers too few take a copy; there is one alone."""
_IMMUTABLE = ("deliver_policy", "opt_start_time", "opt_start_seq", "ack_policy", "replay_policy", "max_waiting")


@dataclass(frozen=True, slots=True)
class ConsumerState:
    """How far a Step's consumer is."""

    pending: int
    """Events that it has not been given yet."""
    unacked: int
    """Events in the hands of its runtimes."""
    metadata: Mapping[str, str]
    filters: Sequence[str] = ()
    """Subjects that it hears, wildcards among them."""
    ack_floor: int = 0
    """The stream's sequence up to which it has been answered for all that it was given."""
    created: str = ""
    """When it was made, RFC 3339."""

    @property
    def backlog(self) -> int:
        return self.pending + self.unacked


@dataclass(frozen=True, slots=True)
class StreamState:
    """What a stream holds."""

    created: str
    """RFC 3339: another time after a reinstall."""
    messages: int
    bytes: int
    last: int
    """The last sequence; 0 when there never was a message."""
    last_time: str
    """When that was stored, RFC 3339."""
    replicas: int
    metadata: Mapping[str, str]


def check_server(js: JetStream) -> None:
    """Raise `BrokerTooOld` when the server lacks what Bema needs."""
    if js.connection.server_version < MINIMUM_SERVER:
        found = ".".join(map(str, js.connection.server_version))
        needed = ".".join(map(str, MINIMUM_SERVER))
        raise errors.BrokerTooOld(f"Bema needs nats-server {needed} or later, found {found}; upgrade the server")


async def ensure_stream(js: JetStream, stream: AppStream, *, adopt: str = "") -> bool:
    """Make an app's stream, or bring an existing one of the same owner up to date; whether it was made. `adopt`: the
    uid of a namespace of the same name, gone by now, whose stream is to be taken over.

    Raises `AppStreamOwned` when it belongs to somebody else, and `TooFewServers`: then nothing was changed.
    """
    check_server(js)
    found = await _stream_info(js, stream.name)
    if found is None:
        await _store(js, "CREATE", stream, _stream_config(stream))
        return True
    config = found["config"]
    metadata = config.get("metadata") or {}
    adopts = bool(adopt) and metadata.get(names.METADATA_NAMESPACE_UID) == adopt
    _check_owner(stream, {**metadata, names.METADATA_NAMESPACE_UID: _uid(stream)} if adopts else metadata)
    wanted = {**_stream_config(stream), "storage": config["storage"]}
    if adopts or any(config.get(key) != value for key, value in wanted.items() if key != "metadata"):
        await _store(js, "UPDATE", stream, {**config, **wanted})
    return False


async def _store(js: JetStream, verb: str, stream: AppStream, config: Mapping[str, Any]) -> None:
    try:
        await js.api(f"STREAM.{verb}.{stream.name}", config)
    except errors.BrokerRefused as refused:
        if stream.replicas > 1 and refused.code in _TOO_FEW_SERVERS:
            text = (
                f"expected {stream.replicas} NATS servers that take a copy of the app each, found fewer: "
                f"{refused.description}; add servers, or ask for fewer copies (replicas)"
            )
            raise errors.TooFewServers(refused.code, text) from refused
        raise


async def is_owned(js: JetStream, stream: AppStream) -> bool:
    """Whether the stream is there, and is this owner's."""
    found = await _stream_info(js, stream.name)
    metadata = (found["config"].get("metadata") or {}) if found is not None else {}
    return found is not None and all(metadata.get(key, "") == value for key, value in stream.metadata.items())


def _check_owner(stream: AppStream, found: Mapping[str, str]) -> None:
    for key, expected in stream.metadata.items():
        if found.get(key, "") != expected:
            raise errors.AppStreamOwned(
                f"stream {stream.name} belongs to another owner: expected {key}={expected!r}, "
                f"found {found.get(key, '')!r}; {_way_out(stream, key, found)}"
            )


def _way_out(stream: AppStream, key: str, found: Mapping[str, str]) -> str:
    namespace = stream.metadata.get(names.METADATA_NAMESPACE, "")
    if key == names.METADATA_NAMESPACE_UID and found.get(key):
        return (
            "the namespace was deleted and made again; to take over all that the stream holds: "
            f"kubectl annotate namespace {namespace} {names.ANNOTATION_ADOPT_STREAM}={found[key]}; "
            "or delete the stream, or use another namespace"
        )
    return "delete the stream, or use another namespace"


def _uid(stream: AppStream) -> str:
    return stream.metadata.get(names.METADATA_NAMESPACE_UID, "")


def _stream_config(stream: AppStream) -> dict[str, Any]:
    """Never `max_bytes`, `max_msgs`, `max_age` or delete markers: a size limit deletes state and timers first."""
    return {
        "name": stream.name,
        "subjects": stream.subjects,
        "retention": "limits",
        "storage": "memory" if stream.memory else "file",
        "num_replicas": stream.replicas,
        "discard": "old",
        "max_consumers": stream.max_consumers,
        "metadata": stream.metadata,
        **dict.fromkeys(_FLAGS, True),
    }


async def _stream_info(js: JetStream, name: str) -> Any | None:
    try:
        return await js.api(f"STREAM.INFO.{name}")
    except errors.BrokerRefused as refused:
        if refused.code == STREAM_NOT_FOUND:
            return None
        raise


async def stream_created(js: JetStream, name: str) -> str:
    """When the stream was made, RFC 3339: another time after a reinstall."""
    return (await stream_state(js, name)).created


async def hear_clock(js: JetStream, name: str) -> None:
    """Ask what time it is by the clock of a stream's leader. Without an answer, what was known holds."""
    with contextlib.suppress(errors.BrokerError):
        await js.api(f"STREAM.INFO.{name}")


async def stream_state(js: JetStream, name: str) -> StreamState:
    """What a stream holds now, says its leader. Raises `BrokerRefused` when there is no such stream."""
    return state_of(await js.api(f"STREAM.INFO.{name}"))


def state_of(info: Mapping[str, Any]) -> StreamState:
    """The state in the server's description of a stream."""
    state = info["state"]
    return StreamState(
        created=str(info["created"]),
        messages=int(state["messages"]),
        bytes=int(state["bytes"]),
        last=int(state["last_seq"]),
        last_time=str(state["last_ts"]),
        replicas=int(info["config"].get("num_replicas", 1)),
        metadata=info["config"].get("metadata") or {},
    )


async def stream_names(js: JetStream) -> set[str]:
    """The streams of all apps on this broker."""
    found: set[str] = set()
    while True:
        page = await js.api("STREAM.NAMES", {"offset": len(found), "subject": "bema.>"})
        found.update(page.get("streams") or ())
        if not page.get("streams") or len(found) >= int(page["total"]):
            return found


async def stream_exists(js: JetStream, name: str) -> bool:
    return await _stream_info(js, name) is not None


async def delete_stream(js: JetStream, stream: AppStream) -> None:
    """Remove an app and everything in it, if it is this owner's. Nothing there is no error."""
    found = await _stream_info(js, stream.name)
    if found is not None:
        _check_owner(stream, found["config"].get("metadata") or {})
        await js.api(f"STREAM.DELETE.{stream.name}")


async def delete_silent_stream(js: JetStream, name: str, seen: StreamState) -> bool:
    """Remove a stream if it is still the one that was seen and nothing was written to it since; whether it was
    removed."""
    now = await stream_state(js, name)
    if (now.created, now.last) != (seen.created, seen.last):
        return False
    await js.api(f"STREAM.DELETE.{name}")
    return True


async def ensure_consumer(js: JetStream, stream: str, consumer: Consumer, *, start: int | None = None) -> None:
    """Make a Step's consumer, or bring it up to date in place: its position and backlog stay. One that was lost
    begins behind its recorded floor. `start`: the sequence at which a new one begins instead."""
    found = await consumer_info(js, stream, consumer.durable)
    wanted = _consumer_config(consumer)
    if found is None and start is not None:
        wanted.pop("opt_start_time", None)
        wanted |= {"deliver_policy": "by_start_sequence", "opt_start_seq": start}
    elif found is None:
        wanted |= await _start(js, stream, consumer)
    else:
        config = found["config"]
        wanted = {**config, **{key: value for key, value in wanted.items() if key not in _IMMUTABLE}}
        wanted["metadata"] = {**(config.get("metadata") or {}), **consumer.metadata}
        if _same(config, wanted):
            return
    endpoint = f"CONSUMER.CREATE.{stream}.{consumer.durable}"
    await js.api(endpoint, {"stream_name": stream, "config": wanted, "action": "" if found else "create"})


async def narrow_consumer(js: JetStream, stream: str, durable: str, subjects: Sequence[str]) -> None:
    """Have a consumer hear these subjects alone: what else waits in it is let go. Nothing there is no error."""
    found = await consumer_info(js, stream, durable)
    if found is not None and sorted(filters(found["config"])) != sorted(subjects):
        wanted = {**found["config"], "filter_subjects": list(subjects)}
        wanted.pop("filter_subject", None)
        endpoint = f"CONSUMER.CREATE.{stream}.{durable}"
        await js.api(endpoint, {"stream_name": stream, "config": wanted, "action": "update"})


async def _start(js: JetStream, stream: str, consumer: Consumer) -> dict[str, Any]:
    """Where a consumer that is not there begins: behind its floor if there was one before, for the same Step."""
    floor = await _recorded_floor(js, stream, consumer)
    if floor is not None:
        log.warning("The consumer %s/%s was lost; it begins at sequence %d", stream, consumer.durable, floor + 1)
        return {"deliver_policy": "by_start_sequence", "opt_start_seq": floor + 1}
    match consumer.deliver_from:
        case "Beginning":
            return {"deliver_policy": "all"}
        case "Now":
            return {"deliver_policy": "new"}
        case time:
            return {"deliver_policy": "by_start_time", "opt_start_time": time}


async def _recorded_floor(js: JetStream, stream: str, consumer: Consumer) -> int | None:
    stored = await js.get_last(stream, names.floor(names.root_of_stream(stream), consumer.durable))
    if stored is None:
        return None
    try:
        record = floors.read(stored.data)
    except ValueError as error:
        log.warning("The consumer %s/%s begins as a new one would: %s", stream, consumer.durable, error)
        return None
    return record.floor if record.of.uid == consumer.metadata.get(names.METADATA_STEP_UID, "") else None


def _same(config: Mapping[str, Any], wanted: Mapping[str, Any]) -> bool:
    def plain(value: Mapping[str, Any]) -> dict[str, Any]:
        return {**value, "filter_subject": None, "filter_subjects": sorted(filters(value))}

    return plain(config) == plain(wanted)


def filters(config: Mapping[str, Any]) -> list[str]:
    """The subjects that a consumer hears, from its configuration as the server says it."""
    return [str(subject) for subject in config.get("filter_subjects") or [config.get("filter_subject") or ">"]]


def _consumer_config(consumer: Consumer) -> dict[str, Any]:
    return {
        "durable_name": consumer.durable,
        "name": consumer.durable,
        "ack_policy": "explicit",
        "ack_wait": int(consumer.ack_wait_seconds * 1e9),
        "max_deliver": -1,
        "filter_subjects": consumer.filter_subjects,
        "replay_policy": "instant",
        "max_ack_pending": consumer.max_ack_pending,
        "metadata": consumer.metadata,
    }


async def consumer_info(js: JetStream, stream: str, durable: str) -> Any | None:
    """What the server says of a consumer; None when there is none."""
    try:
        return await js.api(f"CONSUMER.INFO.{stream}.{durable}")
    except errors.BrokerRefused as refused:
        if refused.code == CONSUMER_NOT_FOUND:
            return None
        raise


async def consumer_state(js: JetStream, stream: str, durable: str) -> ConsumerState | None:
    """How far a consumer is; None when there is none."""
    found = await consumer_info(js, stream, durable)
    return None if found is None else _consumer_state(found)


def floor_of(state: ConsumerState, last: int) -> int:
    """The sequence up to which a consumer has finished. `last` is the stream's, read before: an idle consumer's ack
    floor stays behind."""
    return floors.floor_of(ack_floor=state.ack_floor, backlog=state.backlog, last=last)


async def consumer_exists(js: JetStream, stream: str, durable: str) -> bool:
    return await consumer_info(js, stream, durable) is not None


async def count(js: JetStream, stream: str, subject_filter: str, *, start: int) -> int:
    """How many messages a filter matches from a sequence on. By a consumer that nobody uses: the server counts."""
    config = {
        "ack_policy": "none",
        "deliver_policy": "by_start_sequence",
        "opt_start_seq": max(1, start),
        "filter_subject": subject_filter,
        "mem_storage": True,
        "inactive_threshold": 5_000_000_000,
    }
    info = await js.api(f"CONSUMER.CREATE.{stream}", {"stream_name": stream, "config": config})
    await js.api(f"CONSUMER.DELETE.{stream}.{info['name']}")
    return int(info["num_pending"])


async def last_sequence(js: JetStream, stream: str) -> int:
    """The sequence of the last message that a stream was given."""
    info = await js.api(f"STREAM.INFO.{stream}")
    return int(info["state"]["last_seq"])


async def consumer_states(js: JetStream, stream: str) -> dict[str, ConsumerState]:
    """Every consumer of a stream, by its durable name. An empty dict when the stream does not exist."""
    states: dict[str, ConsumerState] = {}
    while True:
        try:
            page = await js.api(f"CONSUMER.LIST.{stream}", {"offset": len(states)})
        except errors.BrokerRefused as refused:
            if refused.code == STREAM_NOT_FOUND:
                return {}
            raise
        for info in page.get("consumers") or []:
            states[info["name"]] = _consumer_state(info)
        if not page.get("consumers") or len(states) >= int(page["total"]):
            return states


def _consumer_state(info: Mapping[str, Any]) -> ConsumerState:
    return ConsumerState(
        pending=int(info["num_pending"]),
        unacked=int(info["num_ack_pending"]),
        metadata=info["config"].get("metadata") or {},
        filters=filters(info["config"]),
        ack_floor=int(info["ack_floor"]["stream_seq"]),
        created=str(info["created"]),
    )


async def states_of_step(js: JetStream, stream: str, step: str) -> dict[str, ConsumerState]:
    """Every consumer of a Step, by its durable name, the main one first."""
    states = await consumer_states(js, stream)
    return {durable: states[durable] for durable in sorted(states) if step_of(states[durable]) == step}


async def delete_consumer(js: JetStream, stream: str, durable: str) -> None:
    """Remove a consumer and with it the position of its Step, also the recorded one: a consumer of that name begins as
    a new one. Nothing there is no error."""
    try:
        await js.api(f"CONSUMER.DELETE.{stream}.{durable}")
        await js.purge(stream, names.floor(names.root_of_stream(stream), durable), below=None)
    except errors.BrokerRefused as refused:
        if refused.code not in (CONSUMER_NOT_FOUND, STREAM_NOT_FOUND):
            raise


def step_of(state: ConsumerState) -> str | None:
    """The Step that a consumer was made for, or None for a consumer of somebody else."""
    return state.metadata.get(names.METADATA_STEP)
