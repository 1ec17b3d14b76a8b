"""Step files: what loading one makes of it, and what it says when there is nothing to be made."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel

from bema import handlers
from bema.contract import errors

Load = Callable[..., handlers.Handler]
FILE = "steps/pay_step.py"
CONFIG = 'config = {"triggers": [{"event": {"topics": ["a"]}}]}\n'
STATE = 'config = {"triggers": [{"state": {"group": "orders"}}]}\n'
MODEL = "from pydantic import BaseModel\nclass Order(BaseModel):\n    id: str\n"
CRON = 'config = {"triggers": [{"cron": {"schedule": "@daily"}}]}\n'
BATCH = 'config = {"triggers": [{"event": {"topics": ["a"], "batch": {}}}]}\n'
API = 'config = {"triggers": [{"api": {"method": "POST", "path": "/x"}}]}\n'


@pytest.fixture
def load(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Load:
    """Load a Step file from its text."""
    monkeypatch.syspath_prepend(str(tmp_path))

    def made(text: str, file: str = FILE) -> handlers.Handler:
        (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / file).write_text(text)
        return handlers.load(tmp_path, file)

    return made


@pytest.mark.parametrize(
    ("text", "message"),
    [
        pytest.param(
            "x = (\n", f"{FILE}: syntax error in pay_step.py, line 1: '(' was never closed", id="a syntax error"
        ),
        pytest.param(
            "from pydantic import BaseModel\n\nclass Order(BaseModel):\n    id: str\n\n"
            + API
            + "async def handler(body: Order, ctx): ...\n",
            f"{FILE}: expected handler(request: Request[Order], ctx) for api triggers, found an input of type Order",
            id="an api handler that takes the body instead of the request",
        ),
        pytest.param(
            "from bema import Request\n" + CONFIG + "async def handler(request: Request, ctx): ...\n",
            f"{FILE}: expected handler(input, ctx) for triggers other than api, found an input of type Request",
            id="a request where none comes",
        ),
        pytest.param(
            "from bema import Request\n" + CRON + "async def handler(request: Request, ctx): ...\n",
            f"{FILE}: expected handler(input, ctx) for triggers other than api, found an input of type Request",
            id="a request of a schedule",
        ),
        pytest.param(
            "from bema import Request\n" + STATE + "async def handler(request: Request, ctx): ...\n",
            f"{FILE}: expected handler(input, ctx) for triggers other than api, found an input of type Request",
            id="a request of a change",
        ),
        pytest.param(
            MODEL + STATE + "async def handler(order: Order, ctx): ...\n",
            f"{FILE}: expected handler(change: StateChange, ctx) for state triggers, found an input of type Order",
            id="a state handler that takes the value instead of the change",
        ),
        pytest.param(
            CONFIG + "async def handler(data, *, c): ...\n",
            f"{FILE}: expected handler(input, ctx), found the keyword 'c' without a default",
            id="a handler with a required keyword",
        ),
        pytest.param(
            CONFIG + "class handler: ...\n",
            f"{FILE}: expected a function named `handler`, found type",
            id="a class for a handler",
        ),
        pytest.param(
            'config = {"trigers": []}\nasync def handler(data): ...\n',
            f"{FILE}: expected triggers for its handler, found 'trigers' in `config`",
            id="misspelt triggers",
        ),
        pytest.param("raise SystemExit(3)\n", f"{FILE}:1: SystemExit: 3", id="an exit at import"),
        pytest.param("x = 1\n1 / 0\n", f"{FILE}:2: ZeroDivisionError: division by zero", id="an error in the file"),
        pytest.param(
            "def f():\n    raise ValueError('x')\n\nf()\n",
            f"{FILE}:2: ValueError: x",
            id="an error in a function of it",
        ),
        pytest.param(
            "\nimport nowhere_at_all\n",
            f"{FILE}:2: ModuleNotFoundError: No module named 'nowhere_at_all'",
            id="a module that is not there",
        ),
        pytest.param("", f"{FILE}: expected a dict named `config`, found none", id="an empty file"),
        pytest.param(
            "config = []", f"{FILE}: expected a dict named `config`, found list", id="a config that is no dict"
        ),
        pytest.param(
            CONFIG, f"{FILE}: expected a function named `handler` for its triggers, found none", id="triggers alone"
        ),
        pytest.param(
            CONFIG + "handler = 5",
            f"{FILE}: expected a function named `handler`, found int",
            id="a handler that is no function",
        ),
        pytest.param(
            "config = {}\ndef handler(data, ctx): ...",
            f"{FILE}: expected triggers for its handler, found none in `config`",
            id="a handler alone",
        ),
        pytest.param(
            CONFIG + "def handler(data, ctx, more): ...",
            f"{FILE}: expected handler(input, ctx), found handler(data, ctx, more)",
            id="too many parameters",
        ),
        pytest.param(
            CONFIG + "async def handler(data, ctx):\n    yield",
            f"{FILE}: expected a handler that does its work when called, found one with `yield`",
            id="an async generator",
        ),
        pytest.param(
            CONFIG + "def handler(data, ctx):\n    yield",
            f"{FILE}: expected a handler that does its work when called, found one with `yield`",
            id="a generator",
        ),
        pytest.param(
            CONFIG + "def handler(data: 'Order', ctx): ...",
            f"{FILE}: the handler's annotations: name 'Order' is not defined",
            id="an annotation that is not there",
        ),
        pytest.param(
            CONFIG.replace("}\n", ', "name": 5}\n') + "def handler(data, ctx): ...",
            f"{FILE}: name: expected a text, found 5",
            id="a name that is no text",
        ),
        pytest.param(
            CONFIG.replace("}\n", ', "name": ""}\n') + "def handler(data, ctx): ...",
            f"{FILE}: name: expected a text, found ''",
            id="an empty name",
        ),
    ],
)
def test_what_is_no_step_file_is_refused_with_these_words(load: Load, text: str, message: str) -> None:
    with pytest.raises(errors.StepInvalid) as caught:
        load(text)
    assert str(caught.value) == message


def test_an_error_in_a_module_of_theirs_is_told_with_the_line_that_asked_for_it(load: Load, tmp_path: Path) -> None:
    (tmp_path / "lib_of_theirs.py").write_text("x = (\n")
    with pytest.raises(errors.StepInvalid) as caught:
        load("x = 1\nimport lib_of_theirs\n")
    assert str(caught.value) == f"{FILE}: syntax error in lib_of_theirs.py, line 1: '(' was never closed"
    (tmp_path / "lib_of_others.py").write_text("\n\n1 / 0\n")
    with pytest.raises(errors.StepInvalid) as caught:
        load("x = 1\nimport lib_of_others\n")
    assert str(caught.value) == f"{FILE}:2: ZeroDivisionError: division by zero"


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(errors.StepInvalid) as caught:
        handlers.load(tmp_path, FILE)
    assert str(caught.value) == f"{FILE}: expected a Python file, found none at {tmp_path / FILE}"


@pytest.mark.parametrize(
    ("file", "config", "written", "name"),
    [
        pytest.param("steps/charge_payment_step.py", "", "charge_payment", "charge-payment", id="from the file"),
        pytest.param("src/charge-payment.step.py", "", "charge-payment", "charge-payment", id="with a dot"),
        pytest.param("a_step.py", '"name": "ChargePayment", ', "ChargePayment", "charge-payment", id="from the config"),
        pytest.param("a_step.py", '"name": "Café", ', "Café", "caf-[0-9a-f]{6}", id="with letters of another alphabet"),
    ],
)
def test_a_step_has_a_name(load: Load, file: str, config: str, written: str, name: str) -> None:
    text = CONFIG.replace("{", "{" + config, 1) + "def handler(data, ctx): ..."
    found = load(text, file)
    assert found.written_name == written
    assert re.fullmatch(name, found.name)
    spec = handlers.spec_of(found, {"entrypoint": file, "image": "none"})
    assert spec.display_name == (written if written != found.name else None)


@pytest.mark.parametrize(
    ("path", "is_one"),
    [
        pytest.param("steps/pay_step.py", True, id="with an underscore"),
        pytest.param("steps/pay.step.py", True, id="with a dot"),
        pytest.param("steps/_step.py", False, id="without a name"),
        pytest.param("steps/step.py", False, id="named step"),
        pytest.param("steps/pay_steps.py", False, id="in the plural"),
        pytest.param("steps/pay_step.pyc", False, id="compiled"),
    ],
)
def test_which_files_are_steps(path: str, is_one: bool) -> None:
    assert handlers.is_step_file(Path(path)) is is_one


DECORATED = """
import functools
def logged(function):
    @functools.wraps(function)
    def wrapper(*arguments):
        return function(*arguments)
    return wrapper
@logged
"""


@pytest.mark.parametrize(
    ("text", "takes", "is_async"),
    [
        pytest.param("def handler(): ...", 0, False, id="nothing"),
        pytest.param("async def handler(data): ...", 1, True, id="the input"),
        pytest.param("async def handler(data, ctx): ...", 2, True, id="the input and the context"),
        pytest.param("def handler(data, ctx, *, more=1): ...", 2, False, id="what has a default"),
        pytest.param("handler = lambda data, ctx: None", 2, False, id="a lambda"),
        pytest.param(DECORATED + "async def handler(data, ctx): ...", 2, True, id="wrapped, async"),
        pytest.param(DECORATED + "def handler(data): ...", 1, False, id="wrapped"),
    ],
)
def test_what_a_handler_takes(load: Load, text: str, takes: int, is_async: bool) -> None:
    found = load(CONFIG + text)
    assert (found.takes, found.is_async) == (takes, is_async)


SCHEMA = {
    "title": "Order",
    "type": "object",
    "properties": {"id": {"title": "Id", "type": "string"}},
    "required": ["id"],
}


@pytest.mark.parametrize(
    ("text", "triggers"),
    [
        pytest.param(
            MODEL + CONFIG + "def handler(order: Order, ctx): ...",
            [{"event": {"topics": ["a"], "input": SCHEMA}}],
            id="an event's, from the annotation",
        ),
        pytest.param(
            MODEL
            + CONFIG.replace('["a"]', '["a"], "input": {"type": "string"}')
            + "def handler(order: Order, ctx): ...",
            [{"event": {"topics": ["a"], "input": {"type": "string"}}}],
            id="an event's, from the config before the annotation",
        ),
        pytest.param(
            MODEL + CONFIG.replace('["a"]', '["a"], "input": Order') + "def handler(order, ctx): ...",
            [{"event": {"topics": ["a"], "input": SCHEMA}}],
            id="an event's, from a model in the config",
        ),
        pytest.param(
            CONFIG + "def handler(order: dict, ctx): ...", [{"event": {"topics": ["a"]}}], id="none, for a plain dict"
        ),
        pytest.param(
            MODEL + BATCH + "def handler(orders: list[Order], ctx): ...",
            [{"event": {"topics": ["a"], "input": SCHEMA, "batch": {"size": 100, "timeoutSeconds": 1}}}],
            id="an event's in a batch, from the annotation",
        ),
        pytest.param(
            BATCH + "def handler(orders: list, ctx): ...",
            [{"event": {"topics": ["a"], "batch": {"size": 100, "timeoutSeconds": 1}}}],
            id="none, for a plain list",
        ),
        pytest.param(
            "from bema import StateChange\n" + STATE + "def handler(change: StateChange, ctx): ...",
            [{"state": {"group": "orders"}}],
            id="none, for a change",
        ),
        pytest.param(
            "from bema import Request\n"
            + 'config = {"triggers": [{"api": {"path": "/x"}}, {"event": {"topics": ["a"]}}]}\n'
            + "def handler(input: Request, ctx): ...",
            [{"api": {"method": "GET", "path": "/x", "maxBodyBytes": "1Mi"}}, {"event": {"topics": ["a"]}}],
            id="none, for a request that only one of two triggers gives",
        ),
        pytest.param(
            MODEL
            + 'config = {"triggers": [{"event": {"topics": ["a"]}}, {"state": {"group": "orders"}}]}\n'
            + "def handler(order: Order, ctx): ...",
            [{"event": {"topics": ["a"], "input": SCHEMA}}, {"state": {"group": "orders"}}],
            id="an event's beside a change, from the annotation",
        ),
        pytest.param(
            "from bema import Request\n" + MODEL + API + "def handler(request: Request[Order], ctx): ...",
            [{"api": {"method": "POST", "path": "/x", "body": SCHEMA, "maxBodyBytes": "1Mi"}}],
            id="a body's, from the annotation",
        ),
        pytest.param(
            "from bema import Request\n" + API + "def handler(request: Request, ctx): ...",
            [{"api": {"method": "POST", "path": "/x", "maxBodyBytes": "1Mi"}}],
            id="none, for any body",
        ),
        pytest.param(
            MODEL
            + 'config = {"triggers": [{"api": {"path": "/x"}}, {"event": {"topics": ["a"]}}]}\n'
            + "def handler(order: Order, ctx): ...",
            [
                {"api": {"method": "GET", "path": "/x", "maxBodyBytes": "1Mi"}},
                {"event": {"topics": ["a"], "input": SCHEMA}},
            ],
            id="an event's beside an api, from the annotation",
        ),
        pytest.param(
            MODEL + API.replace('"/x"', '"/x", "query": Order') + "def handler(request, ctx): ...",
            [{"api": {"method": "POST", "path": "/x", "query": SCHEMA, "maxBodyBytes": "1Mi"}}],
            id="a query's",
        ),
    ],
)
def test_where_schemas_come_from(load: Load, text: str, triggers: list[dict[str, Any]]) -> None:
    spec = handlers.spec_of(load(text), {"entrypoint": FILE, "image": "none"})
    assert spec.dump()["triggers"] == triggers


@pytest.mark.parametrize(
    ("config", "lines"),
    [
        pytest.param(
            '{"triggers": [{"event": {"topics": ["a"]}}], "timeout": 5}',
            [f"{FILE}: unknown key 'timeout'; did you mean 'timeoutSeconds'?"],
            id="at the top",
        ),
        pytest.param(
            '{"triggers": [{"event": {"topic": ["a"]}}]}',
            [
                f"{FILE}: triggers[0].event.topics is required",
                f"{FILE}: unknown key 'triggers[0].event.topic'; did you mean 'topics'?",
            ],
            id="in a trigger",
        ),
        pytest.param(
            '{"triggers": [{"event": {"topics": ["a"], "condition": lambda data, ctx, more: True}}]}',
            [
                f"{FILE}: triggers[0].event.condition: expected a function condition(input, ctx), found one of "
                "(data, ctx, more)"
            ],
            id="a condition with too many parameters",
        ),
        pytest.param(
            '{"triggers": [{"event": {"topics": ["a"], "condition": asyncio.sleep}}]}',
            [
                f"{FILE}: triggers[0].event.condition: expected a plain function for the condition of a plain handler, "
                "found an `async def`"
            ],
            id="a condition that nobody would await",
        ),
        pytest.param(
            '{"triggers": [{"event": {"topics": ["a"]}}], "timeoutSeconds": "soon"}',
            [
                f"{FILE}: timeoutSeconds: input should be a valid number, unable to parse string as a number, "
                "found 'soon'"
            ],
            id="a value",
        ),
    ],
)
def test_what_is_wrong_in_a_config_is_named_with_its_file(load: Load, config: str, lines: list[str]) -> None:
    found = load(f"import asyncio\nconfig = {config}\ndef handler(data, ctx): ...")
    with pytest.raises(errors.StepInvalid) as caught:
        handlers.spec_of(found, {"entrypoint": FILE, "image": "none"})
    assert str(caught.value).splitlines() == lines


@pytest.mark.parametrize(
    ("condition", "handler"),
    [
        pytest.param("lambda data, ctx, more=1: True", "def", id="a default"),
        pytest.param("lambda data, ctx, *rest, **more: True", "def", id="more than the two, or none"),
        pytest.param("asyncio.sleep", "async def", id="one that is awaited"),
    ],
)
def test_a_condition_may_be_a_function_of_two(load: Load, condition: str, handler: str) -> None:
    config = f'import asyncio\nconfig = {{"triggers": [{{"event": {{"topics": ["a"], "condition": {condition}}}}}]}}\n'
    spec = handlers.spec_of(load(f"{config}{handler} handler(data, ctx): ..."), {"entrypoint": FILE, "image": "none"})
    assert spec.events[0].condition == {"$comment": handlers.FUNCTION}


def test_triggers_may_be_written_with_helpers(load: Load) -> None:
    text = """
from bema import event, state
config = {"triggers": [
    event("a", "b", condition={"type": "object"}, ordering={}),
    state("g"),
    state("h", key="k", condition={"type": "object"}),
]}
def handler(data, ctx): ...
"""
    spec = handlers.spec_of(load(text), {"entrypoint": FILE, "image": "none"})
    condition = {"condition": {"type": "object"}}
    assert spec.dump()["triggers"] == [
        {"event": {"topics": ["a", "b"], "ordering": {}, **condition}},
        {"state": {"group": "g"}},
        {"state": {"group": "h", "key": "k", **condition}},
    ]


CONDITION = 'config = {"triggers": [{"event": {"topics": ["a"], "condition": CONDITION}}]}\n'
WANTED = f"{FILE}: triggers[0].event.condition: expected a function condition(input, ctx)"


@pytest.mark.parametrize(
    ("condition", "message"),
    [
        pytest.param(
            "def CONDITION(data, ctx):\n    yield True",
            f"{WANTED} that says yes or no when called, found one with `yield`",
            id="a generator",
        ),
        pytest.param(
            "async def CONDITION(data, ctx):\n    yield True",
            f"{WANTED} that says yes or no when called, found one with `yield`",
            id="an async generator",
        ),
        pytest.param(
            "class Condition:\n    def __call__(self, data, ctx):\n        yield True\nCONDITION = Condition()",
            f"{WANTED} that says yes or no when called, found one with `yield`",
            id="an object whose call is a generator",
        ),
        pytest.param(
            "def CONDITION(data, *, strict): ...",
            f"{WANTED}, found the keyword 'strict' without a default",
            id="a keyword that nobody gives",
        ),
        pytest.param("CONDITION = dict", f"{WANTED} or a model, found the type dict", id="a type"),
        pytest.param(
            "CONDITION = max", f"{WANTED}, found max, which does not tell its parameters", id="a builtin function"
        ),
    ],
)
def test_a_condition_that_could_not_decide_is_refused_with_these_words(
    load: Load, condition: str, message: str
) -> None:
    found = load(f"{condition}\n{CONDITION}def handler(data, ctx): ...")
    with pytest.raises(errors.StepInvalid) as caught:
        handlers.spec_of(found, {"entrypoint": FILE, "image": "none"})
    assert str(caught.value) == message


@pytest.mark.parametrize(
    "condition",
    [
        pytest.param("def CONDITION(): ...", id="of nothing"),
        pytest.param("CONDITION = lambda data, ctx: True", id="a lambda"),
        pytest.param("def CONDITION(data, ctx, *, strict=False): ...", id="with a keyword that has a default"),
        pytest.param("def CONDITION(*given, **more): ...", id="of anything"),
        pytest.param(
            "import functools\ndef fits(low, data, ctx): ...\nCONDITION = functools.partial(fits, 3)",
            id="a partial one",
        ),
        pytest.param("class C:\n    def fits(self, data): ...\nCONDITION = C().fits", id="a method"),
    ],
)
def test_a_condition_may_be(load: Load, condition: str) -> None:
    found = load(f"{condition}\n{CONDITION}def handler(data, ctx): ...")
    spec = handlers.spec_of(found, {"entrypoint": FILE, "image": "none"})
    assert spec.dump()["triggers"] == [
        {"event": {"topics": ["a"], "condition": {"$comment": "decided by a function in the Step's code"}}}
    ]


def test_a_tick_may_have_a_condition(load: Load) -> None:
    config = CRON.replace('"@daily"', '"@daily", "condition": lambda tick, ctx: True')
    spec = handlers.spec_of(load(config + "def handler(): ..."), {"entrypoint": FILE, "image": "none"})
    assert [trigger.cron and trigger.cron.condition for trigger in spec.triggers] == [{"$comment": handlers.FUNCTION}]


def test_the_handler_of_a_batch_takes_a_list(load: Load) -> None:
    found = load(MODEL + BATCH + "def handler(order: Order, ctx): ...")
    with pytest.raises(errors.StepInvalid) as caught:
        handlers.spec_of(found, {"entrypoint": FILE, "image": "none"})
    assert str(caught.value) == (
        f"{FILE}: expected handler(inputs: list[Order], ctx) for a trigger with a batch, found an input of type Order"
    )


def test_a_config_is_left_as_its_author_wrote_it(load: Load) -> None:
    found = load(MODEL + CONFIG.replace('["a"]', '["a"], "input": Order') + "def handler(order, ctx): ...")
    handlers.spec_of(found, {"entrypoint": FILE, "image": "none"})
    written = found.config["triggers"][0]["event"]["input"]
    assert issubclass(written, BaseModel)


def test_a_noop_has_no_handler(load: Load) -> None:
    found = load('config = {"virtualEmits": ["approved"]}')
    assert found.function is None
    assert not found.is_async
    assert handlers.spec_of(found, {"entrypoint": FILE}).dump()["virtualEmits"] == ["approved"]


def test_loading_a_file_twice_gives_two_modules(load: Load) -> None:
    text = CONFIG + "seen = []\ndef handler(data, ctx): seen.append(data)"
    one, other = load(text), load(text)
    assert one.function is not other.function
