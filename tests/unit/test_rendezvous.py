"""Rendezvous hashing: every partition has one owner, shares are even, and little moves."""

from __future__ import annotations

import statistics

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bema_runtime import rendezvous

members = st.sets(st.text("0123456789abcdef", min_size=1, max_size=16), min_size=1, max_size=20)
partitions = st.integers(1, 32)


@given(members, partitions)
def test_every_partition_has_one_owner_and_shares_are_even(everybody: set[str], count: int) -> None:
    owners = rendezvous.owners(everybody, count)
    assert sorted(owners) == list(range(count))
    shares = [list(owners.values()).count(member) for member in everybody]
    assert max(shares) - min(shares) <= 1


@given(members, partitions, st.randoms())
def test_all_come_to_the_same_answer_whatever_order_they_heard_the_others_in(
    everybody: set[str], count: int, chance: object
) -> None:
    shuffled = sorted(everybody)
    chance.shuffle(shuffled)  # type: ignore[attr-defined]
    assert rendezvous.owners(shuffled, count) == rendezvous.owners(sorted(everybody), count)


@given(members, partitions)
def test_the_parts_of_all_are_the_whole(everybody: set[str], count: int) -> None:
    parts = [rendezvous.owned(member, everybody, count) for member in everybody]
    assert sorted(partition for part in parts for partition in part) == list(range(count))


def test_a_member_counts_though_the_others_do_not_know_it() -> None:
    assert rendezvous.owned("a", [], 8) == set(range(8))
    assert rendezvous.owned("a", ["b"], 8) == rendezvous.owned("a", ["a", "b"], 8)


@pytest.mark.parametrize("count", range(1, 12))
def test_little_more_moves_than_even_shares_make_necessary(count: int) -> None:
    """Who joins must be given its share; over many members, less than three partitions of eight move, and one that
    leaves moves as much. (By `crc32(key) mod members` nearly all would.)"""
    moved = []
    for trial in range(200):
        before = [f"{trial}-{number}" for number in range(count)]
        one, other = rendezvous.owners(before, 8), rendezvous.owners([*before, f"{trial}-new"], 8)
        moved.append(sum(one[partition] != other[partition] for partition in range(8)))
    necessary = 8 // (count + 1)
    assert necessary <= statistics.mean(moved) <= max(3.0, necessary + 0.1)


def test_where_shares_stay_what_they_are_only_partitions_of_who_left_move() -> None:
    """Of sixteen members eight have a partition each: when another one leaves, nothing moves."""
    everybody = [f"m{number}" for number in range(16)]
    before = rendezvous.owners(everybody, 8)
    for idle in set(everybody) - set(before.values()):
        assert rendezvous.owners([member for member in everybody if member != idle], 8) == before
