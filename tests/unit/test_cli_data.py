"""What is given to the command line as JSON: taken as a handler's value would be, or refused by name."""

from __future__ import annotations

import orjson
import pytest
from typer.testing import CliRunner

from bema.contract import errors
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
            "expected whole numbers of at most 64 bits, found 1180591620717411303424",
            id="a number beyond 64 bits",
        ),
        pytest.param(
            '{"a": [0, -9223372036854775809]}',
            "expected whole numbers of at most 64 bits, found -9223372036854775809",
            id="one inside",
        ),
        pytest.param(
            "[" * 255 + "]" * 255, "expected JSON that is at most 254 levels deep, found more", id="a level too many"
        ),
        pytest.param(
            "[" * 3000 + "]" * 3000, "expected JSON that is at most 254 levels deep, found more", id="very deep"
        ),
        pytest.param(
            '{"a":' * 100_000, "expected JSON that is at most 254 levels deep, found more", id="as deep as can be"
        ),
        pytest.param("{a}", "expected JSON, found '{a}': Expecting property name", id="no JSON"),
        pytest.param("NaN", "expected JSON, found 'NaN': Out of range float values", id="not a number"),
    ],
)
def test_what_no_value_can_be_is_refused_with_these_words(text: str, message: str) -> None:
    with pytest.raises(errors.PayloadInvalid) as caught:
        apps.parse_data(text)
    assert str(caught.value).startswith(message)


def test_a_refusal_is_a_line_and_no_traceback() -> None:
    deep = "[" * 3000 + "]" * 3000
    found = CliRunner().invoke(app, ["emit", "a", "-", "--nats", "nats://127.0.0.1:1", "--app", "shop"], input=deep)
    assert isinstance(found.exception, SystemExit)
    assert found.exit_code != 0
    assert "at most 254 levels deep" in " ".join(found.output.split())
