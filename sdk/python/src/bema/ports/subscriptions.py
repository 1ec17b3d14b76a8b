"""A Step's subscription: its main consumer and those of the partitions that it hears in order, taken as one.

A topic that becomes ordered, or stops being so, moves between them. Whoever hears it from then on begins where the
others have not finished: what both hear is one run with one marker, so it is done once, and nothing is lost.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from bema.contract import names
from bema.contract.adoptions import Adoption
from bema.contract.bindings import Binding, Consumer
from bema.ports import admin, adoptions
from bema.ports.admin import ConsumerState
from bema.ports.jetstream import ROLLUP, JetStream, Outgoing


@dataclass(frozen=True, slots=True)
class Leftovers:
    """What a Step that hears no events any more still had."""

    removed: list[str] = field(default_factory=list)
    """Durables of its consumers that are gone now."""
    kept: list[str] = field(default_factory=list)
    """Of those that are still needed. Nobody tells when that ends: look again."""


async def ensure(js: JetStream, binding: Binding) -> Leftovers:
    """Make all consumers of a Step that hears events, or bring them up to date; let go of those of one that hears none.
    Those of partitions come first and leave last: while both are there, no event of a topic that moves is without a
    hearer."""
    stream, main = binding.stream.name, binding.consumer
    if main is None:
        return await let_go(js, stream, binding.step)
    adoption, starts = await adoptions.begin(js, binding, binding.adopts) if binding.adopts else (Adoption(), {})
    main = adoptions.heard(binding, main, adoption)
    if binding.ordered is not None:
        start = await _start_of_moved(js, binding, main)
        for consumer in binding.ordered.consumers:
            await _ensure_from(js, stream, consumer, starts.get(consumer.durable, start))
    await admin.ensure_consumer(js, stream, main, start=starts.get(main.durable))
    await _watch(js, binding)
    if binding.ordered is None:
        await _take_back(js, binding, main)
    if binding.adopts and not adoption.is_done:
        await adoptions.finish(js, binding, binding.adopts, adoption)
        await unwatch(js, stream, binding.adopts)
    return Leftovers()


async def _watch(js: JetStream, binding: Binding) -> None:
    """Say in the stream which groups of the state the Step watches: whoever writes them tells what has changed. After
    the consumers, so that nothing is told that they would not hear."""
    groups = sorted({state.group for state in binding.states})
    subject = names.watch(binding.root, binding.step)
    found = await js.get_last(binding.stream.name, subject)
    before = json.loads(found.data)["groups"] if found is not None and found.data else []
    if groups != before:
        body = json.dumps({"groups": groups}).encode()
        await js.publish(Outgoing(subject, body, {ROLLUP: "sub"}))


async def _start_of_moved(js: JetStream, binding: Binding, main: Consumer) -> int | None:
    """The first sequence that the main consumer has not finished, if it still hears topics that are ordered now."""
    last = await admin.last_sequence(js, binding.stream.name)
    found = await admin.consumer_state(js, binding.stream.name, main.durable)
    if found is None:
        return None
    heard = {names.event_filter(binding.root, topic) for event in binding.events for topic in event.topics}
    moved = heard & set(found.filters) - set(main.filter_subjects)
    if moved:
        return admin.floor_of(found, last) + 1
    # A topic that a Step hears from today on begins today, in order or not
    return None if await _of_partitions(js, binding, binding.step) else last + 1


def _partitions(binding: Binding, step: str) -> list[str]:
    """The names of a Step's partitions' consumers, whether it has them or not."""
    return [names.durable(step, partition) for partition in range(binding.partitions)]


async def _of_partitions(js: JetStream, binding: Binding, step: str) -> list[ConsumerState]:
    """The consumers of a Step's partitions. The first one is made first and leaves last: most
    Steps have none, and cost one question."""
    stream, (first, *others) = binding.stream.name, _partitions(binding, step)
    found = await admin.consumer_state(js, stream, first)
    if found is None:
        return []
    states = await asyncio.gather(*(admin.consumer_state(js, stream, durable) for durable in others))
    return [found, *(state for state in states if state is not None)]


async def _take_back(js: JetStream, binding: Binding, main: Consumer) -> None:
    """The Step hears nothing in order any more: its main consumer takes over what partitions still held. The first
    partition's consumer leaves last, so that whoever continues a half-done change finds it."""
    stream = binding.stream.name
    if not await admin.consumer_exists(js, stream, names.durable(binding.step, 0)):
        return
    last = await admin.last_sequence(js, stream)
    states = await _of_partitions(js, binding, binding.step)
    waiting = [admin.floor_of(state, last) + 1 for state in states if state.backlog]
    await _ensure_from(js, stream, main, min(waiting, default=None))
    for durable in reversed(_partitions(binding, binding.step)):
        await admin.delete_consumer(js, stream, durable)


async def _ensure_from(js: JetStream, stream: str, consumer: Consumer, start: int | None) -> None:
    """A consumer that has yet to be given everything from `start` on. One that is ahead is made anew, further back:
    where a consumer is cannot be changed."""
    if start is not None:
        found = await admin.consumer_info(js, stream, consumer.durable)
        if found is not None and int(found["delivered"]["stream_seq"]) >= start:
            start = min(start, int(found["ack_floor"]["stream_seq"]) + 1)
            await admin.delete_consumer(js, stream, consumer.durable)
    await admin.ensure_consumer(js, stream, consumer, start=start)


async def let_go(js: JetStream, stream: str, step: str) -> Leftovers:
    """Remove the consumers of a Step that hears no events any more. One that still holds events stays, for the Step may
    hear them again. So does the one that is to hear a retry which waits for its time, and from then on hears nothing
    else: it must not gather what nobody takes. An empty one would only make a later `deliverFrom` mean nothing.

    A run that is in hand may set a retry, and a retry may come, between two looks. So a consumer counts as empty if it
    was that before the timers were looked at, and was given nothing meanwhile."""
    root = names.root_of_stream(stream)
    before = await admin.states_of_step(js, stream, step)
    waits = bool(before) and await js.get_next(stream, names.retry_timers(root, step)) is not None
    after = await admin.states_of_step(js, stream, step) if before else {}
    left = Leftovers()
    for durable, state in after.items():
        if state.backlog or state != before.get(durable):
            left.kept.append(durable)
        elif waits and durable == names.durable(step):
            await admin.narrow_consumer(js, stream, durable, [names.retry_filter(root, step)])
            left.kept.append(durable)
        else:
            await admin.delete_consumer(js, stream, durable)
            left.removed.append(durable)
    await unwatch(js, stream, step)
    return left


async def unheard(
    js: JetStream, binding: Binding, *, until: Mapping[str, int], step: str | None = None
) -> dict[str, int]:
    """Topics that the Step's consumers hear and the Step is to hear no more, with how many events wait on each; on a
    topic in `until` only those up to its sequence. Asks for the Step's own consumers: an app may have a thousand.
    `step`: another one, whose events it is to have."""
    step = step or binding.step
    stream, root = binding.stream.name, binding.root
    heard = {topic for event in binding.events for topic in event.topics}
    found: dict[str, int] = {}
    main = await admin.consumer_state(js, stream, names.durable(step))
    for state in [*([main] if main is not None else []), *await _of_partitions(js, binding, step)]:
        for subject in state.filters:
            if not subject.startswith(names.event_prefix(root)) or (topic := names.topic_of(root, subject)) in heard:
                continue
            found[topic] = found.get(topic, 0) + await _waiting(js, stream, state, subject, until.get(topic))
    return dict(sorted(found.items()))


async def _waiting(js: JetStream, stream: str, state: ConsumerState, subject: str, until: int | None) -> int:
    """Events of a subject up to a sequence, if one is given, that a consumer has not finished."""
    if state.backlog == 0:
        return 0
    waiting = await admin.count(js, stream, subject, start=state.ack_floor + 1)
    later = await admin.count(js, stream, subject, start=until + 1) if waiting and until is not None else 0
    # A consumer may be ahead of that sequence
    return max(0, waiting - later)


async def remove(js: JetStream, stream: str, durable: str) -> None:
    """Remove a consumer of a Step that is gone for good, and what is known of the Step. Nothing there is no error."""
    step = names.step_of_durable(durable)
    await admin.delete_consumer(js, stream, durable)
    await unwatch(js, stream, step)
    if durable == names.durable(step):
        await adoptions.forget(js, stream, step)


async def unwatch(js: JetStream, stream: str, step: str) -> None:
    """The Step watches nothing any more: nobody need tell it what has changed."""
    subject = names.watch(names.root_of_stream(stream), step)
    if await js.get_last(stream, subject) is not None:
        await js.publish(Outgoing(subject, json.dumps({"groups": []}).encode(), {ROLLUP: "sub"}))


def backlog(states: Mapping[str, ConsumerState], durables: Iterable[str]) -> int | None:
    """Events that wait in several consumers; None when one of them is missing."""
    found = [states.get(durable) for durable in durables]
    return None if None in found else sum(state.backlog for state in found if state is not None)
