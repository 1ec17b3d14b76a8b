"""The golden vectors, as the other languages read them: from the files."""

from __future__ import annotations

import inspect
import json
from pathlib import Path
from typing import Any

import pytest

from bema.contract import envelopes, names, operations
from tools import vectors

FOLDER = Path(__file__).parents[2] / "sdk/contract/vectors"
INPUTS = ("id", "result", "error")


def cases(name: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads((FOLDER / f"{name}.json").read_text(encoding="utf-8"))["cases"]
    return found


ALL = [
    pytest.param(path.stem, case, id=f"{path.stem}: {case['id']}")
    for path in sorted(FOLDER.glob("*.json"))
    for case in cases(path.stem)
]


@pytest.mark.parametrize(("name", "case"), ALL)
def test_python_gives_what_the_vector_says(name: str, case: dict[str, Any]) -> None:
    expected = {key: case[key] for key in ("result", "error") if key in case}
    assert vectors.outcome(name, case) == expected


@pytest.mark.parametrize("name", sorted(path.stem for path in FOLDER.glob("*.json")))
def test_each_case_has_a_sentence_of_its_own(name: str) -> None:
    ids = [case["id"] for case in cases(name)]
    assert len(set(ids)) == len(ids) > 5


@pytest.mark.parametrize("case", [pytest.param(case, id=case["id"]) for case in cases("envelopes") if "result" in case])
def test_an_event_comes_back_from_its_headers(case: dict[str, Any]) -> None:
    event, headers = case["event"], case["result"]
    attributes = {"id": envelopes.ID, "topic": envelopes.TYPE, "time": envelopes.TIME, "key": envelopes.KEY}
    assert {field: envelopes.attribute(headers, name) for field, name in attributes.items()} == {
        field: event.get(field) for field in attributes
    }
    assert envelopes.user_headers(headers) == event.get("headers", {})


def test_every_function_that_makes_a_name_has_a_vector() -> None:
    public = {
        name
        for name, value in inspect.getmembers(names, inspect.isfunction)
        if not name.startswith("_") and value.__module__ == names.__name__
    }
    assert public - {case["function"] for case in cases("names")} == set()


def test_every_operator_has_a_vector_that_works_and_one_that_does_not() -> None:
    tried = {
        outcome: {
            case["operations"][-1]["operator"] for case in cases("operations") if outcome in case and case["operations"]
        }
        for outcome in ("result", "error")
    }
    assert tried["result"] == set(operations.Operator)
    assert tried["error"] == set(operations.Operator) - {"remove", "decrement"}
