"""Payloads: what handlers give as JSON, and what arrives as what they declared."""

from __future__ import annotations

import dataclasses
import datetime
import uuid
from enum import Enum
from typing import Annotated, Any

import orjson
import pydantic
import pytest
from pydantic import BaseModel, Field, field_serializer, field_validator
from typing_extensions import TypedDict

from bema.contract import errors
from bema_runtime import payloads
from bema_runtime.payloads import InputInvalid, Problem


class Line(BaseModel):
    sku: str
    count: int = Field(gt=0)


class Order(BaseModel):
    id: str
    lines: list[Line] = []

    @field_validator("id")
    @classmethod
    def _known(cls, value: str) -> str:
        if value == "unknown":
            raise ValueError("expected an id that is known")
        return value


class Counted(BaseModel):
    model_config = {"strict": True}

    count: int


@dataclasses.dataclass
class Point:
    x: int
    y: int = 0


class Aliased(BaseModel):
    order_id: str = Field("o", alias="orderId")
    amount: float = 0
    lines: list[Line] = []


@pydantic.dataclasses.dataclass
class AliasedPoint:
    x_axis: int = Field(alias="xAxis")


@dataclasses.dataclass
class AnnotatedPoint:
    x_axis: Annotated[int, Field(alias="xAxis")]
    inner: Point = dataclasses.field(default_factory=lambda: Point(1))
    _hidden: int = 2


class AliasedOne(Enum):
    NO_NUMBER = float("nan")


class Named(TypedDict):
    name: str


SCHEMA = {
    "type": "object",
    "required": ["id"],
    "properties": {"id": {"type": "string"}, "count": {"type": "integer", "minimum": 1}},
}


@pytest.mark.parametrize(
    ("value", "data"),
    [
        pytest.param(None, b"null", id="nothing"),
        pytest.param({"a": [1, 2.5, True, None, "é"]}, '{"a":[1,2.5,true,null,"é"]}'.encode(), id="plain JSON"),
        pytest.param(
            Order(id="1", lines=[Line(sku="a", count=2)]), b'{"id":"1","lines":[{"sku":"a","count":2}]}', id="a model"
        ),
        pytest.param([{"order": Order(id="1")}], b'[{"order":{"id":"1","lines":[]}}]', id="a model inside"),
        pytest.param(Point(1), b'{"x":1,"y":0}', id="a dataclass"),
        pytest.param({1}, b"[1]", id="a set"),
        pytest.param(Aliased(), b'{"orderId":"o","amount":0.0,"lines":[]}', id="a model, by its aliases"),
        pytest.param({"a": [AliasedPoint(xAxis=1)]}, b'{"a":[{"xAxis":1}]}', id="a dataclass of pydantic's, by its"),
        pytest.param(AnnotatedPoint(1), b'{"xAxis":1,"inner":{"x":1,"y":0}}', id="a dataclass, by its annotations"),
        pytest.param(uuid.UUID(int=1), b'"00000000-0000-0000-0000-000000000001"', id="a UUID"),
        pytest.param(datetime.datetime(2026, 1, 2, tzinfo=datetime.UTC), b'"2026-01-02T00:00:00+00:00"', id="a time"),
    ],
)
def test_what_a_handler_gives_is_json(value: Any, data: bytes) -> None:
    assert payloads.dumps(value, what="it", limit=1000) == data


def _nested(depth: int) -> Any:
    value: Any = 1
    for _ in range(depth):
        value = [value]
    return value


@pytest.mark.parametrize(
    ("value", "message"),
    [
        pytest.param(
            b"bytes", "it: expected a value that JSON can hold, found Type is not JSON serializable: bytes", id="bytes"
        ),
        pytest.param(
            object(),
            "it: expected a value that JSON can hold, found Type is not JSON serializable: object",
            id="any object",
        ),
        pytest.param(
            {1: 2}, "it: expected a value that JSON can hold, found Dict key must be str", id="a number for a key"
        ),
        pytest.param(
            2**64,
            "it: expected a value that JSON can hold, found Integer exceeds 64-bit range",
            id="a number of more than 64 bits",
        ),
        pytest.param(
            "\ud800",
            "it: expected a value that JSON can hold, found str is not valid UTF-8: surrogates not allowed",
            id="text that is no Unicode",
        ),
        pytest.param(
            {"a": [1.0, float("nan"), None]},
            "it: expected a value that JSON can hold, found nan",
            id="not a number",
        ),
        pytest.param(
            Aliased(amount=float("nan")),
            "it: expected a value that JSON can hold, found nan",
            id="not a number in a model",
        ),
        pytest.param(
            [{"a": Point(float("inf"))}],  # type: ignore[arg-type]
            "it: expected a value that JSON can hold, found inf",
            id="an infinity in a dataclass",
        ),
        pytest.param(
            {1.0, float("nan")}, "it: expected a value that JSON can hold, found nan", id="not a number in a set"
        ),
        pytest.param(
            AliasedOne.NO_NUMBER, "it: expected a value that JSON can hold, found nan", id="not a number in an enum"
        ),
        pytest.param(
            Point, "it: expected a value that JSON can hold, found Type is not JSON serializable: type", id="a type"
        ),
        pytest.param(
            float("-inf"), "it: expected a value that JSON can hold, found -inf", id="an infinity, which is no number"
        ),
        pytest.param(
            _nested(300),
            "it: expected a value that JSON can hold, found Recursion limit reached",
            id="a value that is too deep",
        ),
    ],
)
def test_what_json_cannot_hold_is_refused_with_these_words(value: Any, message: str) -> None:
    with pytest.raises(errors.PayloadInvalid) as caught:
        payloads.dumps(value, what="it", limit=1000)
    assert str(caught.value) == message


def test_what_is_too_large_is_refused_with_what_to_do_instead() -> None:
    assert payloads.dumps("x" * 8, what="it", limit=10) == b'"xxxxxxxx"'
    with pytest.raises(errors.PayloadTooLarge) as caught:
        payloads.dumps("x" * 9, what="it", limit=10)
    assert str(caught.value) == (
        "it: expected at most 10 bytes of JSON, found 11; store the data elsewhere and send a reference"
    )


@pytest.mark.parametrize(
    ("annotation", "schema", "data", "value"),
    [
        pytest.param(Any, None, b'{"a": 1}', {"a": 1}, id="any JSON"),
        pytest.param(dict, None, b"[1]", [1], id="a plain dict says nothing"),
        pytest.param(None, SCHEMA, b'{"id": "1", "more": 2}', {"id": "1", "more": 2}, id="a schema"),
        pytest.param(Order, None, b'{"id": "1"}', Order(id="1"), id="a model"),
        pytest.param(Order, {"type": "string"}, b'{"id": "1"}', Order(id="1"), id="a model is the authority"),
        pytest.param(Point, None, b'{"x": 1}', Point(1), id="a dataclass"),
        pytest.param(Named, None, b'{"name": "a"}', {"name": "a"}, id="a TypedDict"),
        pytest.param(list[Order], None, b'[{"id": "1"}]', [Order(id="1")], id="a list of models"),
        pytest.param(Order | None, None, b"null", None, id="a model or nothing"),
    ],
)
def test_an_input_becomes_what_was_declared(annotation: Any, schema: Any, data: bytes, value: Any) -> None:
    assert payloads.decoder(annotation, schema)(data) == value


def _invalid(annotation: Any, schema: Any, data: bytes) -> InputInvalid:
    with pytest.raises(InputInvalid) as caught:
        payloads.decoder(annotation, schema)(data)
    return caught.value


@pytest.mark.parametrize(
    ("annotation", "schema", "data", "problems"),
    [
        pytest.param(
            Order,
            None,
            b'{"lines": [{"sku": "a", "count": 0}, {"sku": 1, "count": 1}]}',
            [
                Problem("id", "Field required", '{"lines":[{"sku":"a","count":0},{"sku":1,"count":1}]}'),
                Problem("lines.0.count", "Input should be greater than 0", "0"),
                Problem("lines.1.sku", "Input should be a valid string", "1"),
            ],
            id="a model, each field by its path",
        ),
        pytest.param(
            Order,
            None,
            b'{"id": "unknown"}',
            [Problem("id", "Value error, expected an id that is known", '"unknown"')],
            id="a model's own validator",
        ),
        pytest.param(
            None,
            SCHEMA,
            b'{"count": 0}',
            [
                Problem("count", "0 is less than the minimum of 1", "0"),
                Problem("", '"id" is a required property', '{"count":0}'),
            ],
            id="a schema",
        ),
        pytest.param(
            Order,
            None,
            b'"' + b"x" * 200 + b'"',
            [Problem("", "Input should be an object", '"' + "x" * 98 + "…")],
            id="a long input, shortened",
        ),
    ],
)
def test_an_input_that_does_not_fit_is_refused_field_by_field(
    annotation: Any, schema: Any, data: bytes, problems: list[Problem]
) -> None:
    found = _invalid(annotation, schema, data)
    assert sorted(found.problems, key=lambda p: p.field) == sorted(problems, key=lambda p: p.field)
    assert not found.malformed


@pytest.mark.parametrize(
    ("annotation", "schema"),
    [
        pytest.param(Any, None, id="any JSON"),
        pytest.param(None, SCHEMA, id="a schema"),
        pytest.param(Order, None, id="a model"),
    ],
)
@pytest.mark.parametrize(
    ("data", "found"),
    [
        pytest.param(b"{broken", "{broken", id="text"),
        pytest.param(b"", "nothing", id="nothing"),
        pytest.param(b"\xff\xfe", "\ufffd\ufffd", id="no text at all"),
        pytest.param(b"{'a': 1}", "{'a': 1}", id="a Python dict"),
        pytest.param(b"[" * 5000, "[" * 99 + "…", id="too deep"),
    ],
)
def test_what_is_no_json_is_malformed(annotation: Any, schema: Any, data: bytes, found: str) -> None:
    error = _invalid(annotation, schema, data)
    assert error.malformed
    [problem] = error.problems
    assert (problem.field, problem.found) == ("", found)
    assert problem.message.startswith("expected JSON (")


@pytest.mark.parametrize(
    ("annotation", "value"),
    [
        pytest.param(Aliased, Aliased(orderId="7", amount=1.5), id="a model"),
        pytest.param(AliasedPoint, AliasedPoint(xAxis=1), id="a dataclass of pydantic's"),
        pytest.param(AnnotatedPoint, AnnotatedPoint(1), id="a dataclass"),
    ],
)
def test_what_is_written_is_what_the_schema_says_and_is_read_again(annotation: Any, value: Any) -> None:
    data = payloads.dumps(value, what="it", limit=1000)
    payloads.decoder(None, pydantic.TypeAdapter(annotation).json_schema())(data)
    assert payloads.decoder(annotation, None)(data) == value


def test_a_models_own_serializers_run_once() -> None:
    written = []

    class Counting(BaseModel):
        x: int | None = None

        @field_serializer("x")
        def _write(self, value: int | None) -> int | None:
            written.append(value)
            return value

    assert payloads.dumps([Counting()], what="it", limit=1000) == b'[{"x":null}]'
    assert written == [None]


@pytest.mark.parametrize("constant", ["NaN", "Infinity", "-Infinity"])
@pytest.mark.parametrize("annotation", [Any, Aliased, list[float]])
def test_json_has_no_constants_for_what_is_no_number(annotation: Any, constant: str) -> None:
    data = f'{{"orderId": "7", "amount": {constant}}}'
    error = _invalid(annotation, None, data.encode())
    assert error.malformed
    assert error.problems == [Problem("", f"expected JSON (which has no {constant})", data)]


@pytest.mark.parametrize("text", ["NaN", "Infinity", "aNaNb -Infinity"])
def test_a_text_may_say_what_json_has_not(text: str) -> None:
    data = orjson.dumps({"orderId": text})
    assert payloads.decoder(Aliased, None)(data) == Aliased(orderId=text)


def test_the_problems_of_an_input_as_one_sentence() -> None:
    error = InputInvalid([Problem("", "expected an object", "1"), Problem("a.b", "expected a number", "'x'")])
    assert str(error) == "input: expected an object, found 1; a.b: expected a number, found 'x'"


@pytest.mark.parametrize(
    ("data", "found"),
    [
        (b'{"count": true}', "true"),
        (b'{"count": null}', "null"),
        (b'{"count": {"a": "\xc3\xa9"}}', '{"a":"é"}'),
    ],
)
@pytest.mark.parametrize("annotation", [Counted, None])
def test_what_was_found_is_shown_as_it_was_sent(annotation: Any, data: bytes, found: str) -> None:
    schema = {"type": "object", "properties": {"count": {"type": "integer"}}}
    [problem] = _invalid(annotation, None if annotation else schema, data).problems
    assert (problem.field, problem.found) == ("count", found)
