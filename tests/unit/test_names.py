"""Names: encodings are reversible and collision-free, and give what NATS and Kubernetes take."""

from __future__ import annotations

import re

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from bema.contract import errors, names

text = st.text(st.characters(codec="utf-8"), max_size=80)
dotted = st.text(st.sampled_from("ab.=*> é"), max_size=12)
"""Text in which the encodings' own characters are frequent."""

TOKEN = re.compile(r"[A-Za-z0-9_/:@=-]+")


@given(text | dotted)
def test_a_token_is_decoded_to_what_was_encoded(user: str) -> None:
    assert names.decode(names.encode(user)) == user


@given(text | dotted)
def test_a_topic_is_decoded_to_what_was_encoded(topic: str) -> None:
    assert names.decode_topic(names.encode_topic(topic)) == topic


@given(text | dotted)
def test_a_token_holds_nothing_that_nats_gives_a_meaning(user: str) -> None:
    assert TOKEN.fullmatch(names.encode(user))


@given(text | dotted)
def test_a_topic_is_made_of_tokens(topic: str) -> None:
    assert all(TOKEN.fullmatch(part) for part in names.encode_topic(topic).split("."))


@given(dotted, dotted)
def test_different_texts_have_different_tokens(one: str, other: str) -> None:
    assume(one != other)
    assert names.encode(one) != names.encode(other)


@given(dotted, dotted)
def test_different_topics_have_different_subjects(one: str, other: str) -> None:
    assume(one != other)
    assert names.encode_topic(one) != names.encode_topic(other)


@given(st.text("ab=.C39DE", max_size=8))
def test_what_decodes_at_all_encodes_to_the_same(token: str) -> None:
    for decode, encode in ((names.decode, names.encode), (names.decode_topic, names.encode_topic)):
        try:
            user = decode(token)
        except errors.NameInvalid:
            continue
        assert encode(user) == token


@given(st.tuples(dotted, dotted), st.tuples(dotted, dotted))
def test_different_keys_have_different_state_subjects(one: tuple[str, str], other: tuple[str, str]) -> None:
    assume(one != other)
    assert names.state("bema.shop", *one) != names.state("bema.shop", *other)


@given(dotted, dotted)
def test_group_and_key_come_back_from_their_subject(group: str, key: str) -> None:
    assert names.state_of("bema.shop", names.state("bema.shop", group, key)) == (group, key)


@given(dotted, st.integers(0, 63))
def test_the_topic_comes_back_from_its_subject(topic: str, partition: int) -> None:
    assert names.topic_of("bema.shop", names.event("bema.shop", topic, partition)) == topic


@pytest.mark.parametrize(
    ("call", "message"),
    [
        pytest.param(
            lambda: names.encode("a" * 1025, what="key"),
            "key is too long: expected at most 1024 characters once encoded for a subject (a character outside "
            f"A-Z a-z 0-9 _ - / : @ counts three for each of its bytes), found 1025: '{'a' * 40}'…",
            id="a token that is too long",
        ),
        pytest.param(
            lambda: names.state("bema.shop", "g", "é" * 171),
            "key is too long: expected at most 1024 characters once encoded for a subject (a character outside "
            f"A-Z a-z 0-9 _ - / : @ counts three for each of its bytes), found 1026: '{'é' * 40}'…",
            id="a key that is too long only once encoded",
        ),
        pytest.param(
            lambda: names.encode_topic("a." * 512 + "a"),
            "topic is too long: expected at most 1024 characters once encoded, found 1025: "
            "'a.a.a.a.a.a.a.a.a.a.a.a.a.a.a.a.a.a.a.a.'…",
            id="a topic whose parts are short but many",
        ),
        pytest.param(
            lambda: names.encode("a\ud800", what="group"),
            r"group must be valid Unicode, found a lone surrogate in 'a\ud800'",
            id="a lone surrogate",
        ),
        pytest.param(
            lambda: names.encode_topic("a.\udfff"),
            r"topic must be valid Unicode, found a lone surrogate in '\udfff'",
            id="a lone surrogate in a topic",
        ),
        pytest.param(
            lambda: names.decode("a.b"), "expected a token made by `encode`, found 'a.b'", id="two tokens are no token"
        ),
        pytest.param(
            lambda: names.decode("\ud800"),
            r"expected a token made by `encode`, found '\ud800'",
            id="a token with a lone surrogate",
        ),
        pytest.param(
            lambda: names.decode("=FF"), "expected a token made by `encode`, found '=FF'", id="a token that is no UTF-8"
        ),
        pytest.param(
            lambda: names.decode_topic("a=2Eb"),
            "expected a topic made by `encode_topic`, found 'a=2Eb'",
            id="a topic's second spelling",
        ),
        pytest.param(
            lambda: names.topic_of("bema.shop", "bema.shop.evt.live.0"),
            "expected an event's subject below bema.shop.evt., found 'bema.shop.evt.live.0'",
            id="an event's subject without a topic",
        ),
        pytest.param(
            lambda: names.state_of("bema.shop", "bema.shop.state.a"),
            "expected a state subject below bema.shop.state., found 'bema.shop.state.a'",
            id="a state subject without a key",
        ),
    ],
)
def test_what_is_no_name_is_refused(call: object, message: str) -> None:
    with pytest.raises(errors.NameInvalid) as caught:
        call()  # type: ignore[operator]
    assert str(caught.value) == message


@given(text, st.sampled_from([20, 47, 63]))
def test_a_label_is_a_dns_label(written: str, limit: int) -> None:
    assert names.is_label(names.label(written, limit=limit), limit=limit)


@given(
    st.text(st.sampled_from("aB1é!東"), min_size=1, max_size=60),
    st.text(st.sampled_from("aB1é!東"), min_size=1, max_size=60),
)
def test_names_that_lose_characters_keep_different_labels(one: str, other: str) -> None:
    lossy = any(c in "é!東" for c in one) and any(c in "é!東" for c in other)
    assume(one != other and lossy)
    assert names.label(one) != names.label(other)


@given(st.from_regex(r"[a-z0-9]([a-z0-9-]{0,45}[a-z0-9])?", fullmatch=True))
def test_a_label_keeps_its_name(label: str) -> None:
    assume("--" not in label)
    assert names.label(label) == label


@given(st.text(st.sampled_from("a._-/é "), max_size=8), st.text(st.sampled_from("a._-/é "), max_size=8))
def test_different_paths_have_different_keys(one: str, other: str) -> None:
    assume(one != other)
    assert names.code_key(one) != names.code_key(other)


@given(st.sampled_from(["", ".", ".."]), st.text(st.characters(codec="utf-8"), min_size=1, max_size=300))
def test_a_path_has_a_key_that_a_config_map_takes(start: str, rest: str) -> None:
    assert re.fullmatch(r"(?!\.)[-._a-zA-Z0-9]{1,253}", names.code_key(start + rest))


@given(st.none() | text, st.integers(1, 64))
def test_a_partition_is_one_of_them(key: str | None, partitions: int) -> None:
    assert 0 <= names.partition(key, partitions) < partitions


def test_a_lone_surrogate_in_a_key_has_a_partition() -> None:
    """The envelope refuses the key, with a better message."""
    assert names.partition("\ud800", 8) in range(8)


@given(st.integers(0, 2**48 - 1), st.integers(0, 2**48 - 1), st.integers(0, 2**80 - 1))
def test_ids_sort_by_time(one: int, other: int, randomness: int) -> None:
    assert (names.new_id(one, randomness) < names.new_id(other, randomness)) == (one < other)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        pytest.param(names.stream("b", "a"), names.stream("a", "b"), id="installation and namespace are not confused"),
        pytest.param(names.stream("a-b"), names.stream("b", "a"), id="a hyphen is not the joint of two names"),
        pytest.param(
            names.run_of_event("a", "b", "1"),
            names.run_of_event("a", "", "b1"),
            id="parts of an id do not run together",
        ),
        pytest.param(names.run_of_tick("a", 1), names.run_of_job("a", "1"), id="a tick is not a Job"),
        pytest.param(
            names.retry_timer("r", "a", "b"), names.timer("r", "retry.a.b"), id="a user's timer is not a retry's"
        ),
    ],
)
def test_things_that_differ_have_names_that_differ(one: str, other: str) -> None:
    assert one != other
