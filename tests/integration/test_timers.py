"""Timers across a restart of the server: once each and never early. Full size: `python -m bench.timers`."""

from __future__ import annotations

from pathlib import Path

from bench import timers


async def test_timers_fire_once_and_never_early_across_a_restart(tmp_path: Path) -> None:
    outcome = await timers.run(tmp_path, timers=500, seconds=4)
    print(f"p99 {outcome.late(0.99) * 1e3:.0f} ms late")
    assert outcome.problems == []
    assert outcome.overdue > 50
    assert outcome.late(0.99) < 5
