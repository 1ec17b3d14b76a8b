"""Operations on a JSON value. What each gives is in the golden vectors; here are words, purity and paths."""

from __future__ import annotations

import copy
from enum import IntEnum, StrEnum
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bema.contract import errors, operations
from bema.contract.operations import Operation, Operator

values = st.recursive(
    st.none() | st.booleans() | st.integers(-5, 5) | st.text("ab", max_size=2),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["a", "b", "0"]), inner, max_size=3),
    max_leaves=8,
)
paths = st.lists(st.sampled_from(["a", "b", "0"]), max_size=3).map(".".join)
changes = st.lists(
    st.builds(operations.set, paths, values)
    | st.builds(operations.merge, st.dictionaries(st.just("a"), values), paths)
    | st.builds(operations.increment, paths, st.integers(0, 3))
    | st.builds(operations.decrement, paths, st.integers(0, 3))
    | st.builds(operations.append, values, paths)
    | st.builds(operations.remove, paths),
    max_size=4,
)


def _applied(value: Any, list_: list[Operation]) -> Any:
    try:
        return operations.apply(value, list_)
    except errors.PayloadInvalid as error:
        return str(error)


@given(values, changes)
def test_nothing_but_a_refusal_comes_out_and_nothing_that_went_in_is_changed(
    value: Any, list_: list[Operation]
) -> None:
    before = copy.deepcopy((value, list_))
    _applied(value, list_)
    assert (value, list_) == before


@pytest.mark.parametrize(
    ("first", "then"),
    [
        pytest.param(operations.set("a", {}), operations.set("a.b", 1), id="what was set"),
        pytest.param(operations.merge({"a": {}}), operations.set("a.b", 1), id="what was merged"),
        pytest.param(operations.append({}, "a"), operations.set("a.0.b", 1), id="what was appended"),
    ],
)
def test_a_result_shares_nothing_with_the_operations(first: Operation, then: Operation) -> None:
    before = copy.deepcopy(first)
    operations.apply(None, [first, then])
    assert first == before


@given(values, changes, changes)
def test_operations_apply_one_after_the_other(value: Any, first: list[Operation], then: list[Operation]) -> None:
    try:
        step_by_step = operations.apply(operations.apply(value, first), then)
    except errors.PayloadInvalid as error:
        step_by_step = str(error)
    assert _applied(value, [*first, *then]) == step_by_step


@given(paths)
def test_removing_from_nothing_leaves_nothing(path: str) -> None:
    assert operations.apply(None, [operations.remove(path)]) is None


@pytest.mark.parametrize(
    ("operation", "expected"),
    [
        pytest.param(operations.set("a.0.b", 1), Operation(Operator.SET, ("a", 0, "b"), 1), id="digits are an index"),
        pytest.param(operations.set("a.-1", 1), Operation(Operator.SET, ("a", "-1"), 1), id="no index from the end"),
        pytest.param(operations.set("a.01", 1), Operation(Operator.SET, ("a", "01"), 1), id="zeros in front are a key"),
        pytest.param(operations.set("a.٣", 1), Operation(Operator.SET, ("a", "٣"), 1), id="other digits are a key"),
        pytest.param(operations.set("", 1), Operation(Operator.SET, (), 1), id="no path is the value itself"),
        pytest.param(operations.set(["a.b", 0], 1), Operation(Operator.SET, ("a.b", 0), 1), id="a path as a list"),
        pytest.param(operations.increment(), Operation(Operator.INCREMENT, (), 1), id="one more"),
        pytest.param(operations.decrement("n"), Operation(Operator.DECREMENT, ("n",), 1), id="one less"),
        pytest.param(operations.append("x"), Operation(Operator.APPEND, (), "x"), id="append takes the value first"),
        pytest.param(operations.merge({"a": 1}), Operation(Operator.MERGE, (), {"a": 1}), id="merge into the value"),
        pytest.param(operations.remove("a"), Operation(Operator.REMOVE, ("a",)), id="remove has no value"),
    ],
)
def test_how_an_operation_is_written(operation: Operation, expected: Operation) -> None:
    assert operation == expected


class Part(StrEnum):
    A = "a"


class Place(IntEnum):
    FIRST = 0


@pytest.mark.parametrize(
    ("path", "message"),
    [
        pytest.param(["a", 1.5], "path: expected texts and whole numbers, found 1.5 in ['a', 1.5]", id="a fraction"),
        pytest.param(["a", True], "path: expected texts and whole numbers, found True in ['a', True]", id="true"),
        pytest.param(("a", None), "path: expected texts and whole numbers, found None in ('a', None)", id="nothing"),
        pytest.param(5, "path: expected a text, or a list of texts and whole numbers, found 5", id="a number"),
        pytest.param(b"a", "path: expected a text, or a list of texts and whole numbers, found b'a'", id="bytes"),
        pytest.param({"a"}, "path: expected a text, or a list of texts and whole numbers, found {'a'}", id="a set"),
    ],
)
@pytest.mark.parametrize(
    "make",
    [
        pytest.param(lambda path: operations.set(path, 1), id="set"),
        pytest.param(lambda path: operations.increment(path), id="increment"),
        pytest.param(lambda path: operations.remove(path), id="remove"),
    ],
)
def test_a_path_that_is_none_is_refused_where_it_is_written(make: Any, path: Any, message: str) -> None:
    with pytest.raises(errors.PayloadInvalid) as caught:
        make(path)
    assert str(caught.value) == message


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        pytest.param((Operator.SET, ("a", 1.5), 1), "path: expected texts and whole numbers, found 1.5", id="its path"),
        pytest.param(("set", ("a",), 1), "operator: expected one of set, merge, increment", id="its operator"),
    ],
)
def test_an_operation_that_is_made_by_hand_is_checked_too(arguments: Any, message: str) -> None:
    with pytest.raises(errors.PayloadInvalid, match=message):
        Operation(*arguments)


def test_a_path_is_of_plain_texts_and_numbers_whatever_it_was_made_of() -> None:
    made = operations.set([Part.A, Place.FIRST], 1)
    assert [(type(part), part) for part in made.path] == [(str, "a"), (int, 0)]


@pytest.mark.parametrize(
    ("value", "operation", "message"),
    [
        pytest.param(
            {"a": 1},
            operations.set("a.b", 2),
            "set at 'a.b': expected an object or a list to hold 'b', found a number",
            id="a path through a number",
        ),
        pytest.param(
            {"a": [1]},
            operations.set("a.b", 2),
            "set at 'a.b': expected an object or a list to hold 'b', found a list",
            id="a name in a list",
        ),
        pytest.param(
            {"a": [1]}, operations.set("a.1", 2), "'a.1': expected an index below 1, found 1", id="a list's end"
        ),
        pytest.param(
            {"a": [1]}, operations.set("a.1.b", 2), "'a.1': expected an index below 1, found 1", id="a way past the end"
        ),
        pytest.param(
            {"n": "1"}, operations.increment("n"), "increment at 'n': expected a number, found a string", id="a string"
        ),
        pytest.param(
            True, operations.decrement(), "decrement at the value itself: expected a number, found a boolean", id="true"
        ),
        pytest.param(
            {}, operations.append(1), "append at the value itself: expected a list, found an object", id="an object"
        ),
        pytest.param(
            [], operations.merge({}), "merge at the value itself: expected an object, found a list", id="a list"
        ),
    ],
)
def test_what_cannot_be_done_is_refused_with_these_words(value: Any, operation: Operation, message: str) -> None:
    with pytest.raises(errors.PayloadInvalid) as caught:
        operations.apply(value, [operation])
    assert str(caught.value) == message
