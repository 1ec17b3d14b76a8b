"""Amounts of bytes as Kubernetes writes them: `1048576`, `1Mi`, `2G`."""

from __future__ import annotations

import re
from typing import Annotated, Any

from pydantic import AfterValidator, BeforeValidator, Field

UNITS = {"": 1, "k": 10**3, "M": 10**6, "G": 10**9, "Ki": 2**10, "Mi": 2**20, "Gi": 2**30}
"""Bytes of each unit."""

LEAST_STORAGE = UNITS["Mi"]
"""Fewest bytes that an app may be given. Whoever says less has left out a unit, and the app would be full at once."""

STORAGE_MESSAGE = "expected at least 1Mi, such as 512Mi or 10Gi"

PATTERN = r"^[1-9][0-9]{0,15}(k|M|G|Ki|Mi|Gi)?$"


def parse(quantity: int | str) -> int:
    """Bytes of a quantity. Raises `ValueError` that says what was expected."""
    match = re.fullmatch(r"([1-9][0-9]{0,15})(k|M|G|Ki|Mi|Gi)?", str(quantity))
    if match is None:
        raise ValueError(f"expected a number of bytes such as 65536, 512Ki or 1Mi, found {quantity!r}")
    return int(match[1]) * UNITS[match[2] or ""]


def _check(quantity: Any) -> Any:
    """Before the union is tried, or each of its members would complain on a line of its own."""
    if isinstance(quantity, float) and quantity.is_integer():
        # YAML's 1e9, which the API server stores as the integer that it is.
        quantity = int(quantity)
    if not isinstance(quantity, int | str):
        raise ValueError(f"expected a number of bytes such as 65536, 512Ki or 1Mi, found {quantity!r}")
    parse(quantity)
    return quantity


Quantity = Annotated[
    int | str,
    BeforeValidator(_check),
    Field(json_schema_extra={"x-kubernetes-int-or-string": True, "minimum": 1, "maxLength": 18, "pattern": PATTERN}),
]
"""A quantity kept as it was written."""


def _check_storage(quantity: int | str) -> int | str:
    if parse(quantity) < LEAST_STORAGE:
        raise ValueError(f"{STORAGE_MESSAGE}, found {quantity!r}: is its unit missing?")
    return quantity


Storage = Annotated[Quantity, AfterValidator(_check_storage)]
"""A quantity of at least `LEAST_STORAGE`."""


def show(size: int) -> str:
    """Bytes as a quantity for people, of three digits at most: 12.3Mi."""
    unit = next((unit for unit in ("Gi", "Mi", "Ki") if size >= UNITS[unit]), "")
    return f"{float(f'{size / UNITS[unit]:.3g}'):g}{unit}"
