"""Changes to watched groups of the state: what is told of a write, and what a handler gets of it. Pure."""

from __future__ import annotations

from typing import Any, Literal

import orjson
import pydantic

from bema import authoring
from bema.contract import envelopes, names
from bema.contract.effects import StateEffect
from bema.ports.jetstream import Outgoing
from bema_runtime import commits, payloads, traces
from bema_runtime.commits import DELETED
from bema_runtime.runs import Run

CONTENT = "state.changed"


def message(
    run: Run, number: int, effect: StateEffect, old: bytes | None, written: Outgoing, *, now: float
) -> Outgoing:
    """The message about the run's `number`-th write to a watched group, which held `old` before. It comes right after
    the write itself in the stream: a change's revision is the sequence before its own."""
    binding, group, key = run.binding, effect.group, effect.key
    new = None if DELETED in written.headers else written.data
    left_out = len(old or b"") + len(new or b"") > binding.limits.payload_bytes
    head = orjson.dumps({"group": group, "key": key, "type": _type(old, new)})[:-1]
    parts = [head, b',"old":', b"null" if old is None or left_out else old, b',"new":', b"null" if new is None else new]
    if left_out:
        parts.append(b',"oldLeftOut":true')
    event = envelopes.Event(
        id=names.changed_event(run.id, number),
        topic=CONTENT,
        source=envelopes.source(binding.app, binding.step),
        time=commits.timestamp(now),
        data=b"".join([*parts, b"}"]),
        trace_parent=traces.parent(run.trace_id, run.span_id),
    )
    headers = {**envelopes.encode(event), envelopes.DEPTH: str(run.depth + 1)}
    return Outgoing(names.change(binding.root, group, key, binding.partitions), event.data, headers)


def _type(old: bytes | None, new: bytes | None) -> str:
    if new is None:
        return "deleted"
    return "created" if old is None else "updated"


class _Told(pydantic.BaseModel, strict=True):
    """A change's data."""

    group: str
    key: str
    type: Literal["created", "updated", "deleted"]
    old: Any
    new: Any
    old_left_out: bool = pydantic.Field(False, alias="oldLeftOut")


_any = payloads.decoder(Any, None)


def read(data: bytes, revision: int) -> authoring.StateChange:
    """What the handler gets. Raises `InputInvalid` for data that is no change: a dead letter takes any."""
    try:
        told = _Told.model_validate(_any(data))
    except pydantic.ValidationError as error:
        raise payloads.from_pydantic(error, data) from error
    return authoring.StateChange(
        group=told.group,
        key=told.key,
        type=told.type,
        old=told.old,
        new=told.new,
        revision=revision,
        old_left_out=told.old_left_out,
    )
