"""GET /orders/{order_id}: how far an order is."""

from typing import Any

from bema import Context, HttpError, Request

config = {
    "description": "Shows an order",
    "flows": ["orders"],
    "triggers": [{"api": {"method": "GET", "path": "/orders/{order_id}"}}],
}


async def handler(request: Request[Any], ctx: Context) -> dict[str, Any]:
    order_id = request.path_params["order_id"]
    order: dict[str, Any] | None = await ctx.state.get("orders", order_id)
    if order is None:
        raise HttpError(404, f"there is no order {order_id}")
    return order
