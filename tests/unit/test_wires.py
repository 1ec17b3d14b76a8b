"""Frames between processes: what is written comes back, and what is no frame is refused with words that help."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bema.contract import effects, errors, frames, operations, wires
from bema.contract.triggers import Kind
from bema_runtime import lines

texts = st.text(st.characters(), max_size=12)
"""Any text that Python can hold, lone surrogates too."""
blobs = st.binary(max_size=24) | st.sampled_from([b"", b'{"a": 1.0}', b'"\\ud800"', "é☃".encode(), b"\x00\xff"])
headers = st.dictionaries(texts, texts, max_size=3)
pairs = st.lists(st.tuples(texts, texts), max_size=3).map(tuple)
numbers = st.integers(1, 2**53)
times = st.floats(0, 4e9)
values: st.SearchStrategy[Any] = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=6,
)
objects = st.dictionaries(texts.filter(lambda key: key != "invocation"), values, max_size=3)
results: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.integers(0, 2**53) | texts | blobs, lambda inner: st.lists(inner, max_size=3), max_leaves=8
)

changes = st.builds(
    operations.Operation,
    st.sampled_from(operations.Operator),
    st.lists(texts | st.integers(0, 9), max_size=3).map(tuple),
    values,
)
asked = st.lists(
    st.builds(effects.SetState, texts, texts, blobs, st.none() | times)
    | st.builds(effects.DeleteState, texts, texts)
    | st.builds(effects.UpdateState, texts, texts, st.lists(changes, max_size=3).map(tuple))
    | st.builds(
        effects.EmitEvent,
        texts,
        blobs,
        numbers,
        st.none() | texts,
        headers,
        st.none() | texts,
        st.none() | times,
        st.booleans(),
    )
    | st.builds(effects.CancelTimer, texts)
    | st.builds(effects.RescheduleTimer, texts, times),
    max_size=4,
).map(tuple)
requests = st.builds(frames.HttpRequest, texts, texts, headers, pairs, pairs)
failures = st.builds(
    frames.Failure,
    texts,
    texts,
    texts,
    st.booleans(),
    st.none() | times,
    st.none() | st.integers(400, 599),
    headers,
    st.lists(headers, max_size=2).map(tuple),
)
ends = st.builds(
    frames.End,
    numbers,
    st.sampled_from(frames.Outcome),
    asked,
    st.none() | st.builds(frames.HttpResponse, st.integers(200, 599), pairs, blobs),
    st.none() | failures,
)
invokes = st.builds(
    frames.Invoke,
    id=numbers,
    step=texts,
    kind=st.sampled_from(Kind),
    run=texts,
    attempt=numbers,
    data=blobs,
    trigger=st.integers(0, 7),
    topic=st.none() | texts,
    event_id=st.none() | texts,
    headers=headers,
    trace_id=texts,
    span_id=texts,
    deadline=times,
    scheduled_at=st.none() | times,
    request=st.none() | requests,
)
chunks = st.builds(frames.Chunk, numbers, blobs)
replies = st.builds(frames.Reply, numbers, results) | st.builds(frames.Reply, numbers, st.none(), texts)
to_worker = (
    invokes
    | replies
    | chunks
    | st.builds(frames.Cancel, numbers, texts)
    | st.builds(wires.Hello, numbers, st.lists(objects, max_size=2).map(tuple))
)
methods = texts.filter(lambda method: method != "chunk")
to_runtime = (
    ends
    | chunks
    | st.builds(frames.Call, numbers, numbers, methods, objects)
    | st.builds(wires.Welcome, numbers, texts)
    | st.builds(wires.Refusal, texts)
)


@settings(max_examples=300)
@given(to_worker)
def test_what_a_runtime_says_comes_back_from_its_line(frame: wires.ToWorker) -> None:
    line = lines.dumps(wires.encode(frame))
    assert line.endswith(b"\n")
    assert b"\n" not in line[:-1]
    assert wires.decode_for_worker(lines.loads(line)) == frame


@settings(max_examples=300)
@given(to_runtime)
def test_what_a_worker_says_comes_back_from_its_line(frame: wires.ToRuntime) -> None:
    assert wires.decode_for_runtime(lines.loads(lines.dumps(wires.encode(frame)))) == frame


@given(ends | invokes)
def test_a_field_that_is_not_known_is_skipped(frame: Any) -> None:
    message = wires.encode(frame)
    message.get("params", message.get("result"))["later"] = {"x": 1}
    decode = wires.decode_for_runtime if isinstance(frame, frames.End) else wires.decode_for_worker
    assert decode(json.loads(json.dumps(message))) == frame


@given(values)
def test_whatever_else_arrives_is_refused_and_nothing_worse(value: Any) -> None:
    rpc = {"jsonrpc": "2.0"}
    for message in (
        value,
        {**rpc, "id": 1, "result": {"outcome": value}},
        {**rpc, "method": "invoke", "params": value},
    ):
        for decode in (wires.decode_for_runtime, wires.decode_for_worker):
            with pytest.raises(errors.WireInvalid):
                decode(message)


END = {"jsonrpc": "2.0", "id": 1, "result": {"outcome": "ok"}}
REFUSED = {
    "no JSON-RPC": ({"id": 1}, 'expected an object with "jsonrpc": "2.0", found {\'id\': 1}'),
    "an outcome that is none": (
        {**END, "result": {"outcome": "well"}},
        "End.outcome: expected one of ok, invalid, skipped, failed, cancelled",
    ),
    "an effect that is none": (
        {**END, "result": {"outcome": "ok", "effects": [{"type": "Explode"}]}},
        "End.effects: expected a type of SetState, DeleteState, UpdateState, EmitEvent, CancelTimer, RescheduleTimer, "
        "found {'type': 'Explode'}",
    ),
    "a field that is missing": (
        {**END, "result": {"outcome": "ok", "effects": [{"type": "DeleteState", "group": "g"}]}},
        "End.effects: DeleteState: expected key, found type, group",
    ),
    "a field of the wrong type": (
        {**END, "result": {"outcome": "failed", "failure": {"type": "E", "message": 5}}},
        "End.failure: Failure.message: expected a text, found 5",
    ),
    "bytes that are none": (
        {"jsonrpc": "2.0", "method": "chunk", "params": {"invocation": 1, "data": "x"}},
        'Chunk.data: expected bytes as {"text": …} or {"base64": …}, found \'x\'',
    ),
    "base64 that is none": (
        {"jsonrpc": "2.0", "method": "chunk", "params": {"invocation": 1, "data": {"base64": "é"}}},
        "Chunk.data: expected base64, found 'é'",
    ),
}


@pytest.mark.parametrize(("message", "sentence"), [pytest.param(*case, id=name) for name, case in REFUSED.items()])
def test_a_refusal_names_the_field_what_was_expected_and_what_was_found(message: Any, sentence: str) -> None:
    with pytest.raises(errors.WireInvalid) as caught:
        wires.decode_for_runtime(message)
    assert sentence in str(caught.value)


def test_json_comes_back_byte_for_byte() -> None:
    for data in (b'{"a": 1.0, "a": 12345678901234567890123}', b" [1e2]", b"{not json", b"\xff\xfe", b""):
        chunk = frames.Chunk(1, data)
        assert wires.decode_for_worker(lines.loads(lines.dumps(wires.encode(chunk)))) == chunk


def test_an_error_in_answer_to_an_invoke_ends_its_execution() -> None:
    message = {"jsonrpc": "2.0", "id": 7, "error": {"code": -32603, "message": "no such step"}}
    failure = frames.Failure("WorkerError", "no such step")
    assert wires.decode_for_runtime(message) == frames.End(7, frames.Outcome.FAILED, failure=failure)
