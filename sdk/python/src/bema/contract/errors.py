"""The errors of Bema that users and other packages meet.

BemaError
├── Invalid                 something a user wrote is wrong; the message names what was expected and found
│   ├── NameInvalid         a string that cannot be part of a name
│   ├── StepInvalid         a config, manifest or handler that is no Step
│   ├── AppInvalid          a manifest that is no App
│   ├── WireInvalid         a message between a runtime and its worker that is none
│   └── NotSupported        right, but this version does not act on it
├── HandlerError            what a handler may raise to steer its run
│   ├── BatchInvalid        an item of a batch that is not there
│   ├── NonRetryable        no retry: a dead letter now
│   ├── RetryAfter          retry after a time of the handler's choice
│   └── HttpError           an api Step's answer
├── EffectRefused           an effect that was refused before anything was written
│   ├── UndeclaredTopic     an emit on a topic that the Step does not declare
│   ├── ReservedHeader      a header whose name belongs to NATS, CloudEvents or Bema
│   ├── PayloadInvalid      data that is no JSON, or not what the topic's schema says
│   ├── PayloadTooLarge     one payload above the limit
│   ├── TooManyEffects      more effects or bytes than one commit may carry
│   ├── TimeInvalid         a delay, a time or a lifetime that cannot be one
│   ├── RevisionConflict    a write that expected another revision
│   └── RunEnded            a context used after its handler returned
├── DeadLetterError         a dead letter that is left as it is
│   ├── NotRedrivable       sending it again could not help; the message says what would
│   └── DeadLetterMoved     somebody else redrove, discarded or changed it meanwhile
└── BrokerError             the broker did not do what was asked
    ├── BrokerUnavailable   nobody answered; whether it happened may be unknown
    ├── BrokerRefused       an answer that says no, with the server's code
    │   └── TooFewServers   more copies of a stream than there are servers for them
    ├── BrokerTooOld        a server that lacks what Bema needs
    ├── AppStreamOwned      the app's stream belongs to another installation or namespace
    └── AppStorageFull      the app's storage is nearly used up: no events are added from outside
"""

from __future__ import annotations

import math
from typing import Any


class BemaError(Exception):
    """The root of Bema's errors."""


class Invalid(BemaError, ValueError):
    """Something a user wrote is wrong."""


class NameInvalid(Invalid):
    """A string that cannot be part of a name."""


class StepInvalid(Invalid):
    """A config, manifest or handler that is no Step."""


class AppInvalid(Invalid):
    """A manifest that is no App."""


class WireInvalid(Invalid):
    """A message between a runtime and its worker process that is none."""


class HandlerError(BemaError):
    """What a handler may raise to steer its run."""


class BatchInvalid(HandlerError):
    """An item of a batch that is not there, or a batch where there is none."""


class NonRetryable(HandlerError):
    """Retrying cannot help: the event becomes a dead letter now."""


class RetryAfter(HandlerError):
    """Try again after `seconds`, in place of the policy's delay, 366 days at most. Counts as an attempt. Raises
    `TimeInvalid` for what is no time from 0 on."""

    def __init__(self, seconds: float, reason: str = "") -> None:
        self.seconds = check_seconds(seconds, what="RetryAfter")
        super().__init__(reason or f"retry after {self.seconds:g} s")


def check_seconds(seconds: Any, *, what: str) -> float:
    """Raises `TimeInvalid` that names `what` for what is no time from 0 on."""
    if isinstance(seconds, bool) or not isinstance(seconds, int | float) or not seconds >= 0:
        raise TimeInvalid(f"{what}: expected seconds from 0 on, found {seconds!r}")
    try:
        return float(seconds)
    except OverflowError:
        return math.inf


class HttpError(HandlerError):
    """The answer of an api Step: `status` 400 to 599, `detail` is shown to the caller. Nothing is committed."""

    def __init__(self, status: int, detail: str = "", *, headers: dict[str, str] | None = None) -> None:
        super().__init__(detail or f"HTTP {status}")
        self.status = status
        self.detail = detail
        self.headers = headers or {}


class EffectRefused(BemaError):
    """An effect that was refused before anything was written."""


class UndeclaredTopic(EffectRefused):
    """An emit on a topic that the Step does not declare."""


class ReservedHeader(EffectRefused):
    """A header whose name belongs to NATS, CloudEvents or Bema."""


class PayloadInvalid(EffectRefused):
    """Data that is no JSON, or not what the schema says."""


class PayloadTooLarge(EffectRefused):
    """One payload above the limit."""


class TooManyEffects(EffectRefused):
    """More effects or bytes than one commit may carry."""


class TimeInvalid(EffectRefused):
    """A delay, a time or a lifetime that cannot be one."""


class RevisionConflict(EffectRefused):
    """A write that expected another revision of its key. `found` is the revision that is there, 0 for none."""

    def __init__(self, message: str, *, expected: int, found: int) -> None:
        super().__init__(message)
        self.expected = expected
        self.found = found


class RunEnded(EffectRefused):
    """A context used after its handler returned."""


class DeadLetterError(BemaError):
    """A dead letter that is left as it is."""


class NotRedrivable(DeadLetterError):
    """Sending it again could not help; the message says what would."""


class DeadLetterMoved(DeadLetterError):
    """Somebody else redrove, discarded or changed it meanwhile."""


class BrokerError(BemaError):
    """The broker did not do what was asked."""


class BrokerUnavailable(BrokerError):
    """Nobody answered. Whether a write happened may be unknown."""


class BrokerRefused(BrokerError):
    """The server answered no. `code` is JetStream's error code."""

    def __init__(self, code: int, description: str) -> None:
        super().__init__(f"{description} ({code})")
        self.code = code
        self.description = description


class TooFewServers(BrokerRefused):
    """There are not as many servers as a stream is to have copies. What was there is as it was."""


class BrokerTooOld(BrokerError):
    """A server that lacks what Bema needs; the message names the version needed."""


class AppStreamOwned(BrokerError):
    """The app's stream belongs to another installation or namespace."""


class PlaceTaken(BrokerError):
    """Another Step has taken over the place that this one was to have."""

    def __init__(self, former: str, holder: str) -> None:
        super().__init__(
            f"the Step {holder} has taken over the place of {former} (adoptFrom), which one Step alone can. To go on "
            f"from there, delete this Step and apply it with adoptFrom: {holder}; to begin afresh, apply it without "
            "adoptFrom"
        )


class AppStorageFull(BrokerError):
    """The app's storage is nearly used up. Nothing was written; it works again when events were settled and removed."""
