"""What handlers read of the state while they run: from the stream's leader, so that a run sees all that was committed
before its trigger. The revision of each key is remembered with the run, to be checked at commit."""

from __future__ import annotations

import asyncio
import itertools
import logging
import re
import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from bema.contract import errors, names
from bema.contract.frames import Call, Reply
from bema.ports.jetstream import JetStream, Stored
from bema_runtime import lifetimes
from bema_runtime.buffers import Entry
from bema_runtime.lanes import Lanes
from bema_runtime.runs import Run

log = logging.getLogger(__name__)

_CURSOR = re.compile(r"[0-9]{1,19}(\.[0-9]{1,9})?")
_QUESTIONS = 64
"""About groups, that are asked at once."""


@dataclass(frozen=True, slots=True)
class Page:
    """Which part of a group is wanted."""

    prefix: str = ""
    limit: int = 100
    after: int = 0
    """The sequence that the page before ended with."""
    own: Sequence[str] = ()
    """Keys that the run has written and not committed."""
    gone: Collection[str] = ()
    """Keys that the run has removed and not committed."""
    shown: int = 0
    """How many of its own keys earlier pages have dealt with."""

    @classmethod
    def of(cls, params: Mapping[str, Any]) -> Page:
        """From the parameters of a call. Raises `NameInvalid` or `PayloadInvalid`."""
        prefix, limit, cursor = params.get("prefix"), params.get("limit"), params.get("cursor")
        if prefix is not None and not isinstance(prefix, str):
            raise errors.PayloadInvalid(f"prefix: expected a text, found {prefix!r}")
        if isinstance(limit, bool) or not isinstance(limit, int) or limit < 1:
            raise errors.PayloadInvalid(f"limit: expected a number from 1 on, found {limit!r}")
        if cursor is not None and not (isinstance(cursor, str) and _CURSOR.fullmatch(cursor)):
            raise errors.PayloadInvalid(f"cursor: expected one that a list has returned, found {cursor!r}")
        after, _, shown = (cursor or "0").partition(".")
        return cls(
            prefix=prefix or "",
            limit=limit,
            after=int(after),
            own=params.get("own") or (),
            gone=frozenset(params.get("gone") or ()),
            shown=int(shown or 0),
        )


class StateReader:
    """Reads for the runs of one app."""

    def __init__(self, js: JetStream, stream: str, lanes: Lanes) -> None:
        self._js = js
        self._stream = stream
        self._lanes = lanes

    async def answer(self, run: Run, call: Call) -> Reply:
        """What a handler asks. Always an answer: without one the handler would hang until its timeout."""
        try:
            return Reply(call.id, result=await self._result(run, call.method, call.params))
        except errors.BemaError as error:
            return Reply(call.id, error=f"{type(error).__name__}: {error}")
        except Exception as error:
            log.exception("A handler's question, %s, cannot be answered", call.method, extra=run.log_fields)
            return Reply(call.id, error=f"{type(error).__name__}: {error}")

    async def _result(self, run: Run, method: str, params: Mapping[str, Any]) -> Any:
        match method:
            case "state.get":
                return await self.get(run, params["group"], params["key"])
            case "state.list":
                return await self.page(run, params["group"], Page.of(params))
            case "state.groups":
                return await self.groups(run, params.get("own") or (), params.get("gone") or {})
            case _:
                raise errors.WireInvalid(f"unknown method {method!r}")

    async def get(self, run: Run, group: str, key: str) -> Entry:
        """What the broker holds. Waits for a broker that is away, until the attempt's deadline."""
        if self._lanes.is_hot((group, key)):
            await self._lanes.enter((group, key), run)
        while True:
            try:
                entry = await self._entry(run, group, key)
                break
            except errors.BrokerUnavailable:
                if time.monotonic() > run.deadline:
                    raise
                await asyncio.sleep(0.1)
        # Of two reads at once the handler may use either value: the older one is guarded
        run.reads[group, key] = min(entry.revision, run.reads.get((group, key), entry.revision))
        return entry

    async def _entry(self, run: Run, group: str, key: str) -> Entry:
        stored = await self._js.get_last(self._stream, names.state(run.binding.root, group, key))
        if not lifetimes.is_there(stored, self._js.connection.clock.time()):
            return Entry(None, stored.sequence if stored else 0)
        return Entry(stored.data, stored.sequence, lifetimes.end(stored))

    async def page(self, run: Run, group: str, page: Page) -> tuple[list[tuple[str, Entry]], str | None]:
        """Entries of a group, the one first that was written first, and the cursor of the next page. It may lag behind
        other runs' commits. Keys of the run's own that are not there yet come last, without a value."""
        root = run.binding.root
        entries: dict[str, Entry] = {}
        last = page.after
        async for stored in self._js.scan(self._stream, names.state_filter(root, group), start=page.after + 1):
            key = names.state_of(root, stored.subject)[1]
            if not self._is_there(root, stored, page.gone) or not key.startswith(page.prefix):
                continue
            if len(entries) == page.limit:
                return list(entries.items()), str(last)
            entries[key] = Entry(stored.data, stored.sequence)
            last = stored.sequence
        for place, key in enumerate(page.own[page.shown :], start=page.shown):
            if key in entries or key in page.gone or not key.startswith(page.prefix):
                continue
            if not await self._is_new(run, group, key, page):
                continue
            if len(entries) == page.limit:
                return list(entries.items()), f"{last}.{place}"
            entries[key] = Entry(None)
        return list(entries.items()), None

    async def _is_new(self, run: Run, group: str, key: str, page: Page) -> bool:
        """Whether no page before this one has shown the key."""
        return page.after == 0 or (await self._entry(run, group, key)).value is None

    async def groups(self, run: Run, own: Collection[str], gone: Mapping[str, Collection[str]]) -> list[str]:
        """The groups that hold something, in order, with what the run has done laid over: `own` are those that it has
        written to, `gone` the keys that it has removed in each. It may lag behind other runs' commits."""
        root = run.binding.root
        keys: dict[str, set[str]] = {}
        for subject in await self._js.subjects(self._stream, names.state_filter(root)):
            group, key = names.state_of(root, subject)
            keys.setdefault(group, set()).add(key)
        asked = [group for group in keys if group not in own and not keys[group].issubset(gone.get(group, ()))]
        places = asyncio.Semaphore(_QUESTIONS)

        async def holds(group: str) -> bool:
            async with places:
                return await self._holds(root, group, gone.get(group, ()))

        held = await asyncio.gather(*map(holds, asked))
        return sorted({*own, *itertools.compress(asked, held)})

    async def _holds(self, root: str, group: str, gone: Collection[str]) -> bool:
        """Whether a group has a key beside those that are gone. What was removed stays as a message for a while."""
        pattern = names.state_filter(root, group)
        first = await self._js.get_next(self._stream, pattern)
        if first is None or self._is_there(root, first, gone):
            return first is not None
        async for stored in self._js.scan(self._stream, pattern, start=first.sequence + 1):
            if self._is_there(root, stored, gone):
                return True
        return False

    def _is_there(self, root: str, stored: Stored, gone: Collection[str]) -> bool:
        if names.state_of(root, stored.subject)[1] in gone:
            return False
        return lifetimes.is_there(stored, self._js.connection.clock.time())
