"""JSON Schemas as everybody compiles them who reads a Step: what they name outside of themselves is never fetched."""

from __future__ import annotations

import http.server
import threading
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from bema.contract import errors
from bema.discoveries import Discovery, Found
from bema_cli import checks
from bema_runtime import conditions, payloads, responses, schemas


class Library(http.server.ThreadingHTTPServer):
    """Serves a schema that accepts everything, and remembers who asked."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Shelf)
        self.asked: list[str] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/any.json"


class _Shelf(http.server.BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        assert isinstance(self.server, Library)
        self.server.asked.append(self.path)
        self.send_response(200)
        self.end_headers()
        self.wfile.write(b"true")

    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing."""


@pytest.fixture
def library() -> Iterator[Library]:
    with Library() as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def check(schema: Mapping[str, Any]) -> None:
    """As `bema check` does."""
    spec = {"triggers": [{"event": {"topics": ["a"]}}], "emits": [{"topic": "b", "schema": schema}]}
    file = "steps/a_step.py"
    found = Found(file=file, name="a", spec=spec, entrypoint=file, files={file: ""})
    problems = checks.examine(Discovery(steps=[found])).problems
    if problems:
        raise errors.StepInvalid(problems[0].message)


READERS: list[tuple[str, Callable[[Mapping[str, Any]], Any]]] = [
    ("bema check", check),
    ("a condition", lambda schema: conditions.of(schema, None, where="a_step.py: triggers[0]")),
    ("an input or an emit", payloads.checker),
    ("a query", lambda schema: responses.query_reader(None, schema)),
]


@pytest.mark.parametrize("read", [read for _, read in READERS], ids=[name for name, _ in READERS])
def test_what_a_schema_refers_to_elsewhere_is_refused_and_not_fetched(
    library: Library, tmp_path: Path, read: Callable[[Mapping[str, Any]], Any]
) -> None:
    file = tmp_path / "any.json"
    file.write_text("true")
    for uri in (library.url, file.as_uri()):
        with pytest.raises(
            errors.StepInvalid, match=f"a \\$ref to {uri}, which is not in the schema and is not fetched"
        ):
            read({"properties": {"n": {"$ref": uri}}})
    assert library.asked == []


@pytest.mark.parametrize(
    "schema",
    [
        pytest.param({"$ref": "#/$defs/n", "$defs": {"n": {"type": "integer"}}}, id="in its own definitions"),
        pytest.param(
            {"$id": "http://localhost/a", "$ref": "b", "$defs": {"b": {"$id": "b", "type": "integer"}}}, id="by its id"
        ),
        pytest.param(
            {"$ref": "https://json-schema.org/draft/2020-12/schema", "type": "integer"}, id="the draft itself"
        ),
    ],
)
def test_a_schema_may_refer_to_what_is_in_it(schema: dict[str, Any]) -> None:
    assert not schemas.compiled(schema).is_valid("text")


@pytest.mark.parametrize(
    ("schema", "said"),
    [
        pytest.param({"properties": {"n": {"type": "objct"}}}, "at /properties/n/type: ", id="in a part of it"),
        pytest.param({"$ref": "#/$defs/n"}, "Pointer '/$defs/n' does not exist", id="what it lacks"),
    ],
)
def test_what_is_wrong_in_a_schema_is_said(schema: dict[str, Any], said: str) -> None:
    with pytest.raises(errors.StepInvalid) as caught:
        schemas.compiled(schema)
    assert str(caught.value).startswith(said)
