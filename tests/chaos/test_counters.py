"""Naive counting by several processes."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.chaos import counters


@pytest.mark.parametrize("way", counters.WAYS)
async def test_eight_processes_count_to_four_thousand(way: str, tmp_path: Path) -> None:
    counted = await counters.count(tmp_path, way, memory=True)
    print(counted)
    assert counted.right, counted
