"""HTTP as api handlers see it: what they return becomes an answer, query parameters become what was declared."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, cast

import pydantic

from bema import authoring
from bema.contract import errors
from bema.contract.frames import HttpResponse
from bema_runtime import payloads

MAX_BODY = 64 * 1024 * 1024
_JSON = ("content-type", "application/json")
_TEXT = ("content-type", "text/plain; charset=utf-8")
_BYTES = ("content-type", "application/octet-stream")
_WHOLE = {"status", "body", "headers"}
_NAME = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+")
_VALUE = re.compile(r"([\x21-\x7e\xa1-\xff]([\t\x20-\x7e\xa0-\xff]*[\x21-\x7e\xa1-\xff])?)?")
_INTEGER = re.compile(r"[+-]?[0-9]{1,4000}")
_FRAMING = frozenset({"connection", "content-length", "transfer-encoding"})


def encode(result: Any) -> HttpResponse:
    """An answer from what a handler returned: a value, `(status, value)`, a dict of status, body and headers, or a
    `Response`. None is 204. Raises `PayloadInvalid` for what cannot be answered."""
    match result:
        case None:
            return HttpResponse(204, (), b"")
        case authoring.Response():
            return _answer(result.status, result.body, result.headers)
        case (int(status), body) if isinstance(result, tuple):
            return _answer(status, body, {})
        case {"status": int(status), "body": body, **more} if set(result) <= _WHOLE:
            return _answer(status, body, cast(Mapping[str, str], more.get("headers") or {}))
        case _:
            return _answer(200, result, {})


def _answer(status: int, body: Any, headers: Mapping[str, str]) -> HttpResponse:
    check_status(status)
    if body is None:
        content, kind = b"", None
    elif isinstance(body, bytes):
        content, kind = body, _BYTES
    elif isinstance(body, str):
        content, kind = body.encode(), _TEXT
    else:
        content, kind = payloads.dumps(body, what="the answer", limit=MAX_BODY), _JSON
    if status in (204, 304) and content:
        content, kind = b"", None  # HTTP has no body there
    pairs = header_pairs(headers)
    if kind is not None and all(name != "content-type" for name, _ in pairs):
        pairs.append(kind)
    return HttpResponse(status, tuple(pairs), content)


def check_status(status: Any, *, lowest: int = 200) -> int:
    """An HTTP status. Raises `PayloadInvalid` for any other."""
    if not isinstance(status, int) or not lowest <= status <= 599:
        raise errors.PayloadInvalid(f"expected an HTTP status from {lowest} to 599, found {status!r}")
    return status


def header_pairs(headers: Mapping[str, str]) -> list[tuple[str, str]]:
    """Headers of an answer. Raises `PayloadInvalid` for one that would break out of its line, or break the framing."""
    if not isinstance(headers, Mapping):
        raise errors.PayloadInvalid(f"expected headers by their names, found a {type(headers).__name__}")
    return [_header(str(name).lower(), str(value)) for name, value in headers.items()]


def _header(name: str, value: str) -> tuple[str, str]:
    if not _NAME.fullmatch(name) or not _VALUE.fullmatch(value):
        raise errors.PayloadInvalid(
            f"expected a header of printable Latin-1 text on one line, found {name!r}: {value!r}"
        )
    if name in _FRAMING:
        raise errors.PayloadInvalid(f"expected headers other than {', '.join(sorted(_FRAMING))}, found {name!r}")
    return name, value


def query_reader(model: Any, schema: Mapping[str, Any] | None) -> Callable[[Sequence[tuple[str, str]]], Any]:
    """How query parameters are read: into a model, as a dict checked against a JSON Schema, or as a dict of texts."""
    if model is not None:
        adapter = pydantic.TypeAdapter(model)
        lists = _list_fields(adapter.json_schema())
        return lambda pairs: _by_model(adapter, gather(pairs, lists))
    if schema is None:
        return lambda pairs: dict(pairs)
    check, lists = payloads.checker(schema), _list_fields(schema)
    properties = schema.get("properties") or {}

    def read(pairs: Sequence[tuple[str, str]]) -> Any:
        values = {name: _typed(value, properties.get(name)) for name, value in gather(pairs, lists).items()}
        try:
            check(values)
        except payloads.InputInvalid as error:
            raise _in_query(error) from error
        return values

    return read


def _by_model(adapter: pydantic.TypeAdapter[Any], values: Mapping[str, Any]) -> Any:
    try:
        return adapter.validate_python(values)
    except pydantic.ValidationError as error:
        raise _in_query(payloads.from_pydantic(error, b"")) from error


def _in_query(error: payloads.InputInvalid) -> payloads.InputInvalid:
    return payloads.InputInvalid(
        [payloads.Problem(f"query.{p.field}" if p.field else "query", p.message, p.found) for p in error.problems]
    )


def _list_fields(schema: Mapping[str, Any]) -> frozenset[str]:
    properties = schema.get("properties") or {}
    return frozenset(name for name, field in properties.items() if _is_list(field))


def _is_list(schema: Any) -> bool:
    """Also for `list[str] | None`."""
    if not isinstance(schema, Mapping):
        return False
    kinds = schema.get("type")
    return (
        kinds == "array"
        or (isinstance(kinds, list) and "array" in kinds)
        or any(_is_list(one) for one in schema.get("anyOf") or ())
    )


def gather(pairs: Sequence[tuple[str, str]], lists: frozenset[str]) -> dict[str, Any]:
    """Query parameters by name: the last one, or all of them for those that are declared as lists."""
    values: dict[str, Any] = {}
    for name, value in pairs:
        if name in lists:
            values.setdefault(name, []).append(value)
        else:
            values[name] = value
    return values


def _typed(value: Any, schema: Mapping[str, Any] | None) -> Any:
    """Text as the number or boolean that the schema declares; as it is where it is none, for the check to refuse."""
    if isinstance(value, list):
        return [_typed(item, (schema or {}).get("items")) for item in value]
    kind = (schema or {}).get("type")
    try:
        if kind == "integer":
            return int(value) if _INTEGER.fullmatch(value) else value
        if kind == "number":
            return number if math.isfinite(number := float(value)) else value
    except ValueError:
        return value
    if kind == "boolean":
        return {"true": True, "false": False}.get(value.lower(), value)
    return value
