"""Who counts as a member: by announcements and by rounds of one's own, never by a clock."""

from __future__ import annotations

from bema.ports.connections import Message
from bema_runtime import memberships
from bema_runtime.memberships import PATIENCE, Members


def test_whoever_is_heard_is_a_member_and_news_only_once() -> None:
    members = Members("a")
    assert members.all == {"a"}
    assert [members.heard("b"), members.heard("b"), members.heard("a")] == [True, False, False]
    assert members.all == {"a", "b"}


def test_whoever_leaves_is_gone_at_once_and_may_come_back() -> None:
    members = Members("a")
    members.heard("b")
    assert [members.left("b"), members.left("b"), members.left("a")] == [True, False, False]
    assert members.all == {"a"}
    assert members.heard("b")


def test_a_silent_member_is_gone_after_rounds_of_our_own() -> None:
    members = Members("a")
    members.heard("b")
    members.heard("c")
    for _ in range(PATIENCE):
        members.heard("c")
        assert not members.round()
    members.heard("c")
    assert members.round()
    assert members.all == {"a", "c"}


def test_what_is_no_announcement_changes_nothing() -> None:
    for data in (b"", b"[]", b"{}", b'"x"', b'{"member": 1}'):
        member, leaving = memberships._read(Message("subject", "", data, {}))
        assert leaving
        assert not Members("a").left(member)
