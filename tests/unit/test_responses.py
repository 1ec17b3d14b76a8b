"""HTTP as api handlers see it: every way to answer, every way to read a query."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
from pydantic import BaseModel

from bema import Response
from bema.contract import errors
from bema.contract.frames import HttpResponse
from bema_runtime import responses
from bema_runtime.payloads import InputInvalid, Problem

JSON = ("content-type", "application/json")
TEXT = ("content-type", "text/plain; charset=utf-8")
BYTES = ("content-type", "application/octet-stream")


class Order(BaseModel):
    id: str


@pytest.mark.parametrize(
    ("result", "answer"),
    [
        pytest.param(None, HttpResponse(204, (), b""), id="nothing is 204"),
        pytest.param({"a": 1}, HttpResponse(200, (JSON,), b'{"a":1}'), id="a dict"),
        pytest.param([1, 2], HttpResponse(200, (JSON,), b"[1,2]"), id="a list"),
        pytest.param(Order(id="1"), HttpResponse(200, (JSON,), b'{"id":"1"}'), id="a model"),
        pytest.param("hé", HttpResponse(200, (TEXT,), b"h\xc3\xa9"), id="text"),
        pytest.param(b"\x00", HttpResponse(200, (BYTES,), b"\x00"), id="bytes"),
        pytest.param(0, HttpResponse(200, (JSON,), b"0"), id="a number"),
        pytest.param(False, HttpResponse(200, (JSON,), b"false"), id="false"),
        pytest.param((201, {"a": 1}), HttpResponse(201, (JSON,), b'{"a":1}'), id="a status and a body"),
        pytest.param((202, None), HttpResponse(202, (), b""), id="a status alone"),
        pytest.param([201, {"a": 1}], HttpResponse(200, (JSON,), b'[201,{"a":1}]'), id="a list is no status"),
        pytest.param((204, {"a": 1}), HttpResponse(204, (), b""), id="204 has no body"),
        pytest.param(
            {"status": 201, "body": "x", "headers": {"X-A": 1}},
            HttpResponse(201, (("x-a", "1"), TEXT), b"x"),
            id="a dict with status, body and headers",
        ),
        pytest.param(
            {"status": 201, "body": {"a": 1}, "headers": None}, HttpResponse(201, (JSON,), b'{"a":1}'), id="no headers"
        ),
        pytest.param(
            {"status": "open", "body": 1},
            HttpResponse(200, (JSON,), b'{"status":"open","body":1}'),
            id="a status of theirs",
        ),
        pytest.param(
            {"status": 201, "body": 1, "more": 2},
            HttpResponse(200, (JSON,), b'{"status":201,"body":1,"more":2}'),
            id="a dict with something else",
        ),
        pytest.param(
            Response("<p>", 202, {"Content-Type": "text/html", "X-B": "é"}),
            HttpResponse(202, (("content-type", "text/html"), ("x-b", "é")), b"<p>"),
            id="a response with a type of its own",
        ),
        pytest.param(Response(), HttpResponse(200, (), b""), id="an empty response"),
    ],
)
def test_a_handler_may_answer_with(result: Any, answer: HttpResponse) -> None:
    assert responses.encode(result) == answer


ONE_LINE = "expected a header of printable Latin-1 text on one line, found "
FRAMING = "expected headers other than connection, content-length, transfer-encoding, found "


@pytest.mark.parametrize(
    ("result", "message"),
    [
        pytest.param((99, "x"), "expected an HTTP status from 200 to 599, found 99", id="a status below all"),
        pytest.param((600, "x"), "expected an HTTP status from 200 to 599, found 600", id="a status above all"),
        pytest.param(
            (101, "x"), "expected an HTTP status from 200 to 599, found 101", id="no answer but a change of protocol"
        ),
        pytest.param(
            {"a": object()},
            "the answer: expected a value that JSON can hold, found Type is not JSON serializable: object",
            id="a body that is no JSON",
        ),
        pytest.param(
            Response("", headers={"X-A": "1\r\nSet-Cookie: b"}),
            ONE_LINE + r"'x-a': '1\r\nSet-Cookie: b'",
            id="two lines in a header",
        ),
        pytest.param(Response("", headers={"X-A": "☃"}), ONE_LINE + "'x-a': '☃'", id="a header in another alphabet"),
        pytest.param(Response("", headers={"X A": "1"}), ONE_LINE + "'x a': '1'", id="a space in a header's name"),
        pytest.param(
            Response("", headers={"Content-Length": "1"}), FRAMING + "'content-length'", id="a length of theirs"
        ),
        pytest.param(
            Response("", headers={"Transfer-Encoding": "x"}),
            FRAMING + "'transfer-encoding'",
            id="an encoding of theirs",
        ),
    ],
)
def test_what_is_no_answer_is_refused_with_these_words(result: Any, message: str) -> None:
    with pytest.raises(errors.PayloadInvalid) as caught:
        responses.encode(result)
    assert str(caught.value) == message


class Page(BaseModel):
    limit: int = 10
    tags: list[str] = []
    more: list[int] | None = None


SCHEMA = {
    "type": "object",
    "properties": {
        "limit": {"type": "integer", "maximum": 100},
        "ratio": {"type": "number"},
        "full": {"type": "boolean"},
        "tags": {"type": "array", "items": {"type": "integer"}},
        "name": {"type": "string"},
    },
}


@pytest.mark.parametrize(
    ("model", "schema", "pairs", "value"),
    [
        pytest.param(None, None, [("a", "1"), ("a", "2")], {"a": "2"}, id="undeclared, as text, the last of each"),
        pytest.param(None, SCHEMA, [("limit", "5")], {"limit": 5}, id="an integer"),
        pytest.param(None, SCHEMA, [("ratio", "1e3")], {"ratio": 1000.0}, id="a number"),
        pytest.param(None, SCHEMA, [("full", "True")], {"full": True}, id="a boolean"),
        pytest.param(None, SCHEMA, [("tags", "1"), ("tags", "2")], {"tags": [1, 2]}, id="a list of integers"),
        pytest.param(None, SCHEMA, [("tags", "1")], {"tags": [1]}, id="a list of one"),
        pytest.param(None, SCHEMA, [("name", "5"), ("other", "6")], {"name": "5", "other": "6"}, id="texts of digits"),
        pytest.param(None, SCHEMA, [], {}, id="nothing"),
        pytest.param(Page, None, [("limit", "5")], Page(limit=5), id="a model"),
        pytest.param(Page, None, [("tags", "a"), ("tags", "b")], Page(tags=["a", "b"]), id="a list in a model"),
        pytest.param(Page, None, [("more", "1"), ("more", "2")], Page(more=[1, 2]), id="a list or nothing in a model"),
    ],
)
def test_a_query_is_read_as_declared(model: Any, schema: Any, pairs: Sequence[tuple[str, str]], value: Any) -> None:
    assert responses.query_reader(model, schema)(pairs) == value


@pytest.mark.parametrize(
    ("model", "schema", "pairs", "problem"),
    [
        pytest.param(
            None,
            SCHEMA,
            [("limit", "101")],
            Problem("query.limit", "101 is greater than the maximum of 100", "101"),
            id="too many",
        ),
        pytest.param(
            None,
            SCHEMA,
            [("limit", "many")],
            Problem("query.limit", '"many" is not of type "integer"', '"many"'),
            id="no integer",
        ),
        pytest.param(
            None,
            SCHEMA,
            [("limit", "1_0")],
            Problem("query.limit", '"1_0" is not of type "integer"', '"1_0"'),
            id="an integer as Python writes it",
        ),
        pytest.param(
            None,
            SCHEMA,
            [("ratio", "nan")],
            Problem("query.ratio", '"nan" is not of type "number"', '"nan"'),
            id="not a number",
        ),
        pytest.param(
            None, SCHEMA, [("full", "1")], Problem("query.full", '"1" is not of type "boolean"', '"1"'), id="no boolean"
        ),
        pytest.param(
            None,
            SCHEMA,
            [("tags", "1"), ("tags", "x")],
            Problem("query.tags.1", '"x" is not of type "integer"', '"x"'),
            id="in a list",
        ),
        pytest.param(
            Page,
            None,
            [("limit", "x")],
            Problem("query.limit", "Input should be a valid integer, unable to parse string as an integer", '"x"'),
            id="a model",
        ),
    ],
)
def test_a_query_that_does_not_fit_is_refused_by_name(
    model: Any, schema: Any, pairs: Sequence[tuple[str, str]], problem: Problem
) -> None:
    with pytest.raises(InputInvalid) as caught:
        responses.query_reader(model, schema)(pairs)
    assert caught.value.problems == [problem]
    assert not caught.value.malformed
