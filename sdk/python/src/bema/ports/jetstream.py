"""JetStream, as much of it as Bema uses, over plain requests: the API, reads, and atomic batches.

A thin client of ours, because the library's has no atomic batch, and re-saving a consumer through it would drop
fields that it does not know.
"""

from __future__ import annotations

import asyncio
import base64
import json
import secrets
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from bema.contract import errors
from bema.ports.connections import Connection, Message, parse_headers, publish_command

NO_MESSAGE = 10037
"""There is no message with that sequence or on that subject."""
STREAM_NOT_FOUND = 10059
CONSUMER_NOT_FOUND = 10014
WRONG_SEQUENCE = (10071, 10164)
"""The subject's last message is not the expected one; the latter code while another publish is under way."""

PURGE_SECONDS = 30.0
"""How long a purge may take on a busy server."""

_SUBJECTS = 100_000
"""Subjects that the server names in one answer."""

_NO_LEADER = frozenset((10008, 10009))
"""A cluster without a quorum, or between two leaders, says so: it is away, and has refused nothing."""

MAX_HEADERS = 65_535
"""Bytes of a message's headers that the server stores."""

BATCH_PREFIX = "Nats-Batch-"
BATCH_ID = "Nats-Batch-Id"
BATCH_SEQUENCE = "Nats-Batch-Sequence"
BATCH_COMMIT = "Nats-Batch-Commit"
EXPECTED_PREFIX = "Nats-Expected-"
EXPECTED_LAST = "Nats-Expected-Last-Subject-Sequence"
ROLLUP = "Nats-Rollup"
TTL = "Nats-TTL"
DAY = "86400s"
"""A day, as that header says it."""
SCHEDULE = "Nats-Schedule"
SCHEDULE_TARGET = "Nats-Schedule-Target"
SCHEDULER = "Nats-Scheduler"
"""On what the server has sent for a schedule: the schedule's subject."""


def is_wrong_sequence(error: errors.BrokerError) -> bool:
    """Whether the server refuses what expects another sequence."""
    return isinstance(error, errors.BrokerRefused) and error.code in WRONG_SEQUENCE


def new_batch_id() -> str:
    return secrets.token_hex(8)


@dataclass(frozen=True, slots=True)
class Stored:
    """A message in a stream. Its sequence is the revision of what it holds."""

    subject: str
    sequence: int
    time: str
    """When it was stored, RFC 3339."""
    data: bytes
    headers: Mapping[str, str]


@dataclass(slots=True)
class Outgoing:
    """A message to be stored, alone or as part of a batch."""

    subject: str
    data: bytes = b""
    headers: dict[str, str] = field(default_factory=dict)
    expected: int | None = None
    """The sequence that must be the subject's last; 0 for none; None to write whatever is there."""


class JetStream:
    """Requests to JetStream over one connection."""

    def __init__(self, connection: Connection) -> None:
        self.connection = connection

    async def api(self, endpoint: str, request: Mapping[str, Any] | None = None, *, timeout: float = 5.0) -> Any:
        """One call of the JetStream API. Raises `BrokerRefused` with the server's code, or `BrokerUnavailable`."""
        body = json.dumps(request).encode() if request is not None else b""
        asked = time.monotonic()
        answer = await self.connection.request(f"$JS.API.{endpoint}", body, timeout=timeout)
        result = _result(answer)
        if "ts" in result:
            self.connection.clock.hear(result["ts"], took=time.monotonic() - asked)
        return result

    async def get_last(self, stream: str, subject: str, *, timeout: float = 5.0) -> Stored | None:
        """The last message on a subject, from the stream's leader, or None."""
        return await self._get(stream, {"last_by_subj": subject}, timeout)

    async def get_next(self, stream: str, subject_filter: str, *, start: int = 1) -> Stored | None:
        """The first message from a sequence on that a filter matches, from the stream's leader, or None."""
        return await self._get(stream, {"next_by_subj": subject_filter, "seq": start})

    async def get_all(self, stream: str, subject_filter: str) -> list[Stored]:
        """Every message that a filter matches, from the stream's leader, with a request for each: for few of them,
        where a copy that lags behind would do harm."""
        found: list[Stored] = []
        while (
            stored := await self.get_next(stream, subject_filter, start=found[-1].sequence + 1 if found else 1)
        ) is not None:
            found.append(stored)
        return found

    async def get_since(self, stream: str, time: str) -> Stored | None:
        """The first message stored at a time or later, RFC 3339, from the stream's leader, or None."""
        return await self._get(stream, {"next_by_subj": ">", "start_time": time})

    async def _get(self, stream: str, request: Mapping[str, Any], timeout: float = 5.0) -> Stored | None:
        try:
            answer = await self.api(f"STREAM.MSG.GET.{stream}", request, timeout=timeout)
        except errors.BrokerRefused as refused:
            if refused.code == NO_MESSAGE:
                return None
            raise
        return _stored(answer["message"])

    async def subjects(self, stream: str, subject_filter: str) -> list[str]:
        """Every subject that a filter matches and that holds a message."""
        found: list[str] = []
        while True:
            request = {"subjects_filter": subject_filter, "offset": len(found)}
            page = (await self.api(f"STREAM.INFO.{stream}", request))["state"].get("subjects") or {}
            found.extend(page)
            if len(page) < _SUBJECTS:
                return found

    async def get(self, stream: str, sequence: int) -> Stored | None:
        """The message with a sequence, from the stream's leader, or None when there is none any more."""
        return await self._get(stream, {"seq": sequence})

    async def purge(self, stream: str, subject_filter: str, *, below: int | None) -> int:
        """Remove the messages that a filter matches and whose sequence is lower, or all of them; how many those
        were."""
        request = {"filter": subject_filter, **({} if below is None else {"seq": below})}
        answer = await self.api(f"STREAM.PURGE.{stream}", request, timeout=PURGE_SECONDS)
        return int(answer["purged"])

    async def delete(self, stream: str, sequence: int) -> bool:
        """Remove the message with a sequence, and no other; whether it was there."""
        try:
            await self.api(f"STREAM.MSG.DELETE.{stream}", {"seq": sequence, "no_erase": True})
        except errors.BrokerRefused:
            # The same code for whatever the reason is
            if await self.get(stream, sequence) is not None:
                raise
            return False
        return True

    async def scan(self, stream: str, subject_filter: str, *, start: int = 1) -> AsyncIterator[Stored]:
        """Every message that a filter matches, in order of sequence. It may lag behind writes."""
        sequence = start
        while (found := await self._page(stream, subject_filter, sequence)) is not None:
            messages, more = found
            for message in messages:
                yield message
                sequence = message.sequence + 1
            if not more:
                return

    async def _page(self, stream: str, subject_filter: str, sequence: int) -> tuple[list[Stored], bool] | None:
        """Up to 256 messages in one request: the server answers with many and ends with an empty one (204)."""
        inbox = self.connection.new_inbox()
        page = _Page()
        subscription = await self.connection.listen(inbox, page.take)
        try:
            body = json.dumps({"next_by_subj": subject_filter, "seq": sequence, "batch": 256}).encode()
            await self.connection.write(publish_command(f"$JS.API.DIRECT.GET.{stream}", body, reply=inbox))
            messages = await page.wait(5.0)
        finally:
            await subscription.close()
        return (messages, page.pending > 0) if messages else None

    async def publish(self, message: Outgoing, *, timeout: float = 5.0) -> int:
        """Store one message; its sequence. Raises `BrokerRefused`, `BrokerUnavailable` or `PayloadTooLarge`."""
        return await self._send(b"", message, "", timeout)

    async def publish_batch(
        self, messages: Sequence[Outgoing], *, id: str = "", always: bool = False, timeout: float = 5.0
    ) -> int:
        """Store all messages or none; the sequence of the last. `id` is the batch's, at most 64 characters; a message
        alone goes without, which is faster, unless `always` a batch is asked for, to be told by its id. Raises
        `BrokerRefused`, after which it *may* have happened all the same (an earlier copy of the batch), or
        `BrokerUnavailable`, after which nobody knows; or `PayloadTooLarge`, and nothing was sent."""
        if len(messages) == 1 and not always:
            return await self.publish(messages[0], timeout=timeout)
        batch = f"{BATCH_ID}: {id or new_batch_id()}\r\n{BATCH_SEQUENCE}: "
        largest = self.connection.max_payload
        head = b"".join(
            [
                publish_command(message.subject, message.data, _block(message, f"{batch}{number}\r\n", largest))
                for number, message in enumerate(messages[:-1], start=1)
            ]
        )
        return await self._send(head, messages[-1], f"{batch}{len(messages)}\r\n{BATCH_COMMIT}: 1\r\n", timeout)

    async def _send(self, head: bytes, last: Outgoing, extra: str, timeout: float) -> int:
        block = _block(last, extra, self.connection.max_payload)
        if not self.connection.is_known:
            raise errors.BrokerUnavailable("the connection to NATS is back, and its stream was not looked at yet")
        answer = await self.connection.request(last.subject, last.data, headers=block, before=head, timeout=timeout)
        result = _result(answer)
        return int(result["seq"])


def _block(message: Outgoing, extra: str, largest: int) -> bytes:
    """A message's headers as protocol bytes. Raises `PayloadTooLarge` for a message that the server would answer by
    closing the connection, or refuse however often it is sent."""
    own = "".join([f"{name}: {value}\r\n" for name, value in message.headers.items()])
    expected = "" if message.expected is None else f"{EXPECTED_LAST}: {message.expected}\r\n"
    block = f"NATS/1.0\r\n{own}{expected}{extra}\r\n".encode()
    size = len(block) + len(message.data)
    if size > largest or len(block) > MAX_HEADERS:
        raise errors.PayloadTooLarge(
            f"{message.subject}: expected at most {largest} bytes, {MAX_HEADERS} of them headers, found {size}, "
            f"{len(block)} of them headers"
        )
    return block


class _Page:
    """Collects the answers to one batched direct get."""

    def __init__(self) -> None:
        self.pending = 0
        self._messages: list[Stored] = []
        self._done = asyncio.Event()
        self._error: errors.BrokerError | None = None

    def take(self, burst: list[Message]) -> None:
        for message in burst:
            if message.status is None or _is_stored(message):
                self._messages.append(_direct(message))
                self.pending = int(message.headers.get("Nats-Num-Pending", "0"))
                continue
            if message.status == "204":
                self.pending = int(message.headers.get("Nats-Num-Pending", self.pending))
            elif message.status != "404":
                self._error = errors.BrokerRefused(int(message.status), message.description)
            self._done.set()

    async def wait(self, timeout: float) -> list[Stored]:
        try:
            await asyncio.wait_for(self._done.wait(), timeout)
        except TimeoutError as error:
            raise errors.BrokerUnavailable(f"no answer from JetStream to a read within {timeout:g} s") from error
        if self._error is not None:
            raise self._error
        return self._messages


def _result(answer: Message) -> Any:
    if answer.status == "503":
        raise errors.BrokerUnavailable("JetStream does not answer: no responders")
    try:
        result = json.loads(answer.data)
    except ValueError as error:
        raise errors.BrokerUnavailable(f"JetStream answered {answer.data[:80]!r}") from error
    if "error" in result:
        code = int(result["error"].get("err_code", result["error"].get("code", 0)))
        description = str(result["error"].get("description", "refused"))
        if code in _NO_LEADER:
            raise errors.BrokerUnavailable(f"{description} ({code})")
        raise errors.BrokerRefused(code, description)
    return result


def _stored(message: Mapping[str, Any]) -> Stored:
    return Stored(
        subject=message["subject"],
        sequence=int(message["seq"]),
        time=message["time"],
        data=base64.b64decode(message.get("data") or ""),
        headers=parse_headers(base64.b64decode(message.get("hdrs") or "")),
    )


def _is_stored(message: Message) -> bool:
    """Whether an answer is a message of the stream: its own headers may have the names of the server's status."""
    return "Nats-Subject" in message.headers


def _direct(message: Message) -> Stored:
    return Stored(
        subject=message.headers["Nats-Subject"],
        sequence=int(message.headers["Nats-Sequence"]),
        time=message.headers["Nats-Time-Stamp"],
        data=message.data,
        headers={name: value for name, value in message.headers.items() if name not in _DIRECT},
    )


_DIRECT = frozenset(
    ("Nats-Stream", "Nats-Subject", "Nats-Sequence", "Nats-Time-Stamp", "Nats-Num-Pending", "Nats-Last-Sequence")
)
