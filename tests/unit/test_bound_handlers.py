"""Code under a spec of its own: what was applied to the cluster counts, whatever the file says of itself."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from bema import handlers
from bema.contract import errors
from bema_runtime import invokers
from tests.support import units

Load = Callable[..., Any]
MODEL = """
from pydantic import BaseModel
class Order(BaseModel):
    id: str
"""
HANDLER = "async def handler(input, ctx): ...\n"
EVENT: dict[str, Any] = {"event": {"topics": ["order.created"]}}
API: dict[str, Any] = {"api": {"method": "POST", "path": "/orders/{id}"}}
CONFIG = """
config = {"triggers": [
    {"api": {"method": "POST", "path": "/orders/:id", "body": Order}},
    {"event": {"topics": ["order.created"], "input": Order}},
]}
"""


@pytest.fixture
def load(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Load:
    monkeypatch.syspath_prepend(str(tmp_path))

    def made(text: str, *triggers: dict[str, Any], file: str = "pay.py") -> Any:
        (tmp_path / file).write_text(text)
        bound = units.binding(triggers=list(triggers), code={"entrypoint": file, "image": "none"})
        code = bound.code.model_copy(update={"folder": str(tmp_path)})
        return invokers._load(bound.model_copy(update={"code": code}))

    return made


@pytest.mark.parametrize("file", ["pay.py", "pay_step.py", "main.py"])
def test_any_file_with_a_handler_will_do(load: Load, file: str) -> None:
    assert load(HANDLER, EVENT, file=file).is_async


@pytest.mark.parametrize(
    "config", ["", "config = None\n", 'config = {"triggers": []}\n', 'config = {"triggers": [1]}\n']
)
def test_a_config_need_not_be_there(load: Load, config: str) -> None:
    assert load(config + HANDLER, EVENT).decoders[0](b'{"a": 1}') == {"a": 1}


def test_a_model_belongs_to_its_trigger_and_not_to_a_place(load: Load) -> None:
    entry = load(MODEL + CONFIG + HANDLER, EVENT, API)
    for place in (0, 1):
        assert type(entry.decoders[place](b'{"id": "1"}')).__name__ == "Order"


def test_a_trigger_that_the_code_does_not_know_takes_any_json(load: Load) -> None:
    entry = load(MODEL + CONFIG + HANDLER, {"event": {"topics": ["order.paid"]}}, {"api": {"path": "/other"}})
    for place in (0, 1):
        assert entry.decoders[place](b"[1]") == [1]


def test_a_schema_of_the_spec_counts_where_the_code_has_none(load: Load) -> None:
    entry = load(HANDLER, {"event": {"topics": ["a"], "input": {"type": "object"}}})
    with pytest.raises(Exception, match="not of type"):
        entry.decoders[0](b"[1]")


def test_code_without_a_handler_is_refused(load: Load) -> None:
    with pytest.raises(errors.StepInvalid, match=r"^pay\.py: expected a function named `handler`, found none$"):
        load("x = 1\n", EVENT)


def test_a_condition_that_the_code_lacks_lets_nothing_through(load: Load) -> None:
    decided = {"event": {"topics": ["edited"], "condition": {"$comment": handlers.FUNCTION}}}
    said = r"^pay\.py: triggers\[0\]: .* decided by a function in the code: expected the same trigger"
    with pytest.raises(errors.StepInvalid, match=said):
        load(MODEL + CONFIG + HANDLER, decided)


async def test_a_condition_that_the_spec_has_as_a_schema_is_not_left_to_the_function_of_the_code(load: Load) -> None:
    config = 'config = {"triggers": [{"event": {"topics": ["a"], "condition": lambda input, ctx: True}}]}\n'
    schema = {"properties": {"n": {"minimum": 10}}}
    edited = load(config + HANDLER, {"event": {"topics": ["a"], "condition": schema}}).conditions[0]
    assert not await edited.holds(b'{"n": 1}', {"n": 1}, None)
    decided = {"event": {"topics": ["a"], "condition": {"$comment": handlers.FUNCTION}}}
    assert await load(config + HANDLER, decided).conditions[0].holds(b'{"n": 1}', {"n": 1}, None)


def test_a_function_that_could_not_decide_is_refused_under_any_spec(load: Load) -> None:
    config = 'def large(n):\n    yield n\nconfig = {"triggers": [{"event": {"topics": ["a"], "condition": large}}]}\n'
    with pytest.raises(errors.StepInvalid, match="found one with `yield`"):
        load(config + HANDLER, {"event": {"topics": ["a"], "condition": {"$comment": handlers.FUNCTION}}})


def test_a_condition_that_is_no_schema_is_refused(load: Load) -> None:
    with pytest.raises(errors.StepInvalid, match="condition: expected a JSON Schema"):
        load(HANDLER, {"event": {"topics": ["a"], "condition": {"type": "objct"}}})


async def test_a_model_for_a_condition_is_a_schema(load: Load) -> None:
    config = 'config = {"triggers": [{"event": {"topics": ["a"], "condition": Order}}]}\n'
    schema = {"type": "object", "required": ["id"]}
    condition = load(MODEL + config + HANDLER, {"event": {"topics": ["a"], "condition": schema}}).conditions[0]
    assert await condition.holds(b'{"id": "1"}', None, None)
    assert not await condition.holds(b"{}", None, None)


@pytest.mark.parametrize(
    "parameters", ["data", "data, ctx", "data, ctx, more=1", "data, *, more=1", "data, **more", "data, *rest"]
)
async def test_a_condition_gets_as_much_as_it_takes(load: Load, parameters: str) -> None:
    function = f"def holds({parameters}):\n    return data == 1\n"
    config = 'config = {"triggers": [{"event": {"topics": ["a"], "condition": holds}}]}\n'
    decided = {"event": {"topics": ["a"], "condition": {"$comment": handlers.FUNCTION}}}
    condition = load(function + config + HANDLER, decided).conditions[0]
    assert await condition.holds(b"1", 1, None)
    assert not condition.holds_now(b"2", 2, None)
