"""Takes an order's products off the shelf, or rejects the order."""

from bema import Context, NonRetryable, operations

from lib import catalogue
from lib.orders import Closed, Order, quantities

config = {
    "description": "Reserves the stock of an order",
    "flows": ["orders"],
    "triggers": [{"event": {"topics": ["order.created"]}}],
    "emits": ["order.reserved", "order.rejected"],
}


async def handler(order: Order, ctx: Context) -> None:
    wanted = quantities(order.lines)
    if unknown := catalogue.unknown(wanted):
        raise NonRetryable(f"we do not sell {', '.join(unknown)}")

    # Read, compute, write, as if nobody else were there. When another order got at one of these products meanwhile,
    # the commit is refused and the handler runs again on what is really left.
    left = {name: await ctx.state.get("stock", name, catalogue.CATALOGUE[name].initial) for name in wanted}
    if short := [name for name in wanted if left[name] < wanted[name]]:
        reason = f"out of stock: {', '.join(short)}"
        closed = Closed(order_id=order.order_id, customer=order.customer, total_cents=order.total_cents, reason=reason)
        await ctx.state.update("orders", order.order_id, operations.merge({"status": "rejected", "reason": reason}))
        await ctx.emit("order.rejected", closed, key=order.customer)
        return
    for name, quantity in wanted.items():
        await ctx.state.set("stock", name, left[name] - quantity)
    await ctx.state.update("orders", order.order_id, operations.merge({"status": "reserved"}))
    await ctx.emit("order.reserved", order, key=order.customer)
