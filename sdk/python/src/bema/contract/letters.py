"""Dead letters: what their messages say, which of them a person means, and what a redrive carries on. Pure."""

from __future__ import annotations

import datetime
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from bema.contract import envelopes, errors, names
from bema.contract.effects import MAX_PAYLOAD_BYTES
from bema.contract.triggers import Kind

_OURS = ("nats-", "bema-")


@dataclass(frozen=True, slots=True, kw_only=True)
class Summary:
    """A run that failed for good, without the data of its event."""

    step: str
    run: str
    kind: str
    """What started the run: event, state or cron."""
    topic: str | None
    event: str | None
    """The event's id."""
    source: str | None
    """URI reference of the event's producer."""
    key: str | None
    """The event's key."""
    reason: str
    attempts: int
    time: str
    """When it became a dead letter, RFC 3339."""
    edited: str | None
    """When a person replaced its data, RFC 3339."""
    trace: str | None
    """W3C trace id."""
    ancestors: Sequence[str]
    """The runs that were redriven before this one failed, the latest first."""
    errors: Sequence[Mapping[str, Any]]
    """Each attempt's error, as far as they were kept: attempt, type, message, at, and perhaps traceback and details."""
    headers: Mapping[str, str]
    """The event's own headers."""
    size: int
    """Bytes of data."""
    omitted: int | None
    """The sequence of the event in the stream, where its data was too large to be kept in here."""
    sequence: int
    """Its revision: it changes with every edit."""

    @property
    def last_error(self) -> Mapping[str, Any] | None:
        return self.errors[-1] if self.errors else None


@dataclass(frozen=True, slots=True, kw_only=True)
class DeadLetter(Summary):
    """A run that failed for good, with the data of its event."""

    data: bytes
    raw: Mapping[str, str]
    """Headers of the message itself."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Filter:
    """Which dead letters are meant: those to which everything applies that is given."""

    step: str | None = None
    topic: str | None = None
    reason: str | None = None
    since: datetime.datetime | None = None
    """Dead at this time or later."""
    until: datetime.datetime | None = None
    """Dead before this time."""
    error: str | None = None
    """A part of the last error's type or message, in any case of letters."""

    def matches(self, letter: Summary) -> bool:
        return (
            self.step in (None, letter.step)
            and self.topic in (None, letter.topic)
            and self.reason in (None, letter.reason)
            and (self.since is None or moment(letter.time) >= self.since)
            and (self.until is None or moment(letter.time) < self.until)
            and (self.error is None or self.error.casefold() in _words(letter.last_error))
        )


def moment(text: str) -> datetime.datetime:
    """A time in RFC 3339. Raises `NameInvalid`."""
    try:
        found = datetime.datetime.fromisoformat(text)
    except ValueError:
        found = None
    if found is None or found.tzinfo is None:
        raise errors.NameInvalid(f"expected a time such as 2026-01-31T09:00:00Z, found {text!r}")
    return found


def _words(error: Mapping[str, Any] | None) -> str:
    return "" if error is None else f"{error.get('type')}\n{error.get('message')}".casefold()


def summary(step: str, run: str, headers: Mapping[str, str], *, sequence: int, stored: str, size: int) -> Summary:
    """What a dead letter's headers say. `stored` is the message's time, `size` the bytes of its data."""
    return Summary(
        **_fields(step, run, headers), time=headers.get(envelopes.DIED, stored), sequence=sequence, size=size
    )


def dead_letter(
    step: str, run: str, headers: Mapping[str, str], *, sequence: int, stored: str, data: bytes
) -> DeadLetter:
    """A whole dead letter. `stored` is the message's time."""
    return DeadLetter(
        **_fields(step, run, headers),
        time=headers.get(envelopes.DIED, stored),
        sequence=sequence,
        size=len(data),
        data=data,
        raw=headers,
    )


def _fields(step: str, run: str, headers: Mapping[str, str]) -> dict[str, Any]:
    return {
        "step": step,
        "run": run,
        "kind": headers.get(envelopes.KIND, Kind.EVENT),
        "topic": envelopes.attribute(headers, envelopes.TYPE) or None,
        "event": envelopes.attribute(headers, envelopes.ID),
        "source": headers.get(envelopes.SOURCE),
        "key": envelopes.attribute(headers, envelopes.KEY),
        "reason": headers.get(envelopes.REASON, ""),
        "attempts": _number(headers.get(envelopes.ATTEMPT)) or 0,
        "edited": headers.get(envelopes.EDITED),
        "trace": _trace(headers.get(envelopes.TRACE_PARENT)),
        "ancestors": _ancestors(headers.get(envelopes.ANCESTOR)),
        "errors": _errors(headers.get(envelopes.ERRORS, "[]")),
        "headers": envelopes.user_headers(headers),
        "omitted": _number(headers.get(envelopes.OMITTED)),
    }


def _number(text: str | None) -> int | None:
    return int(text) if text is not None and text.isascii() and text.isdigit() else None


def _trace(parent: str | None) -> str | None:
    parts = (parent or "").split("-")
    return parts[1] if len(parts) == 4 else None


def _errors(text: str) -> list[dict[str, Any]]:
    try:
        found = json.loads(text)
    except ValueError:
        return []
    return [entry for entry in found if isinstance(entry, dict)] if isinstance(found, list) else []


def _ancestors(nearest: str | None) -> list[str]:
    """The header names the nearest; each redrive counts on from the run before it, down to the one that an event
    started."""
    if nearest is None:
        return []
    earlier = [names.redrive(nearest, number) for number in range(names.redrives_of(nearest) - 1, 0, -1)]
    first = names.original(nearest)
    return [nearest, *earlier, *([first] if first != nearest else [])]


def carried(headers: Mapping[str, str]) -> dict[str, str]:
    """What an event came with: CloudEvents, trace and user headers, without what NATS and Bema wrote beside them."""
    return {name: value for name, value in headers.items() if not name.lower().startswith(_OURS)}


def redriven(letter: DeadLetter, run: str) -> dict[str, str]:
    """The headers of the message that starts a redrive as `run`: a first attempt, without a history. How many changes
    had caused each other is forgotten: a person breaks the loop, or sees it again."""
    return {
        **carried(letter.raw),
        envelopes.RUN: run,
        envelopes.ATTEMPT: "1",
        envelopes.ANCESTOR: letter.run,
        **({envelopes.KIND: letter.kind} if letter.kind == Kind.STATE else {}),
    }


def edited(letter: DeadLetter, now: str) -> dict[str, str]:
    """The headers of a dead letter whose data was replaced at `now`. It keeps all that it was, also its time."""
    kept = {name: value for name, value in letter.raw.items() if not name.lower().startswith("nats-")}
    kept.pop(envelopes.OMITTED, None)
    return {**kept, envelopes.DIED: letter.time, envelopes.EDITED: now}


def check_kind(letter: Summary) -> None:
    """Raise `NotRedrivable` for a run that neither an event nor a change started."""
    if letter.kind == Kind.CRON:
        raise errors.NotRedrivable(
            f"run {letter.run} was started by a schedule: expected an event to send again, found none; start the job "
            f"by hand (kubectl create job --from=cronjob/{names.workload(letter.step)} {letter.step}-by-hand), then "
            "discard the dead letter"
        )
    if letter.kind not in (Kind.EVENT, Kind.STATE):
        raise errors.NotRedrivable(
            f"run {letter.run}: expected a run that an event started, found one of kind {letter.kind!r}"
        )


def check_data(data: bytes) -> None:
    """Raise `PayloadInvalid` for what is no JSON, `PayloadTooLarge` for more than a payload may have."""
    try:
        json.loads(data, parse_constant=_refuse)
    except ValueError as error:
        raise errors.PayloadInvalid(f"expected JSON, found {data[:40]!r}: {error}") from error
    if len(data) > MAX_PAYLOAD_BYTES:
        raise errors.PayloadTooLarge(
            f"expected at most {MAX_PAYLOAD_BYTES:,} bytes of data, found {len(data):,}; put it elsewhere, send a link"
        )


def _refuse(constant: str) -> Any:
    raise ValueError(f"{constant} is not in JSON")
