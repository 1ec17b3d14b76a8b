"""A Step file made usable: its module loaded, its config parsed, its handler's input understood.

Both sides that need a handler come here: discovery, which makes a Step of it, and the runtime, which executes it.
Nothing is registered globally; loading a file twice gives two modules.
"""

from __future__ import annotations

import dataclasses
import difflib
import importlib.util
import inspect
import sys
import typing
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import pydantic

from bema import authoring
from bema.contract import errors, names
from bema.contract.steps import StepSpec, parse_spec
from bema.contract.triggers import FUNCTION

_SUFFIXES = ("_step.py", ".step.py")


@dataclass(frozen=True, slots=True)
class Handler:
    """A loaded Step file."""

    file: str
    """Path below the app's folder."""
    written_name: str
    config: Mapping[str, Any]
    """As the author wrote it, models included."""
    function: Callable[..., Any] | None
    input_type: Any
    """Annotation of the handler's first parameter: the body's type for an api handler; `Any` where there is none."""
    takes_request: bool
    takes: int
    """How many parameters the handler takes: 0, 1 (the input) or 2 (the input and the context)."""

    @property
    def name(self) -> str:
        return names.label(self.written_name)

    @property
    def is_async(self) -> bool:
        """Also for a plain function around an async one, as decorators make them."""
        return self.function is not None and inspect.iscoroutinefunction(inspect.unwrap(self.function))


def is_step_file(path: Path) -> bool:
    return path.name.endswith(_SUFFIXES) and path.name not in _SUFFIXES


def load(folder: Path, file: str) -> Handler:
    """Load a Step file below an app's folder. Raises `StepInvalid` that says what was expected and found; an error
    in the file itself comes as it is, as the cause of a `StepInvalid` with file and line."""
    module = _load_module(folder, file)
    config = getattr(module, "config", None)
    function = _function(module, file)
    if not isinstance(config, Mapping):
        raise errors.StepInvalid(f"{file}: expected a dict named `config`, found {_found(module, 'config')}")
    triggers = config.get("triggers")
    if triggers and function is None:
        raise errors.StepInvalid(f"{file}: expected a function named `handler` for its triggers, found none")
    if function is not None and not triggers:
        near = difflib.get_close_matches("triggers", [str(key) for key in config if key != "triggers"], n=1)
        found = f"{near[0]!r}" if near else "none"
        raise errors.StepInvalid(f"{file}: expected triggers for its handler, found {found} in `config`")
    written = config.get("name", _plain_name(file))
    if not isinstance(written, str) or not written:
        raise errors.StepInvalid(f"{file}: name: expected a text, found {written!r}")
    input_type, takes_request, takes = _signature(file, function) if function is not None else (Any, False, 0)
    if takes and (takes_request or is_typed(input_type)):
        _check_input(file, input_type, takes_request, _kinds(triggers))
    return Handler(file, written, config, function, input_type, takes_request, takes)


def load_bound(folder: Path, file: str) -> Handler:
    """Load the code of a Step whose spec is known, as runtimes do: from any Python file, with a `handler`. What it says
    of itself in `config` is kept for the models in it, and need not be there. Raises as `load` does."""
    module = _load_module(folder, file)
    config = getattr(module, "config", None)
    function = _function(module, file)
    if function is None:
        raise errors.StepInvalid(f"{file}: expected a function named `handler`, found none")
    return Handler(file, file, config if isinstance(config, Mapping) else {}, function, *_signature(file, function))


def _function(module: ModuleType, file: str) -> Callable[..., Any] | None:
    function = getattr(module, "handler", None)
    if function is not None and (not callable(function) or isinstance(function, type)):
        raise errors.StepInvalid(f"{file}: expected a function named `handler`, found {_found(module, 'handler')}")
    if _yields(function):
        raise errors.StepInvalid(f"{file}: expected a handler that does its work when called, found one with `yield`")
    return function


def _kinds(triggers: Any) -> set[str]:
    """What the triggers in a config are called, right or wrong."""
    if not isinstance(triggers, list | tuple):
        return set()
    return {str(kind) for trigger in triggers if isinstance(trigger, Mapping) for kind in trigger}


def _check_input(file: str, annotation: Any, takes_request: bool, kinds: set[str]) -> None:
    """Raises `StepInvalid` where none of the triggers has an input of the handler's type."""
    found = f"found an input of type {'Request' if takes_request else _name(annotation)}"
    if kinds == {"api"} and not takes_request:
        raise errors.StepInvalid(
            f"{file}: expected handler(request: Request[{_name(annotation)}], ctx) for api triggers, {found}"
        )
    if takes_request and kinds and kinds <= {"event", "cron", "state", "stream"}:
        raise errors.StepInvalid(f"{file}: expected handler(input, ctx) for triggers other than api, {found}")
    if kinds == {"state"} and annotation is not authoring.StateChange:
        raise errors.StepInvalid(f"{file}: expected handler(change: StateChange, ctx) for state triggers, {found}")


def _name(annotation: Any) -> str:
    return str(getattr(annotation, "__name__", annotation))


def _plain_name(file: str) -> str:
    name = Path(file).name
    return next(name.removesuffix(suffix) for suffix in _SUFFIXES if name.endswith(suffix))


def _found(module: ModuleType, name: str) -> str:
    return type(getattr(module, name)).__name__ if hasattr(module, name) else "none"


def _load_module(folder: Path, file: str) -> ModuleType:
    path = folder / file
    if str(folder) not in sys.path:
        sys.path.insert(0, str(folder))
    module_name = "bema_step_" + names.code_key(file).replace(".", "_").replace("-", "_")
    spec = importlib.util.spec_from_file_location(module_name, path)
    if spec is None or spec.loader is None or not path.is_file():
        raise errors.StepInvalid(f"{file}: expected a Python file, found none at {path}")
    module = importlib.util.module_from_spec(spec)
    sys.modules[module_name] = module
    try:
        spec.loader.exec_module(module)
    except SyntaxError as error:
        where = Path(error.filename).name if error.filename else file
        raise errors.StepInvalid(f"{file}: syntax error in {where}, line {error.lineno}: {error.msg}") from error
    except (Exception, KeyboardInterrupt, SystemExit) as error:
        raise errors.StepInvalid(f"{file}:{_line(error, path)}: {type(error).__name__}: {error}") from error
    return module


def _line(error: BaseException, path: Path) -> int:
    """The line of the Step file that the error came through."""
    line = 1
    trace = error.__traceback__
    while trace is not None:
        if trace.tb_frame.f_code.co_filename == str(path):
            line = trace.tb_lineno
        trace = trace.tb_next
    return line


def _signature(file: str, function: Callable[..., Any]) -> tuple[Any, bool, int]:
    parameters = [
        parameter
        for parameter in inspect.signature(function).parameters.values()
        if parameter.kind in (parameter.POSITIONAL_ONLY, parameter.POSITIONAL_OR_KEYWORD)
    ]
    required = [
        parameter.name
        for parameter in inspect.signature(function).parameters.values()
        if parameter.kind is parameter.KEYWORD_ONLY and parameter.default is parameter.empty
    ]
    if required:
        raise errors.StepInvalid(
            f"{file}: expected handler(input, ctx), found the keyword {required[0]!r} without a default"
        )
    if len(parameters) > 2:
        found = ", ".join(parameter.name for parameter in parameters)
        raise errors.StepInvalid(f"{file}: expected handler(input, ctx), found handler({found})")
    if not parameters:
        return Any, False, 0
    try:
        hints = typing.get_type_hints(function, include_extras=True)
    except Exception as error:
        raise errors.StepInvalid(f"{file}: the handler's annotations: {error}") from error
    annotation = hints.get(parameters[0].name, Any)
    if annotation is authoring.Request or typing.get_origin(annotation) is authoring.Request:
        body = typing.get_args(annotation)
        return (body[0] if body else Any), True, len(parameters)
    return annotation, False, len(parameters)


def is_typed(annotation: Any) -> bool:
    """Whether an annotation says what the input looks like: a model, a dataclass, a TypedDict, or a combination."""
    return annotation not in (Any, None, type(None), dict, inspect.Parameter.empty) and not isinstance(
        annotation, typing.TypeVar
    )


def item_type(annotation: Any) -> Any:
    """What the items of a list are annotated as: the handler of a batch takes a list. `Any` where nothing says."""
    if _is_list(annotation) and (of := typing.get_args(annotation)):
        return of[0]
    return Any


def _is_list(annotation: Any) -> bool:
    return (typing.get_origin(annotation) or annotation) in (list, Sequence)


def is_model(value: Any) -> bool:
    """Whether a value in a config is a type that stands for its schema."""
    return isinstance(value, type) and (
        issubclass(value, pydantic.BaseModel) or dataclasses.is_dataclass(value) or typing.is_typeddict(value)
    )


def json_schema(annotation: Any, *, where: str) -> dict[str, Any]:
    """The JSON Schema of a type. Raises `StepInvalid` that names `where` for a type that has none."""
    try:
        return pydantic.TypeAdapter(annotation).json_schema()
    except (pydantic.PydanticUserError, pydantic.PydanticUndefinedAnnotation) as error:
        found = getattr(annotation, "__name__", None) or str(annotation)
        raise errors.StepInvalid(
            f"{where}: expected a type that has a JSON Schema, found {found}; "
            "use a pydantic model, a dataclass or a TypedDict (before Python 3.12 the one of typing_extensions)"
        ) from error


def spec_of(handler: Handler, code: Mapping[str, Any]) -> StepSpec:
    """The spec of a loaded Step file, with `code` as its source. Raises `StepInvalid`, a line per problem."""
    config = {key: value for key, value in handler.config.items() if key != "name"}
    if isinstance(config.get("triggers"), list | tuple):
        config["triggers"] = [
            _plain_trigger(handler, trigger, number) for number, trigger in enumerate(config["triggers"])
        ]
    if isinstance(config.get("emits"), list | tuple):
        config["emits"] = [_plain_schemas(handler, emit, ("schema",)) for emit in config["emits"]]
    if handler.function is not None:
        config["code"] = code
    if handler.written_name != handler.name:
        config.setdefault("displayName", handler.written_name)
    return parse_spec(config, where=handler.file)


def _plain_trigger(handler: Handler, trigger: Any, number: int) -> Any:
    """A trigger with models replaced by their schemas, and the handler's own annotation where the config has none."""
    if not isinstance(trigger, Mapping):
        return trigger
    plain = {}
    for kind, member in trigger.items():
        member = _plain_schemas(handler, member, ("input", "body", "query", "condition"))
        if isinstance(member, dict) and callable(condition := member.get("condition")):
            where = f"{handler.file}: triggers[{number}].{kind}.condition"
            check_condition(condition, where=where)
            if inspect.iscoroutinefunction(condition) and not handler.is_async:
                raise errors.StepInvalid(
                    f"{where}: expected a plain function for the condition of a plain handler, found an `async def`"
                )
            member["condition"] = {"$comment": FUNCTION}
        if isinstance(member, dict) and isinstance(responses := member.get("responses"), Mapping):
            member["responses"] = _plain_schemas(handler, responses, tuple(responses))
        schema = {"event": "input", "api": "body"}.get(kind)
        wants = kind == "event" or (kind == "api" and handler.takes_request)
        if schema and wants and isinstance(member, dict):
            annotation = _batch_item(handler) if member.get("batch") is not None else handler.input_type
            if is_typed(annotation):
                member.setdefault(schema, json_schema(annotation, where=f"{handler.file}: the handler's input"))
        plain[kind] = member
    return plain


def check_condition(condition: Any, *, where: str) -> None:
    """Raises `StepInvalid` for what cannot be called with input and context, or whose answer says nothing."""
    expected = f"{where}: expected a function condition(input, ctx)"
    if isinstance(condition, type):
        raise errors.StepInvalid(f"{expected} or a model, found the type {condition.__name__}")
    if any(map(_yields, (condition, getattr(condition, "__call__", None)))):  # noqa: B004 — it is asked what it is
        raise errors.StepInvalid(f"{expected} that says yes or no when called, found one with `yield`")
    try:
        parameters = inspect.signature(condition).parameters.values()
    except (TypeError, ValueError) as error:
        raise errors.StepInvalid(f"{expected}, found {_name(condition)}, which does not tell its parameters") from error
    required = [parameter for parameter in parameters if parameter.default is parameter.empty]
    named = [parameter.name for parameter in required if parameter.kind is parameter.KEYWORD_ONLY]
    if named:
        raise errors.StepInvalid(f"{expected}, found the keyword {named[0]!r} without a default")
    positional = [
        parameter.name
        for parameter in required
        if parameter.kind in (parameter.POSITIONAL_ONLY, parameter.POSITIONAL_OR_KEYWORD)
    ]
    if len(positional) > 2:
        raise errors.StepInvalid(f"{expected}, found one of ({', '.join(positional)})")


def _yields(function: Any) -> bool:
    return inspect.isgeneratorfunction(function) or inspect.isasyncgenfunction(function)


def _batch_item(handler: Handler) -> Any:
    """Raises `StepInvalid` for a handler whose annotation is no list."""
    if is_typed(handler.input_type) and not _is_list(handler.input_type):
        raise errors.StepInvalid(
            f"{handler.file}: expected handler(inputs: list[{_name(handler.input_type)}], ctx) for a trigger with a "
            f"batch, found an input of type {_name(handler.input_type)}"
        )
    return item_type(handler.input_type)


def _plain_schemas(handler: Handler, value: Any, keys: tuple[str, ...]) -> Any:
    if not isinstance(value, Mapping):
        return value
    return {
        key: json_schema(item, where=f"{handler.file}: {key}") if key in keys and is_model(item) else item
        for key, item in value.items()
    }
