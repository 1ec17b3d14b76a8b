"""Counts the orders, every night at two."""

import time
from collections import Counter
from datetime import UTC, datetime
from typing import Any

from bema import Context

from lib.catalogue import CATALOGUE
from lib.money import price

config = {
    "description": "Writes the day's report",
    "flows": ["orders"],
    "triggers": [{"cron": {"schedule": "0 2 * * *", "timeZone": "Europe/Paris"}}],
    "timeoutSeconds": 120,
}

EVERYTHING = 1_000_000


async def handler(tick: Any, ctx: Context) -> None:
    orders = [item.value for item in await ctx.state.list("orders", limit=EVERYTHING)]
    revenue = sum(order["total_cents"] for order in orders if order["status"] == "paid")
    left = {name: await ctx.state.get("stock", name, product.initial) for name, product in CATALOGUE.items()}
    day = datetime.fromtimestamp(ctx.scheduled_at or time.time(), UTC).date().isoformat()
    report = {
        "orders": len(orders),
        "by_status": dict(Counter(order["status"] for order in orders)),
        "revenue_cents": revenue,
        "revenue": price(revenue),
        "stock": left,
    }
    await ctx.state.set("reports", day, report)
    ctx.logger.info("report for %s: %d orders, %s", day, len(orders), price(revenue))
