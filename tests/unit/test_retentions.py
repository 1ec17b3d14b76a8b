"""What is purged, and how full is full."""

import pytest

from bema.contract import bindings, retentions
from bema.contract.bindings import Broker, Installation
from bema.contract.floors import Subscriber
from bema.contract.retentions import Cuts, Level, Purge, Quota

CUTS = Cuts(events=100, unheard=70, dead_letters=10)


@pytest.mark.parametrize(
    ("floors", "below"),
    [
        pytest.param([50], 51, id="up to the floor, and not beyond"),
        pytest.param([50, 30], 31, id="the slowest subscriber counts"),
        pytest.param([500], 100, id="young events stay"),
        pytest.param([0], 1, id="nothing is settled"),
        pytest.param([], 70, id="nobody hears it"),
    ],
)
def test_what_goes_of_a_topic(floors: list[int], below: int) -> None:
    subscribers = [Subscriber(["evt.*.*.a"], floor) for floor in floors]
    assert retentions.of_topics(["evt.*.*.a"], subscribers, CUTS) == [Purge("events", "evt.*.*.a", below)]


def test_what_goes_of_a_step() -> None:
    assert retentions.of_step("bema.shop", "pay", floor=50, settled=40) == [
        Purge("retries", "bema.shop.retry.pay.>", 51),
        Purge("markers", "bema.shop.end.pay.event.>", 41),
        Purge("markers", "bema.shop.end.pay.state.>", 41),
        Purge("markers", "bema.shop.end.pay.stream.>", 41),
    ]


def test_markers_of_nobody_wait_for_everybody() -> None:
    [first, *_] = retentions.of_nobody("bema.shop", settled=40, cuts=CUTS)
    assert first == Purge("markers", "bema.shop.end.*.event.>", 41)
    assert retentions.of_nobody("bema.shop", settled=None, cuts=CUTS)[0].below == 100
    assert retentions.of_nobody("bema.shop", settled=400, cuts=CUTS)[0].below == 100


@pytest.mark.parametrize(
    ("percent", "before", "expected"),
    [
        (80, Level.NORMAL, Level.NORMAL),
        (80.1, Level.NORMAL, Level.HIGH),
        (78, Level.HIGH, Level.HIGH),
        (77, Level.HIGH, Level.NORMAL),
        (95, Level.HIGH, Level.HIGH),
        (95.1, Level.NORMAL, Level.FULL),
        (93, Level.FULL, Level.FULL),
        (92, Level.FULL, Level.HIGH),
        (78, Level.FULL, Level.HIGH),
        (10, Level.FULL, Level.NORMAL),
        (300, Level.NORMAL, Level.FULL),
    ],
)
def test_levels_come_at_once_and_go_with_some_distance(percent: float, before: Level, expected: Level) -> None:
    assert retentions.level_of(int(percent * 1000), 100_000, before=before) is expected


def test_a_quota_survives_its_json() -> None:
    quota = Quota(Level.HIGH, 850, 1000, 12.5)
    assert retentions.read_quota(quota.to_json()) == quota
    assert str(Quota(Level.HIGH, 85 * 2**20, 100 * 2**20)) == "85% of 100Mi used"
    assert str(Quota(Level.FULL, 1704, 1000)) == "170% of 1000 used"


@pytest.mark.parametrize("data", [b"", b"{}", b'{"level":"odd","used":1,"storage":1,"time":1}'])
def test_what_is_no_quota_is_refused_with_what_was_found(data: bytes) -> None:
    with pytest.raises(ValueError, match="expected a quota as JSON, found"):
        retentions.read_quota(data)


def test_an_installation_says_how_long_things_are_kept() -> None:
    kept = retentions.of_installation(Installation(broker=Broker(urls=["nats://nats"])))
    assert (kept.storage_bytes, kept.events, kept.dead_letters) == (2**30, 24 * 3600, 30 * 24 * 3600)
    assert bindings.STORAGE == 2**30
