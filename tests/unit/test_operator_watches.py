"""Noticing that a watch has gone deaf, and never giving up on the API server."""

import itertools

from bema_operator import watches


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def test_a_kind_of_which_nothing_is_heard_is_deaf_and_only_that_kind() -> None:
    clock = Clock()
    ear = watches.Ear(clock)
    clock.now = watches.DEAF_SECONDS
    assert ear.deaf() == []
    for plural in ({kind.plural for kind in watches.WATCHED} - {"deployments"}) | {"secrets"}:
        ear.hear(plural)
    clock.now += 1
    assert ear.deaf() == ["deployments"]
    ear.hear("deployments")
    assert ear.deaf() == []


def test_watches_begin_again_well_before_they_count_as_deaf() -> None:
    assert watches.WATCH_SECONDS * 1.5 < watches.DEAF_SECONDS


def test_tries_never_end_and_every_use_begins_afresh() -> None:
    pauses = watches.Endless()
    assert len(list(itertools.islice(pauses, 100))) == 100
    assert next(iter(pauses)) == 0.2
