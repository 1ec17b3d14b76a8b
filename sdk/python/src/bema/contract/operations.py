"""Changes to one JSON value: set, merge, increment, decrement, append, remove, at a path inside it. Pure.

A path is a list of keys and indexes, or the same with dots (`"items.0.quantity"`); empty means the value itself.
Objects that a path leads through and that do not exist are created; lists are never grown by a path. Digits between
dots are an index only as one writes a number: `01234` is a key.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from bema.contract import errors

Path = str | Sequence[str | int]

_INDEX = re.compile(r"0|[1-9][0-9]{0,14}")
"""Text that is the same again after it was a number, in any language."""


class Operator(StrEnum):
    SET = "set"
    MERGE = "merge"
    INCREMENT = "increment"
    DECREMENT = "decrement"
    APPEND = "append"
    REMOVE = "remove"


@dataclass(frozen=True, slots=True)
class Operation:
    """One change. `value` is what to set, merge, add, take away or append; None for remove."""

    operator: Operator
    path: tuple[str | int, ...] = ()
    value: Any = None

    def __post_init__(self) -> None:
        """Raises `PayloadInvalid`: here, where its author sees it, and not where it is committed."""
        if not isinstance(self.operator, Operator):
            raise errors.PayloadInvalid(f"operator: expected one of {', '.join(Operator)}, found {self.operator!r}")
        if self.path:
            object.__setattr__(self, "path", tuple([_part(part, self.path) for part in self.path]))


def _part(part: Any, path: Any) -> str | int:
    """Of the plain type, whatever its own is: it has to mean the same in another process."""
    if isinstance(part, str):
        return str.__str__(part)
    if isinstance(part, int) and not isinstance(part, bool):
        return int(part)
    raise errors.PayloadInvalid(f"path: expected texts and whole numbers, found {part!r} in {path!r}")


def _parts(path: Path) -> tuple[str | int, ...]:
    if not isinstance(path, str):
        if not isinstance(path, list | tuple):
            raise errors.PayloadInvalid(f"path: expected a text, or a list of texts and whole numbers, found {path!r}")
        return path  # type: ignore[return-value]
    return tuple(int(part) if _INDEX.fullmatch(part) else part for part in path.split(".")) if path else ()


def set(path: Path, value: Any) -> Operation:
    return Operation(Operator.SET, _parts(path), value)


def merge(value: dict[str, Any], path: Path = "") -> Operation:
    """Put the keys of `value` into the object at `path`; one level, as `dict.update` does."""
    return Operation(Operator.MERGE, _parts(path), value)


def increment(path: Path = "", by: float = 1) -> Operation:
    """Add `by` to the number at `path`; a missing one counts as 0."""
    return Operation(Operator.INCREMENT, _parts(path), by)


def decrement(path: Path = "", by: float = 1) -> Operation:
    """Take `by` from the number at `path`; a missing one counts as 0."""
    return Operation(Operator.DECREMENT, _parts(path), by)


def append(value: Any, path: Path = "") -> Operation:
    """Put `value` at the end of the list at `path`; a missing one counts as empty."""
    return Operation(Operator.APPEND, _parts(path), value)


def remove(path: Path) -> Operation:
    """Take away what is at `path`; nothing there is no error."""
    return Operation(Operator.REMOVE, _parts(path))


_MISSING: Any = object()


def apply(value: Any, operations: Sequence[Operation]) -> Any:
    """A new value with the operations applied in order; `value` is None for a key that does not exist.

    Raises `PayloadInvalid` when an operation meets something of the wrong type.
    """
    result = copy.deepcopy(value)
    for operation in operations:
        result = _apply(result, operation)
    return result


def is_nothing(result: Any, operations: Sequence[Operation]) -> bool:
    """Whether a key that does not exist does so after the operations, too, which gave `result`. Null is a value where
    it was set."""
    return result is None and not any(one.operator is Operator.SET and not one.path for one in operations)


def _apply(root: Any, operation: Operation) -> Any:
    if not operation.path:
        return None if operation.operator is Operator.REMOVE else _changed(root, operation)
    if root is None:
        if operation.operator is Operator.REMOVE:
            return None
        root = {}
    parent = root
    for position, part in enumerate(operation.path[:-1]):
        child = _get(parent, part, operation)
        if child is _MISSING or child is None:
            if operation.operator is Operator.REMOVE:
                return root
            child = {}
            _put(parent, part, child, operation.path[: position + 1])
        parent = child
    last = operation.path[-1]
    found = _get(parent, last, operation)
    if operation.operator is not Operator.REMOVE:
        _put(parent, last, _changed(None if found is _MISSING else found, operation), operation.path)
    elif found is not _MISSING:
        del parent[str(last) if isinstance(parent, dict) else last]
    return root


def _get(parent: Any, part: str | int, operation: Operation) -> Any:
    if isinstance(parent, dict):
        return parent.get(str(part), _MISSING)
    if isinstance(parent, list) and isinstance(part, int):
        return parent[part] if 0 <= part < len(parent) else _MISSING
    raise errors.PayloadInvalid(
        f"{operation.operator} at {_text(operation.path)}: expected an object or a list to hold {part!r}, "
        f"found {_type(parent)}"
    )


def _put(parent: Any, part: str | int, value: Any, path: Sequence[str | int]) -> None:
    if isinstance(parent, dict):
        parent[str(part)] = value
    elif isinstance(part, int) and 0 <= part < len(parent):
        parent[part] = value
    else:
        raise errors.PayloadInvalid(f"{_text(path)}: expected an index below {len(parent)}, found {part!r}")


def _changed(found: Any, operation: Operation) -> Any:
    match operation.operator:
        case Operator.SET:
            return copy.deepcopy(operation.value)
        case Operator.MERGE:
            base = _expect(found, dict, {}, operation)
            return {**base, **copy.deepcopy(_expect(operation.value, dict, {}, operation))}
        case Operator.INCREMENT:
            return _number(found, operation) + _number(operation.value, operation)
        case Operator.DECREMENT:
            return _number(found, operation) - _number(operation.value, operation)
        case Operator.APPEND:
            return [*_expect(found, list, [], operation), copy.deepcopy(operation.value)]
        case Operator.REMOVE:
            raise AssertionError("remove changes no value")


def _number(found: Any, operation: Operation) -> Any:
    if found is None:
        return 0
    if isinstance(found, bool) or not isinstance(found, int | float):
        raise errors.PayloadInvalid(
            f"{operation.operator} at {_text(operation.path)}: expected a number, found {_type(found)}"
        )
    return found


def _expect(found: Any, kind: type, empty: Any, operation: Operation) -> Any:
    if found is None:
        return empty
    if not isinstance(found, kind):
        expected = "an object" if kind is dict else "a list"
        raise errors.PayloadInvalid(
            f"{operation.operator} at {_text(operation.path)}: expected {expected}, found {_type(found)}"
        )
    return found


def _text(path: Sequence[str | int]) -> str:
    return repr(".".join(str(part) for part in path)) if path else "the value itself"


def _type(value: Any) -> str:
    names = {dict: "an object", list: "a list", str: "a string", bool: "a boolean", int: "a number", float: "a number"}
    return names.get(type(value), "nothing")
