"""Envelopes: an event's attributes survive the headers, and a user's headers touch none of ours."""

from __future__ import annotations

import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bema.contract import envelopes, errors
from bema.contract.envelopes import Event

text = st.text(st.characters(codec="utf-8"), max_size=20)
awkward = st.text(st.sampled_from('a %"2C\r\n\0+é'), max_size=8)
names = st.from_regex(r"[A-Za-z0-9!#$%&'*+.^_`|~-]{1,12}", fullmatch=True)
values = st.text(st.characters(min_codepoint=0x20, max_codepoint=0x7E), max_size=12).map(str.strip)
headers = st.dictionaries(names, values, max_size=3)

EVENT = Event(
    id="o1",
    topic="order.created",
    source="/apps/shop/steps/take-order",
    time="2026-01-02T03:04:05.678Z",
    data=b"{}",
    key="customer 1",
    trace_parent=f"00-{'a' * 32}-{'b' * 16}-01",
    headers={"X-Tenant": "acme"},
)


def test_an_event_has_these_headers() -> None:
    assert envelopes.encode(EVENT) == {
        "X-Tenant": "acme",
        "ce-specversion": "1.0",
        "ce-id": "o1",
        "ce-type": "order.created",
        "ce-source": "/apps/shop/steps/take-order",
        "ce-time": "2026-01-02T03:04:05.678Z",
        "ce-partitionkey": "customer%201",
        "content-type": "application/json",
        "traceparent": f"00-{'a' * 32}-{'b' * 16}-01",
    }


@given(text | awkward, text | awkward, st.none() | text | awkward)
def test_attributes_come_back_from_the_headers(id: str, topic: str, key: str | None) -> None:
    event = Event(id=id, topic=topic, source="/apps/a/steps/b", time="2026-01-02T03:04:05Z", data=b"", key=key)
    found = envelopes.encode(event)
    assert envelopes.attribute(found, envelopes.ID) == id
    assert envelopes.attribute(found, envelopes.TYPE) == topic
    assert envelopes.attribute(found, envelopes.KEY) == key


@given(text | awkward, text | awkward)
def test_header_values_are_printable_ascii(id: str, key: str) -> None:
    event = Event(id=id, topic="a", source="/apps/a/steps/b", time="2026-01-02T03:04:05Z", data=b"", key=key)
    assert all(re.fullmatch(r"[\x21-\x7e]*", value) for value in envelopes.encode(event).values())


def _allowed(found: dict[str, str]) -> bool:
    try:
        envelopes.check_headers(found)
    except errors.ReservedHeader:
        return False
    return True


@given(headers.filter(_allowed))
def test_a_users_headers_come_back_as_they_were(found: dict[str, str]) -> None:
    event = Event(id="1", topic="a", source="/apps/a/steps/b", time="2026-01-02T03:04:05Z", data=b"", headers=found)
    assert envelopes.user_headers(envelopes.encode(event)) == found


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, id=name)
        for name in (
            "Nats-Rollup",
            "NATS-EXPECTED-LAST-SEQUENCE",
            "nats-ttl",
            "Bema-Attempt",
            "bema-x",
            "ce-id",
            "CE-anything",
            "Content-Type",
            "traceparent",
            "TraceState",
        )
    ],
)
def test_a_reserved_header_is_refused_by_name(name: str) -> None:
    with pytest.raises(errors.ReservedHeader) as caught:
        envelopes.check_headers({"X-Fine": "1", name: "all"})
    assert str(caught.value) == (
        "header names that begin with Nats-, Bema- or ce-, and content-type, traceparent, tracestate, are reserved; "
        f"found {name!r}"
    )


@pytest.mark.parametrize(
    ("name", "value"),
    [
        pytest.param("a", "1\r\nNats-Rollup: all", id="a line end in a value"),
        pytest.param("a", "é", id="another letter in a value"),
        pytest.param("a", " 1", id="a space before a value"),
        pytest.param("a", "1 ", id="a space after a value"),
        pytest.param("a", 1, id="a number for a value"),
        pytest.param("a:b", "1", id="a colon in a name"),
        pytest.param("a b", "1", id="a space in a name"),
        pytest.param("", "1", id="an empty name"),
        pytest.param(1, "1", id="a number for a name"),
    ],
)
def test_what_a_header_cannot_carry_is_refused(name: str, value: str) -> None:
    with pytest.raises(errors.ReservedHeader) as caught:
        envelopes.check_headers({name: value})
    assert str(caught.value) == (
        "expected a header of printable ASCII text without spaces at its ends, "
        f"found {name!r}: {value!r}; put other data into the event"
    )


@pytest.mark.parametrize(
    ("field", "what"),
    [
        pytest.param("id", "event id", id="an id"),
        pytest.param("topic", "topic", id="a topic"),
        pytest.param("key", "key", id="a key"),
    ],
)
def test_a_lone_surrogate_is_refused(field: str, what: str) -> None:
    attributes: dict[str, Any] = {"id": "1", "topic": "a", "key": "b", field: "x\ud800"}
    event = Event(source="/apps/a/steps/b", time="2026-01-02T03:04:05Z", data=b"", **attributes)
    with pytest.raises(errors.NameInvalid) as caught:
        envelopes.encode(event)
    assert str(caught.value) == rf"{what} must be valid Unicode, found a lone surrogate in 'x\ud800'"


@pytest.mark.parametrize(
    ("found", "attribute"),
    [
        pytest.param({}, None, id="a message without the attribute"),
        pytest.param({"ce-id": "a"}, "a", id="a plain value"),
        pytest.param({"ce-id": "a+b"}, "a+b", id="a plus is a plus"),
        pytest.param({"ce-id": "50%25"}, "50%", id="a percent sign"),
        pytest.param({"ce-id": "50%"}, "50%", id="a percent sign that somebody did not encode"),
        pytest.param({"ce-id": ""}, "", id="an empty value"),
    ],
)
def test_an_attribute_of_a_foreign_message(found: dict[str, str], attribute: str | None) -> None:
    assert envelopes.attribute(found, envelopes.ID) == attribute
