"""Golden vectors: inputs listed here, results from the Python contract, read by every language's tests.

A file is `{"about": …, "cases": […]}`. Each case has a sentence as its `id`, and a `result` or the name of an `error`;
messages are each language's own. Instants and ids are given, so that nothing here depends on a clock.
"""

# ruff: noqa: S106 (a token here is a part of a subject)

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import Any

from bema.contract import bindings, envelopes, errors, names, operations, retries, wires
from bema.contract.retries import RetryPolicy
from bema.contract.steps import Step
from tools.wire_vectors import WIRES

Case = dict[str, Any]

ROOT = "bema.shop"
RUN = "0123456789abcdefghjkmnpqrs"


def all_files() -> dict[str, Case]:
    """The content of each file, by its name without the ending."""
    return {
        name: {"about": about, "cases": [{**case, **outcome(name, case)} for case in inputs]}
        for name, (about, inputs, _) in _files().items()
    }


def outcome(name: str, case: Case) -> Case:
    """What Python makes of a case of file `name`: a result, or the name of an error."""
    run = _files()[name][2]
    try:
        return {"result": run(case)}
    except errors.BemaError as error:
        return {"error": type(error).__name__}


def _files() -> dict[str, tuple[str, Sequence[Case], Callable[[Case], Any]]]:
    retries_about = (
        "What follows failed attempt `attempt` under `policy`, when chance says `chance` (in [0, 1)). Delays are in "
        "seconds and may differ in the last digits."
    )
    operations_about = (
        "A new value from `value` and `operations`, applied in order. A path is a list, or text with "
        "dots. Up to 15 digits without zeros in front are a place in a list, and a key elsewhere."
    )
    wires_about = (
        "A message between a runtime and a worker, read by the one that it is `to` and written again: what is as it is "
        "by default, and what is not known, is gone. The `line` is JSON, so that nothing of it is lost on the way here."
    )
    return {
        "names": ("Names: call `function` with `arguments`.", NAMES, _name),
        "envelopes": ("The NATS headers of an event.", ENVELOPES, _envelope),
        "headers": ("Headers that a user gives to an emit: accepted, or refused.", HEADERS, _header),
        "retries": (retries_about, RETRIES, _retry),
        "operations": (operations_about, OPERATIONS, _operation),
        "bindings": ("A Step, its owner and its installation give a Binding.", BINDINGS, _binding),
        "wires": (wires_about, WIRES, _wire),
    }


def _name(case: Case) -> Any:
    result = getattr(names, case["function"])(**case["arguments"])
    return list(result) if isinstance(result, tuple) else result


def _envelope(case: Case) -> Any:
    event = case["event"]
    return envelopes.encode(envelopes.Event(**{**event, "data": event["data"].encode()}))


def _header(case: Case) -> None:
    envelopes.check_headers(case["headers"])


def _retry(case: Case) -> Any:
    action = retries.next_action(
        RetryPolicy.model_validate(case["policy"]),
        case["attempt"],
        retryable=case["retryable"],
        retry_after=case["retryAfter"],
        chance=case["chance"],
    )
    match action:
        case retries.Retry():
            return {"retry": {"seconds": action.seconds, "attempt": action.attempt}}
        case retries.GiveUp():
            return {"giveUp": action.reason}


def _operation(case: Case) -> Any:
    return operations.apply(case["value"], [_one(item) for item in case["operations"]])


def _one(item: Case) -> operations.Operation:
    path = item.get("path", "")
    value: Any = item.get("value")
    match operations.Operator(item["operator"]):
        case operations.Operator.SET:
            return operations.set(path, value)
        case operations.Operator.MERGE:
            return operations.merge(value, path)
        case operations.Operator.INCREMENT:
            return operations.increment(path, value)
        case operations.Operator.DECREMENT:
            return operations.decrement(path, value)
        case operations.Operator.APPEND:
            return operations.append(value, path)
        case operations.Operator.REMOVE:
            return operations.remove(path)


def _wire(case: Case) -> Any:
    message = json.loads(case["line"])
    return wires.encode((wires.decode_for_worker if case["to"] == "worker" else wires.decode_for_runtime)(message))


def _binding(case: Case) -> Any:
    return bindings.bind(
        Step.model_validate(case["step"]),
        bindings.Owner.model_validate(case["owner"]),
        bindings.Installation.model_validate(case["installation"]),
    ).dump()


def _call(id_: str, function: str, **arguments: Any) -> Case:
    return {"id": id_, "function": function, "arguments": arguments}


NAMES: tuple[Case, ...] = (
    _call("letters, digits and _-/:@ stay as they are", "encode", text="Az09_-/:@"),
    _call("a dot is escaped in a token", "encode", text="order.created"),
    _call("the empty string is a lone equals sign", "encode", text=""),
    _call("an equals sign is escaped", "encode", text="a=b"),
    _call("what NATS gives a meaning is escaped", "encode", text="* > $ %"),
    _call("a tab, a newline and a NUL are escaped", "encode", text="\t\n\0"),
    _call("other letters are escaped byte by byte", "encode", text="müller/東京"),
    _call("an emoji is four bytes", "encode", text="🛒"),
    _call("a combining accent is not composed", "encode", text="e\u0301"),
    _call("a token may have 1024 characters", "encode", text="a" * 1024),
    _call("1025 characters are too many", "encode", text="a" * 1025),
    _call("342 escaped characters are too many", "encode", text=" " * 342),
    _call("a lone surrogate is refused", "encode", text="\ud800"),
    _call("a token is decoded", "decode", token="m=C3=BCller/=E6=9D=B1"),
    _call("a lone equals sign is the empty string", "decode", token="="),
    _call("lower-case escapes are nobody's", "decode", token="a=3db"),
    _call("an escape that was not needed is nobody's", "decode", token="=41"),
    _call("an escape that is no UTF-8 is nobody's", "decode", token="=C3"),
    _call("a space is in no token", "decode", token="a b"),
    _call("the empty token is nobody's", "decode", token=""),
    _call("dots between the parts of a topic stay", "encode_topic", topic="order.line.added"),
    _call("a dot at the start of a topic is escaped", "encode_topic", topic=".order"),
    _call("a dot at the end of a topic is escaped", "encode_topic", topic="order."),
    _call("dots side by side are escaped", "encode_topic", topic="order..created"),
    _call("a topic that is one dot is escaped", "encode_topic", topic="."),
    _call("wildcards in a topic are escaped", "encode_topic", topic="order.*.>"),
    _call("spaces and other letters in a topic are escaped", "encode_topic", topic="bestellung.größe geändert"),
    _call("the empty topic is a lone equals sign", "encode_topic", topic=""),
    _call("a topic may have 1024 characters once encoded", "encode_topic", topic="a." * 511 + "ab"),
    _call("a topic of 1025 characters is too long", "encode_topic", topic="a." * 512 + "a"),
    _call("a topic is decoded", "decode_topic", encoded="order.gr=C3=B6=C3=9Fe"),
    _call("dots side by side are nobody's topic", "decode_topic", encoded="order..created"),
    _call("an escaped dot that could have stayed is nobody's topic", "decode_topic", encoded="order=2Ecreated"),
    _call("camel case becomes a label", "label", text="ChargePayment"),
    _call("snake case becomes the same label", "label", text="charge_payment"),
    _call("a label stays as it is", "label", text="charge-payment"),
    _call("spaces and dots become hyphens", "label", text="Charge Payment v1.2"),
    _call("another character adds a hash", "label", text="charge payment!"),
    _call("a name without any letter gets a hash", "label", text="東京"),
    _call("a long name is cut and gets a hash", "label", text="a" * 60),
    _call("47 characters are a Step's name", "is_label", text="a" * 47, limit=47),
    _call("48 characters are not a Step's name", "is_label", text="a" * 48, limit=47),
    _call("a hyphen does not end a label", "is_label", text="charge-"),
    _call("upper case is no label", "is_label", text="Charge"),
    _call("an app is its namespace", "app_id", namespace="shop"),
    _call("an app of a named installation has both names", "app_id", namespace="shop", installation="blue"),
    _call("an app's stream", "stream", namespace="shop"),
    _call("an app's stream in a named installation", "stream", namespace="shop", installation="blue"),
    _call("an app's root", "root", namespace="shop"),
    _call("an app's root in a named installation", "root", namespace="shop", installation="blue"),
    _call("the root of a stream's app", "root_of_stream", stream="BEMA-blue_shop"),
    _call("everything of an app", "everything", root=ROOT),
    _call("no key is partition 0", "partition", key=None, partitions=8),
    _call("the empty key has a partition like any other", "partition", key="", partitions=8),
    _call("a key's partition is its crc32 modulo the partitions", "partition", key="customer-1", partitions=8),
    _call("a key in other letters is hashed as UTF-8", "partition", key="müller", partitions=8),
    _call("an event's subject", "event", root=ROOT, topic="order.created", partition=3),
    _call("a topic's filter", "event_filter", root=ROOT, topic="order.created"),
    _call("a filter of one partition of a topic", "event_filter", root=ROOT, topic="order.created", partition=3),
    _call("all events", "events", root=ROOT),
    _call("what events begin with", "event_prefix", root=ROOT),
    _call("the topic of an event's subject", "topic_of", root=ROOT, subject="bema.shop.evt.live.3.order.created"),
    _call("a state subject has no topic", "topic_of", root=ROOT, subject="bema.shop.state.orders.1"),
    _call("another app's event has no topic here", "topic_of", root=ROOT, subject="bema.shop2.evt.live.0.a"),
    _call("a retry's subject", "retry", root=ROOT, step="charge", run=RUN),
    _call("a Step's retries", "retry_filter", root=ROOT, step="charge"),
    _call("all retries", "retries", root=ROOT),
    _call("what retries begin with", "retry_prefix", root=ROOT),
    _call("Step and run of a retry", "retry_of", root=ROOT, subject=f"bema.shop.retry.charge.{RUN}"),
    _call("an event's subject is no retry's", "retry_of", root=ROOT, subject="bema.shop.evt.live.0.a"),
    _call("a timer's subject", "timer", root=ROOT, timer_id="remind me"),
    _call("all timers", "timers", root=ROOT),
    _call("a retry's timer", "retry_timer", root=ROOT, step="charge", run=RUN),
    _call("the timers of a Step's retries", "retry_timers", root=ROOT, step="charge"),
    _call("a state subject", "state", root=ROOT, group="orders", key="2026.01/№ 7"),
    _call("an empty key has a subject", "state", root=ROOT, group="orders", key=""),
    _call("all keys of a group", "state_filter", root=ROOT, group="order lines"),
    _call("group and key of a state subject", "state_of", root=ROOT, subject="bema.shop.state.order=20lines.=2E"),
    _call("an event's subject has no group", "state_of", root=ROOT, subject="bema.shop.evt.live.0.a"),
    _call("a run's end", "end", root=ROOT, step="charge", kind="event", run=RUN),
    _call("a Step's ends of one kind", "ends_of_kind", root=ROOT, step="charge", kind="event"),
    _call("a Step's ends", "end_filter", root=ROOT, step="charge"),
    _call("the mark of an event's id", "dedup", root=ROOT, topic="order.created", event_id="o 1"),
    _call("a dead letter's subject", "dead_letter", root=ROOT, step="charge", run=RUN),
    _call("a Step's dead letters", "dead_letter_filter", root=ROOT, step="charge"),
    _call("all dead letters", "dead_letter_filter", root=ROOT),
    _call("Step and run of a dead letter", "dead_letter_of", root=ROOT, subject=f"bema.shop.dlq.charge.{RUN}"),
    _call("the run of a first redrive", "redrive", run=RUN, number=1),
    _call("the run of a later redrive", "redrive", run=f"{RUN}~1", number=2),
    _call("a run that an event started", "redrives_of", run=RUN),
    _call("a run that a second redrive started", "redrives_of", run=f"{RUN}~2"),
    _call("a run whose ending is no number", "redrives_of", run=f"{RUN}~x"),
    _call("a redrive's original run", "original", run=f"{RUN}~2"),
    _call("a consumer for one page of a list", "listing", token="0a1b"),
    _call("a subject for what is known about an app", "meta", root=ROOT, what="floor"),
    _call("the recorded floor of a consumer", "floor", root=ROOT, durable="charge"),
    _call("all recorded floors", "floors", root=ROOT),
    _call("how full the storage is", "quota", root=ROOT),
    _call("what changes of watched state begin with", "change_prefix", root=ROOT),
    _call("all changes of watched state", "changes", root=ROOT),
    _call("all ticks", "ticks", root=ROOT),
    _call("a Step's consumer", "durable", step="charge"),
    _call("a Step's consumer of a partition", "durable", step="charge", partition=3),
    _call("where a Step's processes meet", "members", root=ROOT, step="charge"),
    _call("an event's run", "run_of_event", step="charge", source="/shop", event_id="o1"),
    _call("the same event's run in another Step", "run_of_event", step="ship", source="/shop", event_id="o1"),
    _call("the same id from another source", "run_of_event", step="charge", source="/other", event_id="o1"),
    _call("parts of an id do not run into each other", "run_of_event", step="charge", source="", event_id="/shopo1"),
    _call("a change of a key", "change", root="bema.shop", group="orders", key="o 1", partitions=8),
    _call("the changes of a group", "change_filter", root="bema.shop", group="orders", key=None, partition=None),
    _call("the changes of a key in a partition", "change_filter", root="bema.shop", group="a.b", key="k", partition=3),
    _call("group and key of a change", "change_of", root="bema.shop", subject="bema.shop.chg.3.a=2Eb.k"),
    _call("the id of a change", "changed_event", run="r1", number=2),
    _call("what a Step watches", "watch", root="bema.shop", step="pay"),
    _call("what every Step watches", "watch", root="bema.shop"),
    _call("whose place a Step has taken over", "adoption", root="bema.shop", step="pay"),
    _call("who has taken over a Step's place", "adopter", root="bema.shop", former="pay"),
    _call(
        "a run that may end its process",
        "suspect",
        root="bema.shop",
        step="pay",
        run="0af7651916cd43dd8448eb211c80319c",
    ),
    _call("a tick that has begun", "begun", root="bema.shop", step="report", trigger=0, tick=1_767_225_600),
    _call("the ticks that have begun", "begun_filter", root="bema.shop", step="report", trigger=0),
    _call("the time of a tick that has begun", "begun_of", subject="bema.shop.meta.begun.report.0.1767225600"),
    _call("the Step of a consumer", "step_of_durable", durable="pay"),
    _call("the Step of a partition's consumer", "step_of_durable", durable="pay_3"),
    _call("a tick's run", "run_of_tick", step="report", nominal=1_767_225_600),
    _call("the run of a Job that somebody started", "run_of_job", step="report", job="report-by-hand"),
    _call(
        "the id of a message without one",
        "foreign_event",
        stream_created="2026-01-01T00:00:00Z",
        sequence=17,
        timestamp="2026-01-02T03:04:05.678Z",
    ),
    _call("the id of a run's second emit", "emitted_event", run=RUN, number=2),
    _call("a new id from a time and chance", "new_id", milliseconds=1_767_225_600_000, randomness=2**52 + 1),
    _call("a Step's workload", "workload", step="charge"),
    _call(
        "a ConfigMap's name has ten digits of its content's hash", "config_map", step="charge", digest="0123456789ab"
    ),
    _call("a ConfigMap's key for a path", "code_key", path="steps/charge_payment_step.py"),
    _call("a dot that begins a path is escaped", "code_key", path="..env/x.py"),
    _call("a long path's key is a hash", "code_key", path="a/" * 150),
)


def _event(id_: str, **changes: Any) -> Case:
    event = {
        "id": "o1",
        "topic": "order.created",
        "source": envelopes.source("shop", "take-order"),
        "time": "2026-01-02T03:04:05.678Z",
        "data": '{"order":1}',
    }
    return {"id": id_, "event": event | changes}


ENVELOPES: tuple[Case, ...] = (
    _event("an event with what every event has"),
    _event("an event with a key and a trace", key="customer-1", trace_parent=f"00-{'a' * 32}-{'b' * 16}-01"),
    _event("an empty key is a key", key=""),
    _event("spaces, quotes, percent signs and other letters are percent-encoded", id='50 % "off"', key="müller 🛒"),
    _event("line ends cannot leave a header", key="a\r\nNats-Rollup: all"),
    _event("a topic with a wildcard", topic="order.*"),
    _event("the producer's own headers stay as they are", headers={"X-Tenant": "acme", "x-note": "50 % off"}),
    _event("a key with a lone surrogate is refused", key="\udc00"),
    _event("an id with a lone surrogate is refused", id="\udc00"),
)

HEADERS: tuple[Case, ...] = (
    {"id": "no headers are fine", "headers": {}},
    {"id": "printable ASCII is fine", "headers": {"X-Tenant": "acme corp; v=1"}},
    {"id": "an empty value is fine", "headers": {"X-Tenant": ""}},
    {"id": "a header of NATS is refused", "headers": {"Nats-Rollup": "all"}},
    {"id": "a header of NATS is refused in any case", "headers": {"nATS-Msg-Id": "1"}},
    {"id": "a header of Bema is refused", "headers": {"Bema-Run": "1"}},
    {"id": "a CloudEvents attribute is refused", "headers": {"ce-id": "1"}},
    {"id": "the content type is refused", "headers": {"Content-Type": "text/plain"}},
    {"id": "the trace is refused", "headers": {"traceparent": "00"}},
    {"id": "a name with a colon is refused", "headers": {"a:b": "1"}},
    {"id": "an empty name is refused", "headers": {"": "1"}},
    {"id": "a value with a line end is refused", "headers": {"a": "1\r\nNats-Rollup: all"}},
    {"id": "a value in other letters is refused", "headers": {"a": "müller"}},
    {"id": "a value that begins with a space is refused", "headers": {"a": " 1"}},
)


def _failed(
    id_: str,
    attempt: int,
    chance: float = 0.5,
    *,
    retryable: bool = True,
    retry_after: float | None = None,
    **policy: Any,
) -> Case:
    return {
        "id": id_,
        "policy": {"maxAttempts": 10, **policy},
        "attempt": attempt,
        "chance": chance,
        "retryable": retryable,
        "retryAfter": retry_after,
    }


RETRIES: tuple[Case, ...] = (
    *(_failed(f"exponential: attempt {n} failed", n) for n in (1, 2, 3, 9)),
    *(_failed(f"linear: attempt {n} failed", n, backoff="Linear", initialSeconds=5) for n in (1, 2, 9)),
    *(_failed(f"fixed: attempt {n} failed", n, backoff="Fixed", initialSeconds=5) for n in (1, 9)),
    _failed("the delay does not grow beyond the longest", 9, maxSeconds=10),
    _failed("the hundredth attempt does not overflow", 99, maxAttempts=100, maxSeconds=86_400),
    _failed("chance takes a part of the delay away", 3, 0.0),
    _failed("chance adds a part to the delay", 3, 0.75),
    _failed("without jitter chance changes nothing", 3, 0.0, jitter=0),
    _failed("no delay at all", 3, initialSeconds=0),
    _failed("the last attempt is the last", 3, maxAttempts=3),
    _failed("a single attempt is the last", 1, maxAttempts=1),
    _failed("an error that retrying cannot help", 1, retryable=False),
    _failed("the handler's own delay", 1, retry_after=42.5),
    _failed("the handler's own delay may exceed the longest", 1, retry_after=7_200, maxSeconds=10),
    _failed("a delay below zero is none", 1, retry_after=-1),
    _failed("the handler's own delay does not add attempts", 3, retry_after=1, maxAttempts=3),
)


def _change(id_: str, value: Any, *changes: Case) -> Case:
    return {"id": id_, "value": value, "operations": list(changes)}


def _op(operator: str, path: Any = "", value: Any = None) -> Case:
    return {"operator": operator, "path": path, "value": value}


OPERATIONS: tuple[Case, ...] = (
    _change("no operation changes nothing", {"a": 1}),
    _change("set replaces the value itself", {"a": 1}, _op("set", "", [1])),
    _change("set writes a key", {"a": 1}, _op("set", "b", 2)),
    _change("set creates the objects on its way", None, _op("set", "a.b.c", 1)),
    _change("set goes through null as through nothing", {"a": None}, _op("set", "a.b", 1)),
    _change("set writes an item of a list", {"a": [1, 2]}, _op("set", "a.1", 3)),
    _change("set does not grow a list", {"a": [1, 2]}, _op("set", "a.2", 3)),
    _change("set does not go through a number", {"a": 1}, _op("set", "a.b", 2)),
    _change("a path as a list may hold keys with dots", {}, _op("set", ["a.b", "c"], 1)),
    _change("digits name a key of an object", {"a": {"0": 1}}, _op("set", "a.0", 2)),
    _change("merge puts keys in, one level deep", {"a": {"x": 1}, "b": 1}, _op("merge", "", {"a": {"y": 2}})),
    _change("merge into nothing", None, _op("merge", "a", {"x": 1})),
    _change("merge needs an object to merge into", {"a": [1]}, _op("merge", "a", {"x": 1})),
    _change("merge needs an object to merge", {"a": {}}, _op("merge", "a", [1])),
    _change("increment adds", {"n": 1}, _op("increment", "n", 2)),
    _change("increment of nothing counts from 0", None, _op("increment", "", 1)),
    _change("increment keeps fractions", {"n": 0.5}, _op("increment", "n", 0.25)),
    _change("increment needs a number", {"n": "1"}, _op("increment", "n", 1)),
    _change("true is no number", {"n": True}, _op("increment", "n", 1)),
    _change("decrement takes away", 5, _op("decrement", "", 2)),
    _change("decrement of nothing goes below 0", {}, _op("decrement", "stock.apples", 1)),
    _change("append adds at the end", {"l": [1]}, _op("append", "l", [2])),
    _change("append to nothing makes a list", None, _op("append", "", "a")),
    _change("append needs a list", {"l": {}}, _op("append", "l", 1)),
    _change("remove takes a key away", {"a": 1, "b": 2}, _op("remove", "a")),
    _change("remove takes an item away", [1, 2, 3], _op("remove", "1")),
    _change("remove of nothing is no error", {"a": {}}, _op("remove", "a.b")),
    _change("remove creates nothing on its way", {"a": 1}, _op("remove", "x.y.z")),
    _change("remove from a key that does not exist leaves it so", None, _op("remove", "a")),
    _change("remove of the value itself", {"a": 1}, _op("remove")),
    _change("a name is no place in a list", [1, 2], _op("set", "first", 1)),
    _change("digits are a key of an object", {"zip": {"1": 1}}, _op("increment", "zip.1", 1)),
    _change("zeros in front belong to a key", {"zip": {"1234": 1}}, _op("increment", "zip.01234", 1)),
    _change("zeros in front belong to the key that is removed", {"00": 1, "0": 2}, _op("remove", "00")),
    _change("zeros in front are no place in a list", [1, 2], _op("set", "01", 1)),
    _change("more digits than a number has are a key", {}, _op("set", "9" * 40, 1)),
    _change(
        "operations apply in order",
        {"total": 10},
        _op("increment", "total", 5),
        _op("append", "lines", {"sku": "a"}),
        _op("set", "lines.0.count", 2),
        _op("remove", "total"),
    ),
)

_OWNER: Case = {"namespace": "shop", "namespaceUid": "ns-1", "uid": "step-1", "created": "2026-01-02T03:04:05Z"}
_INSTALLATION: Case = {"broker": {"urls": ["nats://nats:4222"]}}


def _bound(id_: str, name: str, spec: Case, *, owner: Case | None = None, installation: Case | None = None) -> Case:
    return {
        "id": id_,
        "step": {"name": name, "spec": spec},
        "owner": _OWNER if owner is None else owner,
        "installation": _INSTALLATION if installation is None else installation,
    }


_IMAGE: Case = {"entrypoint": "steps/charge_payment_step.py", "image": "registry.example/acme/shop:1"}

BINDINGS: tuple[Case, ...] = (
    _bound(
        "an event Step with nothing but what it needs",
        "charge-payment",
        {"triggers": [{"event": {"topics": ["order.reserved"]}}], "code": _IMAGE},
    ),
    _bound(
        "an event Step that says everything",
        "charge-payment",
        {
            "displayName": "ChargePayment",
            "description": "Charges the customer",
            "flows": ["orders"],
            "triggers": [
                {"event": {"topics": ["order.reserved", "order.größe"], "input": {"type": "object"}}},
                {"event": {"topics": ["order.retried"]}},
            ],
            "emits": [{"topic": "order.paid", "schema": {"type": "object"}}, {"topic": "order.rejected"}],
            "code": {
                "entrypoint": "steps/charge_payment_step.py",
                "inline": {"steps/charge_payment_step.py": "config = {}\n"},
            },
            "retry": {"maxAttempts": 5, "backoff": "Linear", "initialSeconds": 2, "maxSeconds": 60, "jitter": 0},
            "timeoutSeconds": 60,
            "concurrency": 4,
            "maxInFlight": 100,
            "scaling": {"minReplicas": 2, "maxReplicas": 4},
            "deliverFrom": "Beginning",
            "suspend": True,
        },
        installation={
            "name": "blue",
            "broker": {"urls": ["tls://a:4222", "tls://b:4222"], "credentialsFile": "/etc/bema/nats.creds"},
            "replicas": 3,
            "drainSeconds": 10,
        },
    ),
    _bound(
        "an api Step on a developer's machine",
        "take-order",
        {
            "triggers": [
                {"api": {"method": "POST", "path": "/orders/:id", "body": {"type": "object"}, "maxBodyBytes": "64Ki"}},
                {"api": {"path": "/orders", "query": {"type": "object"}}},
            ],
            "code": {"entrypoint": "steps/take_order_step.py", "inline": {"steps/take_order_step.py": ""}},
        },
        owner={"namespace": "shop"},
        installation={
            "broker": {"urls": ["nats://127.0.0.1:4222"]},
            "memory": True,
            "http": {"host": "127.0.0.1", "port": 3000, "fd": 7},
            "health": {"host": "127.0.0.1"},
            "metrics": {"host": "127.0.0.1"},
            "folder": "/home/ada/shop",
            "jsonLogs": False,
        },
    ),
    _bound(
        "a cron Step",
        "report",
        {
            "triggers": [
                {"cron": {"schedule": "0 2 * * mon-fri", "timeZone": "Europe/Paris", "startingDeadlineSeconds": 600}}
            ],
            "code": _IMAGE,
        },
    ),
    _bound(
        "a Step with api and event triggers",
        "orders",
        {
            "triggers": [{"api": {"path": "/orders"}}, {"event": {"topics": ["order.created"]}}],
            "code": _IMAGE,
            "deliverFrom": "2026-01-01T00:00:00Z",
        },
    ),
    _bound(
        "a Step that hears one topic in order and another one not",
        "ledger",
        {
            "triggers": [
                {"event": {"topics": ["order.paid"], "ordering": {}}},
                {"event": {"topics": ["rates.changed"]}},
            ],
            "code": _IMAGE,
        },
    ),
    _bound("a noop has no Binding", "person", {"virtualEmits": ["order.approved"]}),
)
