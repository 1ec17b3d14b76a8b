"""What is remembered of an exception, whatever its class does."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from bema import HttpError, NonRetryable, RetryAfter
from bema.contract import errors
from bema.contract.frames import Failure
from bema_runtime import invokers


class Silent(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no text")


class Leaving(Exception):
    def __str__(self) -> str:
        raise SystemExit(2)


class Broken(HttpError):
    def __init__(self) -> None:
        pass

    @property
    def status(self) -> int:  # type: ignore[override]
        raise KeyboardInterrupt


class NotFound(HttpError):
    def __init__(self, what: str) -> None:
        self.status = 404
        self.detail = f"no {what}"


class Teapot(HttpError):
    def __init__(self) -> None:
        self.status = 418


class Bare(HttpError):
    def __init__(self, what: str) -> None:
        self.what = what


class Listed(HttpError):
    def __init__(self) -> None:
        super().__init__(400, headers=[("x-a", "1")])  # type: ignore[arg-type]


class Busy(RetryAfter):
    def __init__(self, who: str) -> None:
        self.who = who


class Wrong(RetryAfter):
    def __init__(self) -> None:
        super().__init__(1)
        self.seconds = "soon"  # type: ignore[assignment]


@pytest.mark.parametrize(
    ("error", "failure"),
    [
        pytest.param(ValueError("no"), Failure("ValueError", "no", traceback="ValueError: no"), id="any error"),
        pytest.param(
            NonRetryable("never"),
            Failure("NonRetryable", "never", traceback="bema.contract.errors.NonRetryable: never", retryable=False),
            id="one that gives up",
        ),
        pytest.param(
            RetryAfter(2.5),
            Failure(
                "RetryAfter",
                "retry after 2.5 s",
                traceback="bema.contract.errors.RetryAfter: retry after 2.5 s",
                retry_after=2.5,
            ),
            id="one that wants a time",
        ),
        pytest.param(
            RetryAfter(float("inf"), "some day"),
            Failure("RetryAfter", "some day", retry_after=366 * 86_400.0),
            id="one that wants to wait for ever",
        ),
        pytest.param(
            RetryAfter(10**400),
            Failure("RetryAfter", "retry after inf s", retry_after=366 * 86_400.0),
            id="one that wants a time that no float can hold",
        ),
        pytest.param(
            HttpError(409, "taken", headers={"X-A": "1"}),
            Failure("HttpError", "taken", http_status=409, http_headers={"x-a": "1"}),
            id="an answer",
        ),
        pytest.param(
            HttpError(200, "fine"),
            Failure("PayloadInvalid", "expected an HTTP status from 400 to 599, found 200"),
            id="an answer that is no error",
        ),
        pytest.param(
            HttpError(400, "no", headers={"x-a": "1\r\nx-b: 2"}),
            Failure(
                "PayloadInvalid", r"expected a header of printable Latin-1 text on one line, found 'x-a': '1\r\nx-b: 2'"
            ),
            id="an answer with two lines in a header",
        ),
        pytest.param(
            ValueError("\ud800"),
            Failure("ValueError", r"\ud800", traceback=r"ValueError: \ud800"),
            id="a text that is no Unicode",
        ),
        pytest.param(Silent(), Failure("Silent", "(its text cannot be made)"), id="no text at all"),
        pytest.param(Leaving(), Failure("Leaving", "(its text cannot be made)"), id="a text that leaves"),
        pytest.param(Broken(), Failure("Broken", "(what it says cannot be read)"), id="fields that cannot be read"),
        pytest.param(
            NotFound("order"),
            Failure("HttpError", "no order", http_status=404),
            id="an answer whose class does without its parent's __init__",
        ),
        pytest.param(Teapot(), Failure("HttpError", "HTTP 418", http_status=418), id="an answer without a detail"),
        pytest.param(
            Bare("order"),
            Failure("PayloadInvalid", "expected an HTTP status from 400 to 599, found None"),
            id="an answer without a status",
        ),
        pytest.param(
            Listed(),
            Failure("PayloadInvalid", "expected headers by their names, found a list"),
            id="an answer with headers in a list",
        ),
        pytest.param(
            Busy("them"),
            Failure("TimeInvalid", "Busy: expected seconds from 0 on, found None"),
            id="one that wants a time and has none",
        ),
        pytest.param(
            Wrong(),
            Failure("TimeInvalid", "Wrong: expected seconds from 0 on, found 'soon'"),
            id="one that wants a time that is none",
        ),
        pytest.param(SystemExit(3), Failure("SystemExit", "3", traceback="SystemExit: 3"), id="an exit"),
    ],
)
def test_what_is_remembered_of_an_exception(error: BaseException, failure: Failure) -> None:
    found = invokers.failure_of(error)
    if not failure.traceback:
        found = dataclasses.replace(found, traceback="")
    assert found == failure


@pytest.mark.parametrize("seconds", [float("nan"), -5, -0.001, float("-inf"), True, "5", None])
def test_a_retry_after_what_is_no_time_is_refused(seconds: Any) -> None:
    with pytest.raises(errors.TimeInvalid) as caught:
        RetryAfter(seconds)
    assert str(caught.value) == f"RetryAfter: expected seconds from 0 on, found {seconds!r}"


@pytest.mark.parametrize("seconds", [0, 2.5, float("inf")])
def test_a_retry_may_be_after(seconds: float) -> None:
    assert RetryAfter(seconds).seconds == seconds


def test_an_error_that_says_too_little_is_in_the_traceback_of_what_is_wrong_with_it() -> None:
    text = invokers.failure_of(Busy("them")).traceback
    assert text.index("Busy: them") < text.index("TimeInvalid: Busy: expected seconds from 0 on, found None")


def test_a_traceback_begins_at_the_handler() -> None:
    def handler() -> None:
        raise ValueError("no")

    with pytest.raises(ValueError, match="no") as caught:
        invokers._call(handler, ())
    below_the_test = caught.value.__traceback__
    assert below_the_test is not None
    text = invokers.failure_of(caught.value.with_traceback(below_the_test.tb_next)).traceback
    assert "invokers.py" not in text
    assert text.endswith("ValueError: no")
