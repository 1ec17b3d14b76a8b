"""Subjects taken apart by the demo's own decoder, which must agree with the contract without using it."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bema.contract import names
from tools.demo import brokers

STRINGS = st.text(st.characters(exclude_categories=["Cs"]), max_size=60)


@pytest.mark.parametrize(
    ("subject", "words"),
    [
        ("bema.shop.state.orders.o-00001", ("state", "orders", "o-00001")),
        ("bema.shop.state.orders.a=2Eb=20c", ("state", "orders", "a.b c")),
        ("bema.shop.state.=.=3D", ("state", "", "=")),
        ("bema.shop.evt.live.3.order.created", ("evt", "live", "3", "order.created")),
        ("bema.shop.end.notify-customer.event.0k5", ("end", "notify-customer", "event", "0k5")),
        ("bema.shop.dlq.charge-payment.0k5", ("dlq", "charge-payment", "0k5")),
    ],
)
def test_a_subject_is_taken_apart(subject: str, words: tuple[str, ...]) -> None:
    assert brokers.words("shop", subject) == words


@given(group=STRINGS, key=STRINGS)
def test_what_the_contract_encodes_the_decoder_reads(group: str, key: str) -> None:
    assert brokers.words("shop", names.state("bema.shop", group, key)) == ("state", group, key)


@given(topic=STRINGS.filter(bool))
def test_a_topic_is_one_word(topic: str) -> None:
    assert brokers.words("shop", names.event("bema.shop", topic, 5)) == ("evt", "live", "5", topic)
