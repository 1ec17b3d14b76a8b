"""What a watch has shown, through lists, events and forgotten places."""

from __future__ import annotations

from typing import Any

from bema.clusters.watches import Event, Type
from bema_cli.sights import Change, Sight, What


def thing(name: str, version: int) -> dict[str, Any]:
    return {"metadata": {"uid": name, "name": name, "resourceVersion": str(version)}}


def told(changes: list[Change]) -> list[tuple[str, str]]:
    return [(change.what.value, change.object["metadata"]["name"]) for change in changes]


def test_a_second_list_tells_only_what_is_different() -> None:
    sight = Sight()
    assert told(sight.list([thing("a", 1), thing("b", 2), thing("c", 3)], "3")) == [
        ("added", "a"),
        ("added", "b"),
        ("added", "c"),
    ]
    changes = told(sight.list([thing("a", 1), thing("b", 5), thing("d", 6)], "7"))
    assert changes == [("removed", "c"), ("changed", "b"), ("added", "d")]
    assert sight.version == "7"


def test_events() -> None:
    sight = Sight()
    sight.list([thing("a", 1)], "1")
    events = [("ADDED", thing("b", 2)), ("MODIFIED", thing("a", 3)), ("DELETED", thing("a", 4))]
    changes = [sight.take(Event(Type(type_), item)) for type_, item in events]
    assert told([change for change in changes if change]) == [("added", "b"), ("changed", "a"), ("removed", "a")]
    assert (list(sight.objects), sight.version) == (["b"], "4")


def test_a_bookmark_moves_on_and_tells_nothing() -> None:
    sight = Sight()
    assert sight.take(Event(Type.BOOKMARK, {"metadata": {"resourceVersion": "9"}})) is None
    assert sight.version == "9"


def test_an_object_that_was_made_again_is_another() -> None:
    sight = Sight()
    sight.list([thing("a", 1)], "1")
    other = {"metadata": {"uid": "a2", "name": "a", "resourceVersion": "3"}}
    assert [change.what for change in sight.list([other], "3")] == [What.REMOVED, What.ADDED]
