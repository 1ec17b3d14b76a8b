"""What the shop sells. Five products, so that a thousand orders meet on a few keys of the stock."""

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Product:
    """One thing on the shelf."""

    cents: int
    """Price of one."""
    initial: int
    """How many there are before the first is sold. Kettles and mugs run out."""


CATALOGUE = {
    "espresso": Product(cents=1290, initial=5000),
    "filter": Product(cents=990, initial=5000),
    "tea": Product(cents=750, initial=5000),
    "mug": Product(cents=1150, initial=200),
    "kettle": Product(cents=5900, initial=20),
}


def unknown(products: Mapping[str, int]) -> list[str]:
    """The products that the shop does not sell."""
    return sorted(name for name in products if name not in CATALOGUE)


def total(quantities: Mapping[str, int]) -> int:
    """What so many of each product cost, in cents."""
    return sum(CATALOGUE[name].cents * quantity for name, quantity in quantities.items())
