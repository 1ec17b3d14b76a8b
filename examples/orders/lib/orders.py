"""What an order looks like, outside and between the Steps."""

from collections import Counter
from collections.abc import Sequence
from typing import Annotated

from pydantic import BaseModel, Field


class Line(BaseModel):
    """So many of one product."""

    product: str
    quantity: Annotated[int, Field(ge=1, le=100, strict=True)]


class NewOrder(BaseModel):
    """An order as a customer sends it."""

    order_id: Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]{1,64}$")]
    """Chosen by the customer, so that sending an order again cannot make two."""
    customer: Annotated[str, Field(min_length=1, max_length=200)]
    lines: Annotated[list[Line], Field(min_length=1, max_length=20)]


class Order(NewOrder):
    """An order that was taken: the data of `order.created` and `order.reserved`."""

    total_cents: Annotated[int, Field(ge=0, strict=True)]


class Closed(BaseModel):
    """An order that nothing more happens to: the data of `order.paid` and `order.rejected`."""

    order_id: str
    customer: str
    total_cents: Annotated[int, Field(ge=0, strict=True)]
    reason: str | None = None
    """Why it was rejected."""


def quantities(lines: Sequence[Line]) -> dict[str, int]:
    """How many of each product, summed over the lines."""
    counted: Counter[str] = Counter()
    for line in lines:
        counted[line.product] += line.quantity
    return dict(counted)
