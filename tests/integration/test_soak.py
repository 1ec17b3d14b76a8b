"""Transfers between accounts by plain read-modify-write, while workers are killed and stopped: money is neither made
nor lost, and every transfer has taken effect exactly once. What is true is read by a bare reader, from the stream.

`BEMA_SOAK_SECONDS` makes it longer, `BEMA_SOAK_SEED` another one.
"""

from __future__ import annotations

import asyncio
import collections
import json
import os
import random
import signal
from typing import Any

from bema.contract import names

SECONDS = float(os.environ.get("BEMA_SOAK_SECONDS", "9"))
SEED = int(os.environ.get("BEMA_SOAK_SEED", "7"))
ACCOUNTS = 8
OPENING = 1000

TRANSFER = """
config = {"triggers": [{"event": {"topics": ["transfer"]}}], "emits": ["moved", "refused"],
          "retry": {"maxAttempts": 5, "initialSeconds": 0.05}}
async def handler(data, ctx):
    giving = await ctx.state.get("accounts", data["from"], 1000)
    taking = await ctx.state.get("accounts", data["to"], 1000)
    if data.get("fails") and ctx.attempt < 3:
        raise RuntimeError("not yet")
    if giving < data["amount"]:
        await ctx.emit("refused", data)
        return
    await ctx.state.set("accounts", data["from"], giving - data["amount"])
    await ctx.state.set("accounts", data["to"], taking + data["amount"])
    await ctx.emit("moved", data, key=data["from"])
"""
BOOK = """
config = {"triggers": [{"event": {"topics": ["moved", "refused"]}}]}
def handler(data, ctx):
    ctx.state.increment("book", data["id"])
    ctx.state.increment("totals", ctx.trigger.topic)
"""


async def harm(app: Any, chance: random.Random, until: float) -> collections.Counter[str]:
    """Kill, stop and continue workers at random times; in the end all of three run."""
    loop, done, stopped = asyncio.get_running_loop(), collections.Counter[str](), set[Any]()
    alive = list(app.workers)
    while loop.time() < until:
        await asyncio.sleep(chance.uniform(0.2, 1.2))
        worker = chance.choice(alive)
        action = chance.choice(["kill", "kill", "term", "stop", "cont"])
        done[action] += 1
        match action:
            case "kill" | "term":
                worker.stop(signal.SIGKILL if action == "kill" else signal.SIGTERM)
                if worker in stopped:
                    worker.stop(signal.SIGKILL)
                stopped.discard(worker)
                alive[alive.index(worker)] = app.spawn()
            case "stop":
                worker.stop(signal.SIGSTOP)
                stopped.add(worker)
            case "cont":
                for paused in stopped:
                    paused.stop(signal.SIGCONT)
                stopped.clear()
    for paused in stopped:
        paused.stop(signal.SIGCONT)
    return done


async def test_money_is_neither_made_nor_lost(start_app) -> None:
    chance = random.Random(SEED)
    app = await start_app({"steps/transfer_step.py": TRANSFER, "steps/book_step.py": BOOK}, workers=3)
    until = asyncio.get_running_loop().time() + SECONDS
    harming = asyncio.create_task(harm(app, chance, until))
    sent = 0
    while asyncio.get_running_loop().time() < until:
        for _ in range(20):
            one, other = chance.sample(range(ACCOUNTS), 2)
            data = {"id": str(sent), "from": f"a{one}", "to": f"a{other}", "amount": chance.randint(1, 400)}
            if sent % 37 == 0:
                data["fails"] = True
            await app.emit("transfer", data, id=f"t{sent}")
            if chance.random() < 0.1:
                await app.emit("transfer", data, id=f"t{sent}")
            sent += 1
        await asyncio.sleep(0.1)
    harmed = await harming
    await app.wait_idle(timeout=90)

    moved = [json.loads(event.data) for event in await app.events("moved")]
    refused = [json.loads(event.data) for event in await app.events("refused")]
    assert sorted(int(data["id"]) for data in [*moved, *refused]) == list(range(sent)), "each transfer once"
    balances = dict.fromkeys((f"a{number}" for number in range(ACCOUNTS)), OPENING)
    for data in moved:
        assert balances[data["from"]] >= data["amount"], "nobody gave what he had not, in the order of the stream"
        balances[data["from"]] -= data["amount"]
        balances[data["to"]] += data["amount"]
    stored = {
        names.state_of(app.root, message.subject): json.loads(message.data)
        for message in await app.messages(f"{app.root}.state.>")
    }
    assert {key: value for (group, key), value in stored.items() if group == "accounts"} == balances
    assert sum(balances.values()) == ACCOUNTS * OPENING
    assert {key: value for (group, key), value in stored.items() if group == "book"} == dict.fromkeys(
        map(str, range(sent)), 1
    )
    assert stored["totals", "moved"] == len(moved)
    assert stored.get(("totals", "refused"), 0) == len(refused)
    assert await app.dead_letters() == []
    print(f"seed {SEED}: {sent} transfers, {len(moved)} moved, {dict(harmed)}, {len(app.workers)} workers")
