"""What a clock that is wrong must not change: lifetimes are counted by the broker's."""

from __future__ import annotations

import pytest

from bema.contract import names
from tests.support import skews

LIFETIME = """
config = {"triggers": [{"event": {"topics": ["do"]}}]}
async def handler(data, ctx):
    for key in ("blind", "read"):
        if data == "set":
            await ctx.state.set("g", key, [1], ttl=600)
        else:
            assert key == "blind" or await ctx.state.get("g", key) == [1]
            await ctx.state.append("g", key, 2)
"""


@pytest.mark.parametrize("skew", [-300, 300])
async def test_a_change_keeps_the_time_of_a_value_whatever_the_workers_clock_says(start_app, skew: int) -> None:
    app = await start_app({"steps/life_step.py": LIFETIME}, workers=0)
    await app.spawn(env={skews.VARIABLE: str(skew)}, module="tests.support.skews").wait_ready()
    await app.emit("do", "set")
    await app.wait_state("g", "read", [1])
    await app.emit("do", "change")
    await app.wait_state("g", "read", [1, 2])
    for key in ("blind", "read"):
        stored = await app.js.get_last(app.stream, names.state(app.root, "g", key))
        assert stored.data == b"[1,2]"
        assert 540 < int(stored.headers["Nats-TTL"].removesuffix("s")) <= 601
