"""The broker's side of Steps: streams and consumers ensured, backlogs read. Talks to NATS through `bema.ports` only.

What was ensured is remembered until the connection is lost or a consumer turns out to be missing, so that a settled
Step costs the broker nothing.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import hashlib
import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field

from bema.contract import bindings, errors, names
from bema.contract.bindings import AppStream, Binding, Owner
from bema.contract.retentions import Retentions
from bema.contract.statuses import Reason
from bema.ports import admin, adoptions, connections, subscriptions
from bema.ports.admin import ConsumerState, StreamState
from bema.ports.janitors import Janitor
from bema.ports.jetstream import JetStream
from bema.ports.subscriptions import Leftovers
from bema_operator import metrics
from bema_operator.facts import Key, Problem, Subscription
from bema_operator.settings import Settings

log = logging.getLogger(__name__)

CLIENT_NAME = "bema-operator"
PATIENCE = 5.0
"""How long the broker may be away before Steps are told, in seconds: a restart of its pod takes about two."""


@dataclass(slots=True)
class Known:
    """What we know of one Step at the broker."""

    stream: str
    durables: Sequence[str]
    """Its consumers; none for a Step that hears no events."""
    digest: str
    """Of what was asked for, when it was ensured; empty to ensure it again at the next look."""
    backlog: int | None = None
    adopted: str = ""
    """What became of the place that it was to take over."""


@dataclass(frozen=True, slots=True)
class App:
    """An app's stream as the broker has it."""

    stream: str
    namespace: str
    namespace_uid: str
    consumers: Mapping[str, ConsumerState] = field(default_factory=dict)
    state: StreamState | None = None


@dataclass(frozen=True, slots=True)
class Others:
    """What a Step has to know of others of its namespace before it is subscribed."""

    adopters: Sequence[str]
    """Steps that say that they take over the place of one of its name."""
    rivals: Sequence[str]
    """Other Steps that say that they take over the same place as it."""
    exists: Callable[[str], Awaitable[bool]]
    """Whether there is a Step of a name."""


@dataclass(frozen=True, slots=True)
class Shortfall:
    """A stream that was to have more copies than there are servers."""

    stream: AppStream
    """As it was to be."""
    why: str


class Broker:
    """The operator's connection to NATS, and what it remembers of it."""

    def __init__(
        self,
        settings: Settings,
        measures: metrics.Metrics,
        look_again: Callable[[Key], None],
        *,
        look_at_app: Callable[[str], None] = lambda namespace: None,
    ) -> None:
        self._settings = settings
        self._measures = measures
        self._look_again = look_again
        self._look_at_app = look_at_app
        self._js: JetStream | None = None
        self._connected_once = asyncio.Event()
        self._known: dict[Key, Known] = {}
        self._unanswered: set[Key] = set()
        self._streams: dict[str, str] = {}
        self._created: dict[str, str] = {}
        """When the streams were made."""
        self._shortfalls: dict[str, Shortfall] = {}
        """Streams for which there are too few servers."""
        self._away = 0
        """Seconds since the broker was last there."""
        self._locks: dict[str, asyncio.Lock] = {}
        self._edited: dict[Key, dict[str, int]] = {}
        """Of Steps that are to hear less than what waits for them: where the stream was when each topic was taken."""

    async def run(self) -> None:
        """Connect, however long it takes, and stay connected until cancelled."""
        connection = await connections.connect(self._settings.nats_urls, name=CLIENT_NAME)
        try:
            self._js = JetStream(connection)
            connection.on_reconnect(self._start_afresh)
            log.info("Connected to NATS")
            self._connected_once.set()
            self._start_afresh()
            while True:
                self._measures.broker.set(connection.is_connected)
                if connection.is_connected:
                    self._measures.broker_version(connection.server_version)
                self._note(is_connected=connection.is_connected)
                await asyncio.sleep(1)
        finally:
            self._js = None
            await connection.close()

    def _note(self, *, is_connected: bool) -> None:
        """Count the seconds without the broker, and have every Step say so once they are too many."""
        self._away = 0 if is_connected else self._away + 1
        if self._away == PATIENCE:
            log.warning("NATS has been away for %g s; every Step's status says so", PATIENCE)
            for key in {*self._known, *self._unanswered}:
                self._look_again(key)

    async def wait_connected(self, seconds: float) -> None:
        """Return once connected, or after so many seconds without."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._connected_once.wait()

    def _start_afresh(self) -> None:
        """The server may be another one, or empty: believe nothing, and look at every Step again."""
        keys = {*self._known, *self._unanswered}
        self._streams.clear()
        self._unanswered.clear()
        for known in self._known.values():
            known.digest = ""
        for key in keys:
            self._look_again(key)

    @property
    def is_connected(self) -> bool:
        return self._js is not None and self._js.connection.is_connected

    async def ensure(
        self,
        key: Key,
        binding: Binding,
        *,
        stream: AppStream,
        others: Others,
        discards: frozenset[str] = frozenset(),
        adopt: str = "",
    ) -> Subscription:
        """Make the Step's stream and consumer be there, if that is not known already. Not yet, while events wait that
        it would hear no more, unless they are of topics in `discards`. `stream`: as the App has it, which the Binding
        does not say. `others`: who may be in the way. `adopt`: the uid of the namespace before, whose stream is to be
        taken over."""
        digest = _digest(binding, stream)
        known = self._known.get(key)
        if self._away >= PATIENCE:
            self._unanswered.add(key)
            return Subscription(self._problem(errors.BrokerUnavailable("not connected")))
        if known is not None and known.digest == digest and not others.adopters:
            self._edited.pop(key, None)
            return self._subscribed(binding)
        try:
            js = self._connected()
            await self._ensure_stream(js, stream, adopt)
            in_the_way = await self._in_the_way(js, key, binding, others)
            if in_the_way is not None:
                return Subscription(in_the_way)
            waiting = await self._unheard(js, key, binding, discards)
            if waiting:
                return Subscription(_backlog_left(key, waiting))
            left = _say_removed(binding.stream.name, await subscriptions.ensure(js, binding))
        except errors.BrokerError as error:
            problem = self._problem(error)
            if problem.reason is Reason.BROKER_UNAVAILABLE:
                self._unanswered.add(key)
            return Subscription(problem)
        durables = [consumer.durable for consumer in binding.consumers]
        backlog = known.backlog if known else None
        digest = "" if left.kept else digest
        self._known[key] = Known(stream=binding.stream.name, durables=durables, digest=digest, backlog=backlog)
        if binding.adopts:
            self._known[key].adopted = await self._adopted(key, binding)
        return self._subscribed(binding, leftovers=bool(left.kept))

    async def _in_the_way(self, js: JetStream, key: Key, binding: Binding, others: Others) -> Problem | None:
        """Of two Steps that would be one to the stream, the one that has to wait, or never can be."""
        stream = binding.stream.name
        holder = await adoptions.holder(js, stream, key.name)
        # Whose place it takes over in turn gives it back: so is a renaming undone
        if holder is not None and holder not in (key.name, binding.adopts):
            return _taken_over(key, holder)
        if binding.adopts is None:
            return None
        adoption = await adoptions.read(js, stream, key.name)
        if adoption is not None and adoption.is_done:
            return None
        holder = await adoptions.holder(js, stream, binding.adopts)
        if holder is not None and holder != key.name:
            return self._problem(errors.PlaceTaken(binding.adopts, holder))
        if adoption is None:
            for rival in sorted(others.rivals):
                if rival < key.name and await adoptions.read(js, stream, rival) is None:
                    return _comes_second(binding.adopts, rival)
        return _waits(key, binding.adopts) if await others.exists(binding.adopts) else None

    async def _adopted(self, key: Key, binding: Binding) -> str:
        """What became of the place that the Step was to take over, for its status."""
        found = await adoptions.read(self._connected(), binding.stream.name, key.name)
        if found is None or not found.formers:
            return f"There was no consumer of {binding.adopts} to take over; it has a place of its own."
        others = dict.fromkeys(former.step for former in found.formers if former.step != key.name)
        return f"It has taken over the place of {', '.join(others)}."

    def _subscribed(self, binding: Binding, *, leftovers: bool = False) -> Subscription:
        known = self._known.get(Key(binding.app, binding.step))
        adopted = known.adopted if known else ""
        created = self._created.get(binding.stream.name, "")
        return Subscription(created=created, leftovers=leftovers, adopted=adopted)

    async def _unheard(self, js: JetStream, key: Key, binding: Binding, discards: frozenset[str]) -> dict[str, int]:
        """Events that wait on topics which the Step is to hear no more: those that were there when the topic was taken
        from it, or somebody who goes on sending would keep the Step as it is for ever."""
        edited = self._edited.get(key, {})
        taken = await subscriptions.unheard(js, binding, until=edited)
        if binding.adopts is not None:
            taken = {**await subscriptions.unheard(js, binding, until=edited, step=binding.adopts), **taken}
        waiting = {topic: count for topic, count in taken.items() if count}
        given_up = {topic: count for topic, count in waiting.items() if topic in discards}
        for topic, count in given_up.items():
            text = "The Step gives up %d events that wait on %s, as its annotation says"
            log.warning(text, count, topic, extra=key.bound)
        left = {topic: count for topic, count in waiting.items() if topic not in discards}
        if not left:
            self._edited.pop(key, None)
        elif edited.keys() != taken.keys():
            last = await admin.last_sequence(js, binding.stream.name)
            self._edited[key] = {topic: edited.get(topic, last) for topic in taken}
        return left

    async def release(self, key: Key, namespace_uid: str) -> bool:
        """Let go of what a noop had before it was one, whoever knew of it: only in a stream that is ours. Whether
        nothing is left; else it is to be asked again."""
        self._known.pop(key, None)
        owner = Owner(namespace=key.namespace, namespace_uid=namespace_uid)
        stream = bindings.app_stream(owner, self._settings.as_installation())
        if self._js is None or not self.is_connected:
            return False
        try:
            if not await admin.is_owned(self._js, stream):
                return True
            return not _say_removed(stream.name, await subscriptions.let_go(self._js, stream.name, key.name)).kept
        except errors.BrokerError as error:
            log.debug("Could not let go of consumers: %s", error, extra=key.bound)
            return False

    async def _ensure_stream(self, js: JetStream, stream: AppStream, adopt: str) -> None:
        """Once for all Steps of an app."""
        wanted = stream.model_dump_json()
        async with self._locks.setdefault(stream.name, asyncio.Lock()):
            if self._streams.get(stream.name) != wanted:
                try:
                    if await admin.ensure_stream(js, stream, adopt=adopt):
                        log.info("Made the app's stream %s", stream.name)
                except errors.TooFewServers as error:
                    await self._fall_short(js, stream, error)
                else:
                    self._suffice(stream.name)
                self._created[stream.name] = await admin.stream_created(js, stream.name)
                self._streams[stream.name] = wanted

    async def _fall_short(self, js: JetStream, stream: AppStream, error: errors.TooFewServers) -> None:
        """What an App asks for in vain is said by the App, and a stream that is there serves as it is."""
        namespace = stream.metadata[names.METADATA_NAMESPACE]
        is_new = stream.name not in self._shortfalls
        self._shortfalls[stream.name] = Shortfall(stream, str(error))
        if is_new:
            log.warning("The app's stream stays as it is: %s", error, extra={"app": namespace})
            self._look_at_app(namespace)
        said_by_app = stream.replicas != self._settings.stream_replicas
        if not said_by_app or not await admin.stream_exists(js, stream.name):
            raise error

    def _suffice(self, name: str) -> None:
        shortfall = self._shortfalls.pop(name, None)
        if shortfall is not None:
            self._look_at_app(shortfall.stream.metadata[names.METADATA_NAMESPACE])

    def shortfall(self, namespace: str) -> str:
        """Why an app's stream has fewer copies than asked for; empty when it has not."""
        found = self._shortfalls.get(names.stream(namespace, self._settings.installation))
        return found.why if found else ""

    async def _try_again(self, js: JetStream) -> None:
        """Somebody may have added servers; nobody tells. A stream that is not there is its Steps' to make."""
        if not self._shortfalls:
            return
        there = {known.stream for known in self._known.values()}
        for name, shortfall in list(self._shortfalls.items()):
            if name not in there:
                continue
            try:
                await admin.ensure_stream(js, shortfall.stream)
            except errors.BrokerError as error:
                log.debug("Still not: %s", error, extra={"stream": name})
            else:
                self._suffice(name)

    def forget(self, key: Key) -> None:
        """The Step is gone. Its consumer stays, for the sweep."""
        self._known.pop(key, None)
        self._edited.pop(key, None)
        self._unanswered.discard(key)
        name = names.stream(key.namespace, self._settings.installation)
        if name in self._shortfalls and not any(known.stream == name for known in self._known.values()):
            del self._shortfalls[name]

    def backlog(self, key: Key) -> int | None:
        """Events that wait for a Step, as of the last look; None for a Step without a consumer."""
        known = self._known.get(key)
        return known.backlog if known else None

    async def look(self) -> None:
        """Read the backlogs of all Steps, one request per app, and have those looked at whose backlog has changed or
        whose stream or consumer is missing. Compare the clocks, too; and first of all, ask again for copies of streams
        for which there were too few servers. Raises `BrokerError`."""
        js = self._connected()
        await self._try_again(js)
        existing = await admin.stream_names(js)
        if existing:
            await admin.hear_clock(js, min(existing))
            now = js.connection.clock.now()
            self._measures.skew.set(now.broker - now.here)
        by_stream: dict[str, list[Key]] = {}
        for key, known in self._known.items():
            if known.stream not in existing:
                self._lost(key, known, "stream")
            elif known.durables:
                by_stream.setdefault(known.stream, []).append(key)
        for stream, keys in by_stream.items():
            states = await admin.consumer_states(js, stream)
            for key in keys:
                self._compare(key, states)

    def _compare(self, key: Key, states: Mapping[str, ConsumerState]) -> None:
        known = self._known.get(key)
        if known is None or not known.durables:
            return
        backlog = subscriptions.backlog(states, known.durables)
        if backlog is None:
            self._lost(key, known, "consumer")
        elif backlog != known.backlog:
            known.backlog = backlog
            self._look_again(key)

    def _lost(self, key: Key, known: Known, what: str) -> None:
        log.warning("The Step's %s has vanished; making it again", what, extra=key.bound)
        known.digest = ""
        self._streams.pop(known.stream, None)
        self._look_again(key)

    async def streams(self) -> list[App]:
        """Every app stream of this installation, also of apps that have no Step left; without its consumers."""
        js = self._connected()
        found: list[App] = []
        offset = 0
        while True:
            page = await js.api("STREAM.LIST", {"offset": offset, "subject": "bema.>"})
            streams = page.get("streams") or []
            for info in streams:
                metadata = info["config"].get("metadata") or {}
                if metadata.get(names.METADATA_INSTALLATION) == self._settings.installation:
                    found.append(_app(info["config"]["name"], metadata, admin.state_of(info)))
            offset += len(streams)
            if not streams or offset >= int(page["total"]):
                return found

    async def apps(self) -> list[App]:
        """`streams`, with their consumers."""
        js = self._connected()
        return [
            dataclasses.replace(app, consumers=await admin.consumer_states(js, app.stream))
            for app in await self.streams()
        ]

    def janitor(self, stream: str, kept: Retentions, *, clock: Callable[[], float]) -> Janitor:
        """A janitor for a stream, over this connection. Raises `BrokerUnavailable` before there is one."""
        return Janitor(self._connected(), stream, kept, clock=clock)

    async def delete_silent_stream(self, app: App) -> bool:
        """Remove a stream if nothing was written to it since it was looked at; whether it was removed."""
        return app.state is not None and await admin.delete_silent_stream(self._connected(), app.stream, app.state)

    async def delete_consumer(self, stream: str, durable: str) -> None:
        await subscriptions.remove(self._connected(), stream, durable)

    def _connected(self) -> JetStream:
        if self._js is None:
            raise errors.BrokerUnavailable("no connection yet")
        return self._js

    def _problem(self, error: errors.BrokerError) -> Problem:
        if isinstance(error, errors.AppStreamOwned):
            return Problem(Reason.APP_STREAM_OWNED, str(error))
        if isinstance(error, errors.PlaceTaken):
            return Problem(Reason.TAKEN_OVER, f"T{str(error)[1:]}.")
        if isinstance(error, errors.BrokerTooOld):
            return Problem(Reason.BROKER_TOO_OLD, str(error))
        if isinstance(error, errors.TooFewServers):
            return Problem(Reason.TOO_FEW_SERVERS, str(error))
        if isinstance(error, errors.BrokerUnavailable):
            where = ", ".join(self._settings.nats_urls)
            text = f"NATS at {where} does not answer ({error}); what runs is left running. Check that NATS is up."
            return Problem(Reason.BROKER_UNAVAILABLE, text)
        return Problem(Reason.BROKER_REFUSED, f"NATS refuses the stream or the consumer: {error}")


def _digest(binding: Binding, stream: AppStream) -> str:
    consumers = "".join(consumer.model_dump_json() for consumer in binding.consumers)
    return hashlib.sha256(f"{stream.model_dump_json()}{consumers}".encode()).hexdigest()


def _backlog_left(key: Key, waiting: Mapping[str, int]) -> Problem:
    parts = [f"{count} {'event waits' if count == 1 else 'events wait'} on {topic}" for topic, count in waiting.items()]
    text = (
        f"{', '.join(parts)}, which the Step is not to hear any more. The version before goes on until they are done; "
        "then this one follows by itself. To give them up: kubectl annotate step "
        f"{key.name} -n {key.namespace} {names.ANNOTATION_DISCARD_BACKLOG}={','.join(waiting)}"
    )
    return Problem(Reason.BACKLOG_ON_REMOVED_TOPIC, text)


def _waits(key: Key, former: str) -> Problem:
    text = (
        f"The Step {former}, whose place this one takes over (adoptFrom), is still there. Once it is deleted, this one "
        f"goes on from its place: kubectl delete step {former} -n {key.namespace}"
    )
    return Problem(Reason.ADOPTION_WAITS, text)


def _taken_over(key: Key, adopter: str) -> Problem:
    text = (
        f"The Step {adopter} has taken over the place of {key.name} (adoptFrom), and what was sent to it waits there. "
        f"To go back: delete this Step, apply it with adoptFrom: {adopter}, and only then delete {adopter}. Else give "
        "this Step another name."
    )
    return Problem(Reason.TAKEN_OVER, text)


def _comes_second(former: str, rival: str) -> Problem:
    text = (
        f"The Step {rival} is to take over the place of {former} (adoptFrom), too, which one Step alone can, and goes "
        "first by its name. Delete one of the two, or apply this one without adoptFrom."
    )
    return Problem(Reason.TAKEN_OVER, text)


def _say_removed(stream: str, left: Leftovers) -> Leftovers:
    for durable in left.removed:
        log.info("Removed the consumer %s of a Step that hears no events", durable, extra={"stream": stream})
    return left


def _app(stream: str, metadata: Mapping[str, str], state: StreamState) -> App:
    return App(
        stream=stream,
        namespace=metadata.get(names.METADATA_NAMESPACE, ""),
        namespace_uid=metadata.get(names.METADATA_NAMESPACE_UID, ""),
        state=state,
    )
