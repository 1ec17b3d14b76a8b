"""Pages of messages without their data: what lists and counts read, however large the data is.

A direct get has no such form, a consumer has. So each page is a consumer that lives for one request: it settles
nothing, and nobody has to remember how far it was.
"""

from __future__ import annotations

import asyncio
import contextlib
import datetime
import json
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from bema.contract import errors, names
from bema.ports.connections import Message, publish_command
from bema.ports.jetstream import JetStream

BATCH = 256
_SECONDS = 5.0
_LIFETIME = 30_000_000_000
"""Nanoseconds after which the server removes a consumer whose deletion it did not hear."""
_SIZE = "Nats-Msg-Size"
_NOTHING_LEFT = ("404", "408")


@dataclass(frozen=True, slots=True)
class Head:
    """A message in a stream, without its data."""

    subject: str
    sequence: int
    time: str
    """When it was stored, RFC 3339."""
    size: int
    """Bytes of data."""
    headers: Mapping[str, str]


async def heads(
    js: JetStream, stream: str, subject_filter: str, *, after: int = 0, since: datetime.datetime | None = None
) -> list[Head]:
    """Up to `BATCH` messages that a filter matches, in order of sequence: those after a sequence or, without one,
    those stored since a time. Fewer mean that there are no more. It may lag behind writes."""
    name = names.listing(secrets.token_hex(8))
    config = {
        "name": name,
        **_start(after, since),
        "ack_policy": "none",
        "replay_policy": "instant",
        "filter_subject": subject_filter,
        "headers_only": True,
        "mem_storage": True,
        "num_replicas": 1,
        "inactive_threshold": _LIFETIME,
    }
    await js.api(f"CONSUMER.CREATE.{stream}.{name}", {"stream_name": stream, "config": config, "action": "create"})
    try:
        return await _page(js, stream, name)
    finally:
        with contextlib.suppress(errors.BrokerError):
            await js.api(f"CONSUMER.DELETE.{stream}.{name}")


def _start(after: int, since: datetime.datetime | None) -> dict[str, Any]:
    if after or since is None:
        return {"deliver_policy": "by_start_sequence", "opt_start_seq": after + 1}
    return {"deliver_policy": "by_start_time", "opt_start_time": since.isoformat()}


async def _page(js: JetStream, stream: str, consumer: str) -> list[Head]:
    found: list[Head] = []
    done: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def take(burst: list[Message]) -> None:
        for message in burst:
            if message.reply:
                found.append(_head(message))
            elif not done.done() and message.status not in _NOTHING_LEFT:
                done.set_exception(errors.BrokerRefused(int(message.status or 0), message.description))
        if not done.done() and (len(found) >= BATCH or not burst[-1].reply):
            done.set_result(None)

    inbox = js.connection.new_inbox()
    subscription = await js.connection.listen(inbox, take)
    try:
        body = json.dumps({"batch": BATCH, "no_wait": True}).encode()
        await js.connection.write(publish_command(f"$JS.API.CONSUMER.MSG.NEXT.{stream}.{consumer}", body, reply=inbox))
        await asyncio.wait_for(done, _SECONDS)
    except TimeoutError as error:
        raise errors.BrokerUnavailable(f"no answer from JetStream to a list within {_SECONDS:g} s") from error
    finally:
        await subscription.close()
    return found


def _head(message: Message) -> Head:
    # `$JS.ACK.<stream>.<consumer>.<delivered>.<seq>.<cseq>.<time>.<pending>`, or with domain and account before
    tokens = message.reply.split(".")
    first = 4 if len(tokens) == 9 else 6
    return Head(
        subject=message.subject,
        sequence=int(tokens[first + 1]),
        time=_rfc3339(int(tokens[first + 3])),
        size=int(message.headers.get(_SIZE, "0")),
        headers={name: value for name, value in message.headers.items() if name != _SIZE},
    )


def _rfc3339(nanoseconds: int) -> str:
    """A time as the server writes it elsewhere: without zeros at the end of its fraction."""
    seconds, fraction = divmod(nanoseconds, 1_000_000_000)
    time = datetime.datetime.fromtimestamp(seconds, datetime.UTC).isoformat().removesuffix("+00:00")
    return f"{time}.{fraction:09d}".rstrip("0").rstrip(".") + "Z"
