"""The inputs of the golden vectors for messages between a runtime and a worker."""

from __future__ import annotations

import json
from typing import Any

Case = dict[str, Any]


def _said(id_: str, to: str, **message: Any) -> Case:
    line = json.dumps({"jsonrpc": "2.0", **message}, ensure_ascii=False, separators=(",", ":"))
    return {"id": id_, "to": to, "line": line}


def _ended(id_: str, **result: Any) -> Case:
    return _said(id_, "runtime", id=1, result=result)


_INVOKE: Case = {
    "step": "charge-payment",
    "kind": "event",
    "run": "0123456789abcdefghjkmnpqrs",
    "attempt": 1,
    "data": {"text": '{"order_id": "o1", "total": 1.0}'},
    "trigger": 0,
    "topic": "order.reserved",
    "eventId": "e1",
    "headers": {"own": "1"},
    "traceId": "0af7651916cd43dd8448eb211c80319c",
    "spanId": "b7ad6b7169203331",
    "deadline": 1767225600.5,
}
_REQUEST: Case = {
    "method": "POST",
    "path": "/orders/o1",
    "pathParams": {"id": "o1"},
    "query": [["limit", "5"], ["tag", "a"], ["tag", "b"]],
    "headers": [["content-type", "application/json"]],
}

WIRES: tuple[Case, ...] = (
    _said("a runtime greets", "worker", id=0, method="hello", params={"version": 1, "bindings": [{"version": 1}]}),
    _said("a worker is ready", "runtime", id=0, result={"version": 1, "language": "node"}),
    _said("a worker cannot start", "runtime", id=0, error={"code": -32001, "message": "no handler"}),
    _said("an event", "worker", id=1, method="invoke", params=_INVOKE),
    _said(
        "an event whose data is not UTF-8, and so no JSON",
        "worker",
        id=1,
        method="invoke",
        params={**_INVOKE, "data": {"base64": "/wA="}},
    ),
    _said(
        "a request, with nulls that say nothing",
        "worker",
        id=2,
        method="invoke",
        params={**_INVOKE, "kind": "api", "topic": None, "eventId": None, "scheduledAt": None, "request": _REQUEST},
    ),
    _said(
        "a tick, with a field of a later version",
        "worker",
        id=3,
        method="invoke",
        params={**_INVOKE, "kind": "cron", "data": {"text": ""}, "scheduledAt": 1767225600, "later": [1]},
    ),
    _said("an invoke without a deadline", "worker", id=1, method="invoke", params={"step": "a"}),
    _said("a cancel", "worker", method="cancel", params={"invocation": 1, "reason": "timeout after 30 s"}),
    _said("a chunk to a worker", "worker", method="chunk", params={"invocation": 1, "data": {"text": "é"}}),
    _said("a chunk to a runtime", "runtime", method="chunk", params={"invocation": 1, "data": {"base64": ""}}),
    _said("a chunk that is no bytes", "runtime", method="chunk", params={"invocation": 1, "data": "x"}),
    _said(
        "a key is asked for", "runtime", id=9, method="state.get", params={"invocation": 1, "group": "g", "key": "k"}
    ),
    _said("a key is there", "worker", id=9, result=[{"text": '{"n": 1.0}'}, 7, 1767225600.5]),
    _said("a key is not there", "worker", id=9, result=[None, 0, None]),
    _said(
        "a group is asked for",
        "runtime",
        id=10,
        method="state.list",
        params={"invocation": 1, "group": "g", "limit": 2},
    ),
    _said("a page of a group", "worker", id=10, result=[[["k", [{"text": "1"}, 7, None]]], "7"]),
    _said("more time is asked for", "runtime", id=11, method="heartbeat", params={"invocation": 1}),
    _said("more time is given", "worker", id=11, result=1767225630.5),
    _said("a question without an answer", "worker", id=9, error={"code": -32000, "message": "the run has ended"}),
    _said("a question of nobody", "runtime", id=9, method="state.get", params={"group": "g"}),
    _ended("a run that asks for nothing", outcome="ok", effects=[]),
    _ended(
        "a run that asks for all there is",
        outcome="ok",
        effects=[
            {"type": "SetState", "group": "g", "key": "k", "value": {"text": '{"n": 1.0}'}},
            {"type": "SetState", "group": "g", "key": "l", "value": {"text": "1"}, "ttl": 60},
            {"type": "SetState", "group": "g", "key": "o", "value": {"text": "1"}, "expires": 1767225600},
            {"type": "DeleteState", "group": "g", "key": "m"},
            {
                "type": "UpdateState",
                "group": "g",
                "key": "n",
                "operations": [
                    {"operator": "increment", "path": ["lines", 0, "quantity"], "value": 2},
                    {"operator": "merge", "value": {"text": "is no bytes here"}},
                    {"operator": "remove", "path": ["old"]},
                ],
            },
            {"type": "EmitEvent", "topic": "order.paid", "data": {"text": "{}"}, "number": 1},
            {
                "type": "EmitEvent",
                "topic": "order.paid",
                "data": {"text": "{}"},
                "number": 2,
                "key": "ada",
                "headers": {"own": "1"},
                "id": "mine",
                "at": 1767225600.5,
                "replaces": True,
            },
            {"type": "CancelTimer", "id": "mine"},
            {"type": "RescheduleTimer", "id": "other", "at": 1767225600.5},
        ],
    ),
    _ended(
        "an answer",
        outcome="ok",
        response={"status": 201, "headers": [["content-type", "text/plain"]], "body": {"text": "é"}},
    ),
    _ended("a failure that may be tried again", outcome="failed", failure={"type": "RuntimeError", "message": "no"}),
    _ended(
        "a failure that says everything",
        outcome="invalid",
        failure={
            "type": "Invalid",
            "message": "count: expected a number, found 'x'",
            "traceback": "…",
            "retryable": False,
            "retryAfter": 1.5,
            "httpStatus": 422,
            "httpHeaders": {"x-own": "1"},
            "details": [{"field": "count", "message": "expected a number", "found": "'x'"}],
        },
    ),
    _ended("an outcome that is none", outcome="fine"),
    _ended("an effect that is none", outcome="ok", effects=[{"type": "Explode"}]),
    _ended("a field of the wrong type", outcome="failed", failure={"type": "E", "message": 5}),
    _said("an error in answer to an invoke", "runtime", id=1, error={"code": -32601, "message": "no such step"}),
    {"id": "no JSON-RPC", "to": "worker", "line": '{"id":1,"method":"invoke"}'},
)
