"""A kind that is not watched any more is noticed."""

from bema.clusters import watches as clusters_watches
from bema_operator import kinds, watches


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def test_a_kind_of_which_nothing_is_heard_is_deaf_and_only_that_kind() -> None:
    clock = Clock()
    ear = watches.Ear(clock)
    ear.hear(kinds.DEPLOYMENT)
    ear.hear(kinds.STEP)
    clock.now = watches.DEAF_SECONDS
    assert ear.deaf() == []
    ear.hear(kinds.STEP)
    clock.now += 1
    assert ear.deaf() == ["deployments"]
    ear.hear(kinds.DEPLOYMENT)
    assert ear.deaf() == []


def test_a_watch_ends_or_counts_as_dead_well_before_it_counts_as_deaf() -> None:
    assert clusters_watches.WATCH_SECONDS < clusters_watches.SILENCE_SECONDS
    assert clusters_watches.SILENCE_SECONDS + watches.PAUSES[-1] < watches.DEAF_SECONDS
