"""JSON Schemas, compiled: draft 2020-12. A schema is whole: what a `$ref` names outside of it is fetched from nowhere,
neither from the network nor from a disk."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jsonschema_rs

from bema.contract import errors


def compiled(schema: Mapping[str, Any]) -> jsonschema_rs.Draft202012Validator:
    """Raises `StepInvalid` that says what is wrong with it, and where."""
    outside: list[str] = []

    def refuse(uri: str) -> Any:
        outside.append(uri)
        raise LookupError(uri)

    try:
        return jsonschema_rs.Draft202012Validator(dict(schema), retriever=refuse)
    except (jsonschema_rs.ValidationError, jsonschema_rs.ReferencingError, ValueError) as error:
        if outside:
            raise errors.StepInvalid(
                f"a $ref to {outside[0]}, which is not in the schema and is not fetched; copy it into $defs"
            ) from error
        at = "".join(f"/{part}" for part in getattr(error, "instance_path", None) or [])
        text = getattr(error, "message", None) or str(error)
        raise errors.StepInvalid(f"at {at}: {text}" if at else text) from error
