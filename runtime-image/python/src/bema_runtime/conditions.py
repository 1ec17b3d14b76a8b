"""Conditions on triggers: whether what fired is for the Step at all."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import jsonschema_rs
import orjson

from bema import handlers
from bema.contract import errors, triggers
from bema_runtime import schemas


@dataclass(frozen=True, slots=True)
class Condition:
    """A function of the input and the context, or a schema that the data has to fit."""

    function: Callable[..., Any] | None
    takes: int
    schema: jsonschema_rs.Draft202012Validator | None

    async def holds(self, data: bytes, value: Any, context: Any) -> bool:
        """For a handler that is `async def`; the function may be one too."""
        if self.function is None:
            return self._fits(data)
        result = self.function(*(value, context)[: self.takes])
        return bool(await result if inspect.isawaitable(result) else result)

    def holds_now(self, data: bytes, value: Any, context: Any) -> bool:
        """For a handler that is a plain function."""
        if self.function is None:
            return self._fits(data)
        result = self.function(*(value, context)[: self.takes])
        if inspect.iscoroutine(result):
            result.close()
            raise errors.NonRetryable(
                "expected a plain function for the condition of a plain handler, found a coroutine"
            )
        return bool(result)

    def _fits(self, data: bytes) -> bool:
        return self.schema is None or self.schema.is_valid(orjson.loads(data) if data else None)


def of(schema: Mapping[str, Any], written: Any, *, where: str) -> Condition:
    """The condition of a trigger: the schema of the Binding, whatever the code says, or where that leaves it to a
    function, the one that the author wrote. Raises `StepInvalid` where there is none then: nothing would be left out.
    """
    if schema.get("$comment") != triggers.FUNCTION:
        try:
            return Condition(None, 0, schemas.compiled(schema))
        except errors.StepInvalid as error:
            raise errors.StepInvalid(
                f"{where}: condition: expected a JSON Schema (draft 2020-12), found one that is invalid: {error}"
            ) from error
    if not callable(written) or handlers.is_model(written):
        raise errors.StepInvalid(
            f"{where}: its condition is decided by a function in the code: expected the same trigger in `config`, "
            "found none; apply the Step's manifest and its code together"
        )
    handlers.check_condition(written, where=f"{where}: condition")
    parameters = inspect.signature(written).parameters.values()
    positional = sum(item.kind in (item.POSITIONAL_ONLY, item.POSITIONAL_OR_KEYWORD) for item in parameters)
    return Condition(written, min(positional, 2), None)
