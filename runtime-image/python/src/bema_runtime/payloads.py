"""JSON in and out: what handlers give as bytes, what arrives as what handlers want.

An input is checked against the handler's own types where it has them (the model is the authority, its validators
included), else against the trigger's JSON Schema.
"""

from __future__ import annotations

import contextlib
import dataclasses
import enum
import functools
import json
import math
import typing
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import orjson
import pydantic
import pydantic.dataclasses
from pydantic.fields import FieldInfo

from bema import handlers
from bema.contract import errors
from bema_runtime import schemas


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing that is wrong with an input."""

    field: str
    """Path of the field, with dots; empty for the input itself."""
    message: str
    found: str

    def as_dict(self) -> dict[str, str]:
        return dataclasses.asdict(self)


class InputInvalid(Exception):
    """An input that is not what was declared. `malformed` when it is not even JSON."""

    def __init__(self, problems: list[Problem], *, malformed: bool = False) -> None:
        super().__init__("; ".join(f"{p.field or 'input'}: {p.message}, found {p.found}" for p in problems))
        self.problems = problems
        self.malformed = malformed


Decode = Callable[[bytes], Any]


def dumps(value: Any, *, what: str, limit: int) -> bytes:
    """A value as JSON. Raises `PayloadInvalid` for what JSON cannot say, `PayloadTooLarge` above `limit` bytes."""
    parts = [value]

    def convert(item: Any) -> Any:
        parts.append(plain := _plain(item))
        return plain

    try:
        data = orjson.dumps(value, default=convert, option=orjson.OPT_PASSTHROUGH_DATACLASS)
    except TypeError as error:
        raise errors.PayloadInvalid(f"{what}: expected a value that JSON can hold, found {error}") from error
    if b"null" in data and (found := _not_finite(parts)) is not None:
        raise errors.PayloadInvalid(f"{what}: expected a value that JSON can hold, found {found}")
    if len(data) > limit:
        raise errors.PayloadTooLarge(
            f"{what}: expected at most {limit} bytes of JSON, found {len(data)}; store the data elsewhere and send a "
            "reference"
        )
    return data


def _not_finite(value: Any) -> float | None:
    """A NaN or an infinity in what orjson writes by itself: it writes null for it."""
    match value:
        case float():
            return None if math.isfinite(value) else value
        case dict():
            return next((found for item in value.values() if (found := _not_finite(item)) is not None), None)
        case list() | tuple():
            return next((found for item in value if (found := _not_finite(item)) is not None), None)
        case enum.Enum():
            return _not_finite(value.value)
    return None


def _plain(value: Any) -> Any:
    """What orjson cannot write by itself, or would write otherwise than the schema says: models and dataclasses, by
    their aliases. Raises `TypeError`."""
    kind = type(value)
    if isinstance(value, pydantic.BaseModel):
        return value.model_dump(mode="json", by_alias=True)
    if pydantic.dataclasses.is_pydantic_dataclass(kind):
        return kind.__pydantic_serializer__.to_python(value, mode="json", by_alias=True)
    if dataclasses.is_dataclass(kind):
        return {written: getattr(value, name) for name, written in _fields(kind)}
    if isinstance(value, set | frozenset):
        return list(value)
    raise TypeError(f"a {kind.__name__}")


@functools.lru_cache(maxsize=1024)
def _fields(kind: Any) -> list[tuple[str, str]]:
    """The fields of a plain dataclass, each with the name that its schema has for it."""
    try:
        hints = typing.get_type_hints(kind, include_extras=True)
    except Exception:  # noqa: BLE001 - an annotation of any kind: such a type has no schema, and no aliases
        hints = {}
    return [
        (field.name, _alias(field, hints.get(field.name)) or field.name)
        for field in dataclasses.fields(kind)
        if not field.name.startswith("_")
    ]


def _alias(field: dataclasses.Field[Any], hint: Any) -> str | None:
    for said in (field.default, *getattr(hint, "__metadata__", ())):
        if isinstance(said, FieldInfo) and (alias := said.serialization_alias or said.alias):
            return alias
    return None


def decoder(annotation: Any, schema: Mapping[str, Any] | None) -> Decode:
    """How to read an input: by a type, else by a JSON Schema, else as any JSON."""
    if handlers.is_typed(annotation):
        return _typed(pydantic.TypeAdapter(annotation))
    if schema is not None:
        return _by_schema(schema)
    return _any


def _any(data: bytes) -> Any:
    try:
        return orjson.loads(data)
    except orjson.JSONDecodeError as error:
        constant = _constant(data) if _may_have_constants(data) else None
        raise _malformed(str(error) if constant is None else f"which has no {constant}", data) from error


def _may_have_constants(data: bytes) -> bool:
    return b"NaN" in data or b"Infinity" in data


def _constant(data: bytes) -> str | None:
    """What many take for JSON and is none: `NaN`, `Infinity` or `-Infinity`."""
    found: list[str] = []
    with contextlib.suppress(ValueError, RecursionError):
        json.loads(data, parse_constant=found.append)
    return found[0] if found else None


def _malformed(message: str, data: bytes) -> InputInvalid:
    found = "nothing" if not data else _short(data.decode("utf-8", "replace"))
    return InputInvalid([Problem("", f"expected JSON ({message})", found)], malformed=True)


def _typed(adapter: pydantic.TypeAdapter[Any]) -> Decode:
    def decode(data: bytes) -> Any:
        if _may_have_constants(data):
            _any(data)  # pydantic takes them
        try:
            return adapter.validate_json(data)
        except pydantic.ValidationError as error:
            raise from_pydantic(error, data) from error

    return decode


def from_pydantic(error: pydantic.ValidationError, data: bytes) -> InputInvalid:
    """The problems that pydantic found, in our words."""
    details = error.errors(include_url=False, include_context=False)
    if details[0]["type"] == "json_invalid":
        return _malformed(details[0]["msg"], data)
    return InputInvalid([Problem(".".join(map(str, d["loc"])), d["msg"], _found(d["input"])) for d in details])


def _by_schema(schema: Mapping[str, Any]) -> Decode:
    check = checker(schema)

    def decode(data: bytes) -> Any:
        value = _any(data)
        check(value)
        return value

    return decode


def checker(schema: Mapping[str, Any]) -> Callable[[Any], None]:
    """A function that raises `InputInvalid` for values that a JSON Schema (draft 2020-12) refuses. Raises `StepInvalid`
    for a schema that is none."""
    try:
        validator = schemas.compiled(schema)
    except errors.StepInvalid as error:
        raise errors.StepInvalid(
            f"expected JSON Schemas (draft 2020-12) in the Step, found one that is invalid: {error}"
        ) from error

    def check(value: Any) -> None:
        if not validator.is_valid(value):
            raise InputInvalid(
                [
                    Problem(".".join(map(str, e.instance_path)), e.message, _found(e.instance))
                    for e in validator.iter_errors(value)
                ]
            )

    return check


def _found(value: Any) -> str:
    """A value that was found, in the spelling of who sent it."""
    try:
        return _short(orjson.dumps(value).decode())
    except TypeError:
        return _short(repr(value))


def _short(text: str) -> str:
    return text if len(text) <= 100 else text[:99] + "…"
