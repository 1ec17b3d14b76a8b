"""The file of orders: the same every time, as committed, and malformed where it says so."""

import json
from collections import Counter
from pathlib import Path

import pydantic
import pytest

from examples.orders.lib.catalogue import CATALOGUE
from examples.orders.lib.orders import Closed, NewOrder, Order
from tools.demo import orderfiles
from tools.demo.orderfiles import Kind

COMMITTED = Path(__file__).parents[2] / "examples" / "orders" / "orders.txt"

INPUTS: dict[str, type[pydantic.BaseModel]] = {
    "order.created": Order,
    "order.reserved": Order,
    "order.paid": Closed,
    "order.rejected": Closed,
}


def test_the_committed_file_is_what_the_generator_makes() -> None:
    assert COMMITTED.read_text() == orderfiles.dump(list(orderfiles.generate(1000)))


def test_a_file_read_is_the_file_written() -> None:
    lines = list(orderfiles.generate(300))
    assert orderfiles.parse(orderfiles.dump(lines)) == lines


def test_a_shorter_file_is_the_beginning_of_a_longer_one() -> None:
    assert list(orderfiles.generate(1000))[:200] == list(orderfiles.generate(200))


def test_three_per_cent_are_malformed_in_three_ways() -> None:
    counts = Counter(line.kind for line in orderfiles.generate(1000))
    assert counts == {Kind.ORDER: 970, Kind.BROKEN_JSON: 10, Kind.WRONG_TYPES: 10, Kind.WRONG_EVENT: 10}


def test_another_seed_makes_other_orders() -> None:
    assert list(orderfiles.generate(10, seed=1)) != list(orderfiles.generate(10, seed=2))


def test_good_orders_are_orders_with_ids_of_their_own() -> None:
    good = [line for line in orderfiles.generate(1000) if line.kind is Kind.ORDER]
    orders = [NewOrder.model_validate_json(line.text) for line in good]
    assert len({order.order_id for order in orders}) == len(good)
    assert {item.product for order in orders for item in order.lines} == set(CATALOGUE)


def _of(kind: Kind) -> list[orderfiles.Line]:
    return [line for line in orderfiles.generate(1000) if line.kind is kind]


@pytest.mark.parametrize("line", _of(Kind.BROKEN_JSON), ids=lambda line: f"line {line.number}")
def test_broken_json_is_no_json(line: orderfiles.Line) -> None:
    with pytest.raises(ValueError, match=r".*"):
        json.loads(line.text)


@pytest.mark.parametrize("line", _of(Kind.WRONG_TYPES), ids=lambda line: f"line {line.number}")
def test_wrong_types_are_json_that_is_no_order(line: orderfiles.Line) -> None:
    value = json.loads(line.text)
    products = [item["product"] for item in value["lines"] if isinstance(item, dict)]
    if all(product in CATALOGUE for product in products):
        with pytest.raises(pydantic.ValidationError):
            NewOrder.model_validate(value)


@pytest.mark.parametrize("line", _of(Kind.WRONG_EVENT), ids=lambda line: f"line {line.number}")
def test_wrong_events_do_not_fit_their_topic(line: orderfiles.Line) -> None:
    if "unicorn" in line.text:
        return  # The right shape, but nothing that the shop sells: the handler itself has to refuse it.
    with pytest.raises(pydantic.ValidationError):
        INPUTS[line.topic or ""].model_validate_json(line.text)


def test_wrong_events_can_be_told_apart_by_their_text() -> None:
    texts = [line.text for line in _of(Kind.WRONG_EVENT)]
    assert len(set(texts)) == len(texts)


def test_the_orders_want_more_of_a_few_products_than_there_is() -> None:
    wanted: Counter[str] = Counter()
    for line in orderfiles.generate(200):
        if line.kind is Kind.ORDER:
            wanted.update({item["product"]: item["quantity"] for item in json.loads(line.text)["lines"]})
    assert wanted["kettle"] > CATALOGUE["kettle"].initial
    assert wanted["espresso"] < CATALOGUE["espresso"].initial


def test_asking_for_more_lines_than_a_file_has_is_refused() -> None:
    with pytest.raises(ValueError, match=r"expected at least 2000 lines in .*orders\.txt, found 1000"):
        orderfiles.load(COMMITTED, 2000)
