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
