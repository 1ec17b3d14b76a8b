"""Charges the customer once the stock is reserved."""

from bema import SyncContext, operations

from lib import payments
from lib.orders import Closed, Order, quantities

config = {
    "description": "Charges the customer, or puts the stock back",
    "flows": ["orders"],
    "triggers": [{"event": {"topics": ["order.reserved"]}}],
    "emits": ["order.paid", "order.rejected"],
    "retry": {"maxAttempts": 8, "initialSeconds": 0.2, "maxSeconds": 5},
    "timeoutSeconds": 30,
    # On Kubernetes the provider's address comes from a ConfigMap; locally from the environment of `bema dev`.
    "pod": {"envFrom": [{"configMapRef": {"name": "orders", "optional": True}}]},
}


def handler(order: Order, ctx: SyncContext) -> None:
    closed = Closed(order_id=order.order_id, customer=order.customer, total_cents=order.total_cents)
    try:
        # The outside world takes no part in our commit: this call may happen again, with the same key.
        receipt = payments.charge(order.order_id, order.total_cents, key=ctx.run_id)
    except payments.Declined as declined:
        closed.reason = f"payment declined: {declined}"
        for name, quantity in quantities(order.lines).items():
            ctx.state.increment("stock", name, quantity)
        status = {"status": "rejected", "reason": closed.reason}
        ctx.state.update("orders", order.order_id, operations.merge(status))
        ctx.emit("order.rejected", closed, key=order.customer)
        return
    ctx.state.set("payments", order.order_id, receipt)
    ctx.state.update("orders", order.order_id, operations.merge({"status": "paid"}))
    ctx.emit("order.paid", closed, key=order.customer)
