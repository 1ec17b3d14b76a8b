"""A month of an app in some seconds: its stream stays as large as a day of it. Full size: `python -m bench.months`."""

from __future__ import annotations

from bench import months
from tests.support.brokers import NatsServer

SIZE = months.Size(events=20_000, days=30, day=0.3, sweeps=1)


async def test_a_month_leaves_no_more_in_the_stream_than_a_day(nats: NatsServer) -> None:
    month = await months.simulate(nats.url, SIZE)
    a_day = SIZE.events // SIZE.days // months.BUSY
    assert month.handled == SIZE.days * a_day * (months.BUSY + 1) + months.IDLE, "an event was lost, or handled twice"

    early, late = month.peak(2, months.SUSPENSION[0]), month.peak(20, 30)
    assert late <= early * 1.5, "the stream grows"
    # A day's events, one sweep's worth on top, their markers, and what is recorded of 20 consumers
    assert late <= 4.5 * a_day * (months.BUSY + 1)
    markers = [day.markers for day in month.days]
    assert max(markers[20:]) <= 2 * a_day * (months.BUSY + 1)

    suspended = month.days[months.SUSPENSION[1] - 1]
    assert suspended.events >= 2 * a_day, "the events of the Step that was suspended did not wait for it"
