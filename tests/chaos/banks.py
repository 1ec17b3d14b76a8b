"""The bank: what its Steps are, and what its users send. Everything that checker, users and Steps have to agree on.

A transfer's Step is the plainest code that can go wrong: read two balances, write two balances.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

APP = "shop"
ACCOUNTS = 1000
POPULAR = 20
"""The first accounts: a part of all transfers is among them alone, so that runs conflict."""
OPENING = 1000
FEE = 1
BRANCHES = 40
PAGE = 40
"""Transfers of one user that share a page of the ledger."""

WITNESSES = "BEMA_CHAOS_WITNESSES"
"""The variable that tells handlers the file in which they write that they were begun."""

_WITNESS = """
import functools, json, os, time
@functools.cache
def file():
    return os.open(os.environ["BEMA_CHAOS_WITNESSES"], os.O_WRONLY | os.O_APPEND | os.O_CREAT)
def begun(ctx):
    line = {"step": ctx.step, "run": ctx.run_id, "attempt": ctx.attempt, "pid": os.getpid(), "at": time.monotonic()}
    os.write(file(), json.dumps(line).encode() + b"\\n")
"""
_TRANSFER = """
from bema import NonRetryable
from lib import witness
from pydantic import BaseModel

class Transfer(BaseModel):
    id: str
    giver: str
    taker: str
    amount: int
    branch: str
    page: str
    due: float
    failures: int = 0

config = {"triggers": [{"event": {"topics": ["transfer"]}}], "emits": ["moved", "refused", "confirmed"],
          "retry": {"maxAttempts": 5, "initialSeconds": 0.05}}

async def handler(transfer: Transfer, ctx):
    witness.begun(ctx)
    if transfer.amount < 0:
        raise NonRetryable("nobody gives less than nothing")
    giving = await ctx.state.get("accounts", transfer.giver, %(opening)d)
    taking = await ctx.state.get("accounts", transfer.taker, %(opening)d)
    if ctx.attempt <= transfer.failures:
        raise RuntimeError("not yet")
    told = {**transfer.model_dump(), "run": ctx.run_id}
    if giving < transfer.amount + %(fee)d:
        await ctx.emit("refused", told)
        return
    await ctx.state.set("accounts", transfer.giver, giving - transfer.amount - %(fee)d)
    await ctx.state.set("accounts", transfer.taker, taking + transfer.amount)
    await ctx.state.increment("fees", transfer.branch, %(fee)d)
    await ctx.emit("moved", {**told, "confirm_at": transfer.due}, key=transfer.giver)
    await ctx.emit("confirmed", {"id": transfer.id, "page": transfer.page}, at=transfer.due)
"""
_INTAKE = """
from lib import witness
config = {"triggers": [{"event": {"topics": ["wanted"]}}], "emits": ["transfer"]}
async def handler(wanted, ctx):
    witness.begun(ctx)
    await ctx.emit("transfer", wanted, id=wanted["id"])
    await ctx.state.append("intake", wanted["page"], {"id": wanted["id"], "run": ctx.run_id})
"""
_STATEMENT = """
from lib import witness
config = {"triggers": [{"event": {"topics": ["moved"], "ordering": {}}}]}
async def handler(told, ctx):
    witness.begun(ctx)
    await ctx.state.append("statements", told["giver"], {"id": told["id"], "run": ctx.run_id})
"""
_LEDGER = """
from bema import operations
from lib import witness
config = {"triggers": [{"event": {"topics": ["moved", "refused"]}}]}
async def handler(told, ctx):
    witness.begun(ctx)
    entry = {"id": told["id"], "topic": ctx.trigger.topic, "of": told["run"], "run": ctx.run_id}
    await ctx.state.update("ledger", told["page"], operations.append(entry))
"""
_CONFIRM = """
from lib import witness
config = {"triggers": [{"event": {"topics": ["confirmed"]}}]}
async def handler(told, ctx):
    witness.begun(ctx)
    await ctx.state.append("confirmations", told["page"], {"id": told["id"], "run": ctx.run_id})
"""

FILES = {
    "lib/witness.py": _WITNESS,
    "steps/transfer_step.py": _TRANSFER % {"opening": OPENING, "fee": FEE},
    "steps/ledger_step.py": _LEDGER,
    "steps/intake_step.py": _INTAKE,
    "steps/statement_step.py": _STATEMENT,
    "steps/confirm_step.py": _CONFIRM,
}


@dataclass(frozen=True, slots=True)
class Transfer:
    """What a user wants."""

    id: str
    giver: str
    taker: str
    amount: int | str
    branch: str
    page: str
    failures: int = 0
    """Attempts that fail before one succeeds."""

    @property
    def is_poison(self) -> bool:
        return not isinstance(self.amount, int) or self.amount < 0

    def data(self) -> dict[str, Any]:
        return asdict(self)


def wishes(user: str, chance: random.Random) -> Iterator[Transfer]:
    """The transfers of one user, endless; the same for the same user and seed."""
    number = 0
    while True:
        one, other = chance.sample(range(POPULAR if chance.random() < 0.1 else ACCOUNTS), 2)
        kind = chance.random()
        amount: int | str = chance.randint(1, 300)
        if kind < 0.01:
            amount = "much" if chance.random() < 0.5 else -5
        yield Transfer(
            id=f"{user}-{number}",
            giver=f"a{one}",
            taker=f"a{other}",
            amount=amount,
            branch=f"b{chance.randrange(BRANCHES)}",
            page=f"{user}-{number // PAGE}",
            failures=chance.choice([1, 2]) if 0.01 <= kind < 0.03 else 0,
        )
        number += 1
