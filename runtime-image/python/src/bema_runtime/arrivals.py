"""Messages that arrive, as runs: an event as it was sent, or a scheduled attempt of one. Pure."""

from __future__ import annotations

from collections.abc import Mapping

import orjson

from bema.contract import envelopes, names
from bema.contract.triggers import Kind
from bema.ports.connections import Message
from bema_runtime import traces
from bema_runtime.runs import NOT_HEARD, Delivery, Run, Unit


def run_of(unit: Unit, message: Message, delivery: Delivery, stream_created: str) -> Run:
    """The run of a message. `stream_created` tells events without an id from those of a stream before."""
    headers = message.headers
    event_id = envelopes.attribute(headers, envelopes.ID) or names.foreign_event(
        stream_created, delivery.sequence, delivery.timestamp
    )
    retried = message.subject.startswith(unit.retry_prefix)
    kind = Kind.STATE if _is_change(unit, message, retried=retried) else Kind.EVENT
    topic = _topic(unit, message, retried=retried or kind is Kind.STATE)
    source = headers.get(envelopes.SOURCE, "")
    step = _name(unit, message, delivery, retried=retried)
    event = envelopes.Event(
        id=event_id,
        topic=topic,
        source=source,
        time=headers.get(envelopes.TIME, ""),
        data=message.data,
        key=envelopes.attribute(headers, envelopes.KEY),
        trace_parent=headers.get(envelopes.TRACE_PARENT),
        headers=envelopes.user_headers(headers),
    )
    run = Run(
        unit=unit,
        kind=kind,
        id=(headers.get(envelopes.RUN) if retried else None)
        or names.run_of_event(step, source, headers.get(envelopes.EMITTED) or event_id),
        attempt=_number(headers.get(envelopes.ATTEMPT), 1) if retried else 1,
        trigger=_watching(unit, message) if kind is Kind.STATE else unit.trigger_of(event.topic),
        trace_id=traces.trace_of(event.trace_parent),
        data=message.data,
        event=event,
        delivery=delivery,
        named=step,
        retried=retried,
        depth=_number(headers.get(envelopes.DEPTH), 0),
    )
    if retried:
        run.errors = _errors(headers)
        run.ancestor = headers.get(envelopes.ANCESTOR)
    return run


def _name(unit: Unit, message: Message, delivery: Delivery, *, retried: bool) -> str:
    """In which Step's name it is handled: that of a further attempt is in its subject."""
    binding = unit.binding
    if binding.adopts is None:
        return binding.step
    if retried:
        return names.retry_of(binding.root, message.subject)[0]
    return unit.adoption.name_of(delivery.sequence, binding.step)


def _is_change(unit: Unit, message: Message, *, retried: bool) -> bool:
    if retried:
        return message.headers.get(envelopes.KIND) == Kind.STATE
    return message.subject.startswith(unit.change_prefix)


def _topic(unit: Unit, message: Message, *, retried: bool) -> str:
    if retried:
        return envelopes.attribute(message.headers, envelopes.TYPE) or ""
    return names.topic_of(unit.binding.root, message.subject)


def _watching(unit: Unit, message: Message) -> int:
    """The trigger of a change. One that comes again, redriven, says itself what it is about; of one that does not, the
    handler's side says what is wrong."""
    try:
        told = orjson.loads(message.data)
        return unit.watching(str(told["group"]), str(told["key"]))
    except (orjson.JSONDecodeError, KeyError, TypeError):
        return next((state.trigger for state in unit.binding.states), NOT_HEARD)


def _number(text: str | None, default: int) -> int:
    return int(text) if text is not None and text.isascii() and text.isdigit() and len(text) < 10 else default


def _errors(headers: Mapping[str, str]) -> list[dict[str, object]]:
    try:
        found = orjson.loads(headers.get(envelopes.ERRORS, "[]"))
    except orjson.JSONDecodeError:
        return []
    return [entry for entry in found if isinstance(entry, dict)] if isinstance(found, list) else []
