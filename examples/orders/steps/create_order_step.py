"""POST /orders: takes an order, once, however often it is sent."""

from typing import Any

from bema import Context, HttpError, Request

from lib import catalogue
from lib.orders import NewOrder, Order, quantities

config = {
    "description": "Takes an order; the same order id again is the same order",
    "flows": ["orders"],
    "triggers": [{"api": {"method": "POST", "path": "/orders"}}],
    "emits": ["order.created"],
}


async def handler(request: Request[NewOrder], ctx: Context) -> tuple[int, dict[str, Any]]:
    new = request.body
    wanted = quantities(new.lines)
    if unknown := catalogue.unknown(wanted):
        raise HttpError(422, f"we do not sell {', '.join(unknown)}")
    order = Order(**new.model_dump(), total_cents=catalogue.total(wanted)).model_dump()

    known = await ctx.state.get("orders", new.order_id)
    if known is not None:
        if any(known[field] != value for field, value in order.items()):
            raise HttpError(409, f"order {new.order_id} was taken before, and was another one")
        return 200, known

    taken = {**order, "status": "created"}
    await ctx.state.set("orders", new.order_id, taken)
    await ctx.emit("order.created", order, key=new.customer)
    ctx.logger.info("order %s taken", new.order_id)
    return 201, taken
