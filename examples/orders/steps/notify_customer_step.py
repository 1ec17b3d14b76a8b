"""Tells the customer how it went."""

from bema import SyncContext, operations

from lib.money import price
from lib.orders import Closed

config = {
    "description": "Tells the customer that an order is paid or rejected",
    "flows": ["orders"],
    "triggers": [{"event": {"topics": ["order.paid", "order.rejected"]}}],
}


def handler(order: Closed, ctx: SyncContext) -> None:
    if ctx.trigger.topic == "order.paid":
        text = f"Thank you! {price(order.total_cents)} for order {order.order_id} is paid."
    else:
        text = f"Sorry: order {order.order_id} is cancelled ({order.reason})."
    # Appended without a look at what is there, so that a second notification would show.
    message = {"topic": ctx.trigger.topic, "to": order.customer, "text": text}
    ctx.state.update("notifications", order.order_id, operations.append(message))
