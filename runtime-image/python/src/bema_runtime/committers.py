"""The committer: writes what runs ask for, many runs in one atomic batch, each exactly once or not at all.

A refusal proves nothing. Another copy of the same batch may have been stored, a race between servers may answer a
stored batch with "expected another sequence". So after every refusal and every silence the stream's leader is asked:
the marker is there → committed; a key that was read has moved → conflict; else the same batch is sent again.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import random
from collections import deque
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from bema.contract import errors, names
from bema.contract.effects import DeleteState, EmitEvent, SetState
from bema.ports.jetstream import BATCH_ID, JetStream, Outgoing, Stored, is_wrong_sequence, new_batch_id
from bema_runtime import batches, commits, wholes
from bema_runtime.commits import Commit
from bema_runtime.metrics import Metrics
from bema_runtime.runs import Run
from bema_runtime.tasks import Tasks

log = logging.getLogger(__name__)

MAX_RUNS = 64
MAX_MESSAGES = 900
MAX_BYTES = 4 * 1024 * 1024
PATIENCE = 8
"""Tries of one run's batch, after which it goes on by itself, and holds up no others."""
MOST_REFUSALS = 200
"""Refusals of one run's batch that nothing explains, after which it counts as one that can never be written. Some 80 s:
many writers of one key may cost a run a few."""

Key = tuple[str, str]


@dataclass(frozen=True, slots=True)
class Committed:
    """It is true now, or it was already: the run has its one end."""


@dataclass(frozen=True, slots=True)
class Conflicted:
    """Nothing was written: somebody changed these keys after the run had read them."""

    keys: tuple[Key, ...]


@dataclass(frozen=True, slots=True)
class Unfit:
    """Nothing was written: an operation does not fit the value it met."""

    reason: str


@dataclass(frozen=True, slots=True)
class Abandoned:
    """Whether it was written is unknown; the process is going away and somebody else will find out."""


@dataclass(frozen=True, slots=True)
class Overtaken:
    """Nothing was written: some runs of a batch have their end already."""

    runs: tuple[Run, ...]


@dataclass(frozen=True, slots=True)
class Full:
    """Nothing was written: the app's storage has no room for more events from outside."""

    reason: str


Result = Committed | Overtaken | Conflicted | Unfit | Abandoned | Full


class Settle(Protocol):
    def __call__(self, results: Sequence[tuple[Commit, Result]]) -> None: ...


class Committer:
    """One per process: one batch is open, and those of runs that nobody is to wait for. `settle` is called with every
    commit's result, in bursts. `watched` says which groups of the state somebody watches."""

    def __init__(
        self,
        js: JetStream,
        stream: str,
        *,
        metrics: Metrics,
        settle: Settle,
        watched: Callable[[], frozenset[str]] = frozenset,
    ) -> None:
        self._js = js
        self._stream = stream
        self._metrics = metrics
        self._settle = settle
        self._watched = watched
        self._waiting: deque[Commit] = deque()
        self._wake = asyncio.Event()
        self._abandoning = False
        self._stubborn = Tasks()
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        self._task = asyncio.create_task(self._work(), name="committer")

    def submit(self, commit: Commit) -> None:
        self._waiting.append(commit)
        self._wake.set()

    def abandon(self) -> None:
        """Give up what cannot be committed soon: whoever gets the event next will find out."""
        self._abandoning = True
        self._wake.set()

    async def close(self) -> None:
        self.abandon()
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        await self._stubborn.close()
        self._report([(commit, Abandoned()) for commit in self._waiting])
        self._waiting.clear()

    async def _work(self) -> None:
        while True:
            await self._wake.wait()
            self._wake.clear()
            while self._waiting:
                group = self._take_group()
                try:
                    await self._commit_group(group)
                except Exception:
                    log.exception("The committer failed; its runs are left to be delivered again")
                    self._report([(commit, Abandoned()) for commit in group])

    def _take_group(self) -> list[Commit]:
        """The next runs that may share a batch: within the limits, no two on one subject, order kept per subject.
        What several of them change blindly is changed by one after the other, in one message."""
        watched = self._watched()
        group: list[Commit] = []
        left: deque[Commit] = deque()
        taken: set[str] = set()
        shared: set[str] = set()
        messages = size = 0
        while self._waiting and len(group) < MAX_RUNS:
            commit = self._waiting.popleft()
            if group and (messages + commit.messages > MAX_MESSAGES or size + commit.size > MAX_BYTES):
                left.append(commit)
                break
            # Each change of a watched group is told by itself
            blind = commit.blind.difference(commit.written(watched)) if watched else commit.blind
            if taken.isdisjoint(commit.subjects) and shared.isdisjoint(commit.subjects - blind):
                group.append(commit)
                messages += commit.messages
                size += commit.size
                taken |= commit.subjects - blind
                shared |= blind
            else:
                left.append(commit)
                taken |= commit.subjects
        self._waiting.extendleft(reversed(left))
        return group

    def _report(self, results: Sequence[tuple[Commit, Result]]) -> None:
        if results:
            self._settle(results)

    async def _commit_group(self, group: list[Commit]) -> None:
        if len(group) == 1:
            await self._commit_one(group[0])
            return
        try:
            batch = await self._publish(group)
        except Exception as error:  # noqa: BLE001 - one run's fault must not become that of the others
            log.debug("A batch of %d runs was not stored (%s); sending them one by one", len(group), error)
            for commit in group:
                await self._commit_one(commit)
            return
        self._observe(len(group), len(batch))
        self._report([(commit, Committed()) for commit in group])

    def _observe(self, runs: int, messages: int) -> None:
        self._metrics.commit_runs.observe(runs)
        self._metrics.commit_messages.observe(messages)

    async def _commit_one(self, commit: Commit) -> None:
        """Send one run's batch until it is known how it ended; when that takes long, beside the others."""
        for tries in range(PATIENCE):
            result = await self._try(commit)
            if result is not None:
                self._report([(commit, result)])
                return
            await asyncio.sleep(_pause(tries))
        self._stubborn.spawn(self._insist(commit))

    async def _insist(self, commit: Commit) -> None:
        result: Result = Abandoned()
        try:
            for tries in itertools.count(PATIENCE):
                known = await self._try(commit)
                if known is not None:
                    result = known
                    return
                await asyncio.sleep(_pause(tries))
        finally:
            self._report([(commit, result)])

    async def _try(self, commit: Commit) -> Result | None:
        """Send one run's batch once; None when it is to be sent again."""
        try:
            batch = await self._publish([commit])
        except errors.BrokerError as error:
            known = await self._ask_leader(commit, error)
            return known or self._refused(commit, error)
        except Exception as error:  # noqa: BLE001 - what cannot be written now can never be
            # An earlier copy may have been stored, and have changed what this one met
            return await self._ask_leader(commit, error) or Unfit(_reason(error))
        self._observe(1, len(batch))
        return Committed()

    def _refused(self, commit: Commit, error: errors.BrokerError) -> Result | None:
        """Count a refusal that nothing explains. The end of its run is a commit again: should a copy of this one have
        been stored after all, its marker tells."""
        if not is_wrong_sequence(error):
            return None
        commit.refusals += 1
        if commit.refusals == PATIENCE:
            log.warning(
                "The server refuses the commit of a run: %s; sending it again", error, extra=commit.run.log_fields
            )
        if commit.refusals < MOST_REFUSALS:
            return None
        return Unfit(f"expected the server to take the commit, found it refused {commit.refusals} times: {error}")

    async def _ask_leader(self, commit: Commit, error: Exception) -> Result | None:
        """What became of a batch that was refused or not answered; None when it is to be sent again.

        Everything that a refusal may be about is looked at before the marker: should the batch be stored between the
        two looks, the marker tells.
        """
        log.debug("The commit of run %s was not confirmed (%s); asking the leader", commit.run.id, error)
        while True:
            if self._abandoning:
                return Abandoned()
            try:
                moved = await self._moved(commit)
                taken = await self._taken(commit)
                ended = await self._ended(commit)
            except errors.BrokerError as unanswered:
                log.debug("The leader did not answer (%s); asking again", unanswered)
                await asyncio.sleep(random.uniform(0.05, 0.2))
                continue
            # One of a batch's markers is enough to tell: nobody but this commit has sent those after it.
            is_ours = any(marker.headers.get(BATCH_ID) in commit.sent for marker in ended.values())
            if is_ours or len(ended) == len(commit.run.members):
                await self._complete(commit, ended)
                return Committed()
            if ended:
                return Overtaken(tuple(ended))
            if moved:
                return Conflicted(moved)
            self._drop(commit, taken)
            return None

    async def _complete(self, commit: Commit, ended: Mapping[Run, Stored]) -> None:
        """Store what the server has left out of a batch that it has begun to store, if it has: one whose store becomes
        full does that. Only this process can: nobody else knows what it was."""
        rest = wholes.Rest(self._js, self._stream, commit, ended.values())
        while not self._abandoning:
            try:
                await rest.store(lambda: self._prepare([commit]))
                return
            except errors.BrokerError as error:
                log.debug("The rest of a commit was not stored (%s); trying again", error)
                await asyncio.sleep(random.uniform(0.05, 0.5))

    async def _ended(self, commit: Commit) -> dict[Run, Stored]:
        """The commit's runs that have an end, and their markers."""
        markers = {commits.marker_subject(run): run for run in commit.run.members}
        found = await self._last(markers)
        return {run: found[subject] for subject, run in markers.items() if subject in found}

    async def _moved(self, commit: Commit) -> tuple[Key, ...]:
        """The keys that the run read and wrote, and that somebody else wrote since."""
        run = commit.run
        guarded = [
            (effect.group, effect.key)
            for effect in commit.effects
            if isinstance(effect, SetState | DeleteState) and (effect.group, effect.key) in run.reads
        ]
        found = await asyncio.gather(*(self._revision(run.binding.root, key) for key in guarded))
        return tuple(key for key, revision in zip(guarded, found, strict=True) if revision != run.reads[key])

    async def _taken(self, commit: Commit) -> dict[int, dict[str, Stored]]:
        """What is there on subjects that have to be new, by the number of the emit."""
        emits = [
            effect
            for effect in commit.effects
            if isinstance(effect, EmitEvent) and effect.id is not None and not effect.replaces
        ]
        return {effect.number: await self._last(commits.emit_subjects(commit.run, effect)) for effect in emits}

    def _drop(self, commit: Commit, taken: Mapping[int, Mapping[str, Stored]]) -> None:
        """An emit whose id was used before is dropped, alone. What a cancelled timer left is no obstacle, as long as it
        is there: what was found of it before may be gone by now."""
        commit.revisions.clear()
        for number, found in taken.items():
            for subject, stored in found.items():
                if commits.DELETED in stored.headers:
                    commit.revisions[subject] = stored.sequence
                elif number not in commit.duplicates:
                    commit.duplicates.add(number)
                    log.info(
                        "Emit %d of the run was dropped: its id was used before", number, extra=commit.run.log_fields
                    )

    async def _revision(self, root: str, key: Key) -> int:
        stored = await self._js.get_last(self._stream, names.state(root, *key))
        return stored.sequence if stored else 0

    async def _last(self, subjects: Collection[str]) -> dict[str, Stored]:
        """The last message of each subject that has one."""
        found = await asyncio.gather(*(self._js.get_last(self._stream, subject) for subject in subjects))
        return {subject: stored for subject, stored in zip(subjects, found, strict=True) if stored is not None}

    async def _publish(self, group: Sequence[Commit]) -> list[Outgoing]:
        batch, id = await self._prepare(group), new_batch_id()
        try:
            await self._js.publish_batch(batch, id=id)
        except errors.BrokerError:
            owners = {commits.marker_subject(run): commit for commit in group for run in commit.run.members}
            owner = group[0]
            for message in batch:
                owner = owners.get(message.subject, owner)
                owner.sent.setdefault(id, []).append(message)
            raise
        return batch

    async def _prepare(self, group: Sequence[Commit]) -> list[Outgoing]:
        """The batch as of now: what was not read is read here, and changed."""
        watched = self._watched()
        needs = {subject for commit in group for subject in commit.needs}
        if watched:
            needs |= {subject for commit in group for subject in commit.written(watched)}
        found = await self._last(needs) if needs else {}
        return batches.together(group, found, now=self._js.connection.clock.now(), watched=watched)


def _pause(tries: int) -> float:
    """Seconds. The first refusal is about what this process did not know, and knows now."""
    return random.uniform(0.002, 0.02) * min(tries, 40)


def _reason(error: Exception) -> str:
    return str(error) if isinstance(error, errors.BemaError) else f"{type(error).__name__}: {error}"
