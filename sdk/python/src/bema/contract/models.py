"""The base of every model: frozen, closed, camelCase outside and snake_case inside."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, ConfigDict, Field
from pydantic.alias_generators import to_camel


class Model(BaseModel):
    """A frozen value that refuses keys it does not know and reads both camelCase and snake_case."""

    model_config = ConfigDict(
        alias_generator=to_camel,
        populate_by_name=True,
        extra="forbid",
        frozen=True,
        use_attribute_docstrings=True,
    )

    def dump(self) -> dict[str, Any]:
        """As JSON-ready values in camelCase, without what is None."""
        return self.model_dump(mode="json", by_alias=True, exclude_none=True)


def _no_nul(text: str) -> str:
    if "\x00" in text:
        raise ValueError("expected text without NUL characters")
    return text


Text = Annotated[str, AfterValidator(_no_nul)]
JsonSchema = Annotated[dict[str, Any], Field(json_schema_extra={"x-kubernetes-preserve-unknown-fields": True})]
"""A JSON Schema of draft 2020-12."""
