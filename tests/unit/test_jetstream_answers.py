"""What an answer of JetStream means to whoever asked."""

from __future__ import annotations

import json

import pytest

from bema.contract import errors
from bema.ports import jetstream
from bema.ports.connections import Message


def answer(code: int, err_code: int, description: str) -> Message:
    error = {"code": code, "err_code": err_code, "description": description}
    return Message("inbox", "", json.dumps({"error": error}).encode(), {})


@pytest.mark.parametrize("code", [10008, 10009])
def test_a_cluster_without_a_leader_is_away_and_has_refused_nothing(code: int) -> None:
    with pytest.raises(errors.BrokerUnavailable, match="temporarily unavailable"):
        jetstream._result(answer(503, code, "JetStream system temporarily unavailable"))


def test_any_other_error_is_a_refusal_with_its_code() -> None:
    with pytest.raises(errors.BrokerRefused) as caught:
        jetstream._result(answer(400, 10071, "wrong last sequence: 3"))
    assert caught.value.code == 10071
