"""What is given to the command line as JSON: taken as a handler's value would be, or refused by name."""

from __future__ import annotations

import orjson
import pytest
from typer.testing import CliRunner

from bema.contract import errors
from bema.contract.effects import MAX_PAYLOAD_BYTES
from bema_cli import apps
from bema_cli.application import app
from bema_runtime import payloads


@pytest.mark.parametrize(
    ("text", "data"),
    [
        pytest.param(' {"a": [1, 2.5, true, null, "é"]} ', '{"a":[1,2.5,true,null,"é"]}'.encode(), id="any JSON"),
        pytest.param("18446744073709551615", b"18446744073709551615", id="the largest number of 64 bits"),
        pytest.param("-9223372036854775808", b"-9223372036854775808", id="the smallest"),
        pytest.param("[" * 254 + "1" + "]" * 254, b"[" * 254 + b"1" + b"]" * 254, id="as deep as a value may be"),
    ],
)
def test_data_is_made_compact_where_a_handler_could_emit_it(text: str, data: bytes) -> None:
    assert apps.parse_data(text) == data
    assert payloads.dumps(orjson.loads(text), what="it", limit=1000) == data


@pytest.mark.parametrize(
    ("text", "message"),
    [
        pytest.param(
            "1180591620717411303424",
            "data: expected a value that JSON can hold, found Integer exceeds 64-bit range",
            id="a number beyond 64 bits",
        ),
        pytest.param(
            '{"a": [0, -9223372036854775809]}',
            "data: expected a value that JSON can hold, found Integer exceeds 64-bit range",
            id="one inside",
        ),
        pytest.param(
            "[" * 255 + "]" * 255,
            "data: expected a value that JSON can hold, found Recursion limit reached",
            id="a level too many",
        ),
        pytest.param(
            "[" * 3000 + "]" * 3000, "data: expected a value that JSON can hold, found too many levels", id="very deep"
        ),
        pytest.param(
            '{"a":' * 100_000,
            "data: expected a value that JSON can hold, found too many levels",
            id="as deep as can be",
        ),
        pytest.param("{a}", "expected JSON, found '{a}': Expecting property name", id="no JSON"),
        pytest.param("NaN", "data: expected a value that JSON can hold, found nan", id="not a number"),
        pytest.param(
            '"\\ud800"', "data: expected a value that JSON can hold, found str is not valid", id="half a pair"
        ),
    ],
)
def test_what_no_value_can_be_is_refused_with_these_words(text: str, message: str) -> None:
    with pytest.raises(errors.PayloadInvalid) as caught:
        apps.parse_data(text)
    assert str(caught.value).startswith(message)


def test_what_is_larger_than_a_payload_is_refused() -> None:
    with pytest.raises(errors.PayloadTooLarge, match="data: expected at most 786432 bytes of JSON, found 786434"):
        apps.parse_data(f'"{"x" * MAX_PAYLOAD_BYTES}"')


def test_a_refusal_is_a_line_and_no_traceback() -> None:
    deep = "[" * 3000 + "]" * 3000
    found = CliRunner().invoke(app, ["emit", "a", "-", "--nats", "nats://127.0.0.1:1", "--app", "shop"], input=deep)
    assert isinstance(found.exception, SystemExit)
    assert found.exit_code != 0
    assert "found too many levels" in " ".join(found.output.split())
