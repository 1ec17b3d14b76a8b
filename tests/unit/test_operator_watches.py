"""A kind that is not watched any more is noticed."""

from bema.clusters import watches as clusters_watches
from bema_operator import watches


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def test_what_nothing_is_heard_of_is_deaf_and_only_that() -> None:
    clock = Clock()
    ear = watches.Ear(clock)
    ear.hear("deployments")
    ear.hear("steps")
    clock.now = watches.DEAF_SECONDS
    assert ear.deaf() == []
    ear.hear("steps")
    clock.now += 1
    assert ear.deaf() == ["deployments"]
    ear.hear("deployments")
    assert ear.deaf() == []


def test_a_watch_ends_or_counts_as_dead_well_before_it_counts_as_deaf() -> None:
    assert clusters_watches.WATCH_SECONDS < clusters_watches.SILENCE_SECONDS
    assert clusters_watches.SILENCE_SECONDS + watches.PAUSES[-1] < watches.DEAF_SECONDS
