"""api Steps: routing, validation, errors, limits, and the commit before the answer."""

from __future__ import annotations

import json
import time

from tests.support import waits

ORDERS = """
from pydantic import BaseModel, Field
from bema import HttpError, Request, Response
class Order(BaseModel):
    id: str
    quantity: int = Field(gt=0)
class Missing(HttpError):
    def __init__(self, what):
        self.status, self.detail = 404, f"no {what}"
config = {
    "triggers": [
        {"api": {"method": "POST", "path": "/orders", "body": Order, "maxBodyBytes": "1Ki"}},
        {"api": {"method": "GET", "path": "/orders/{id}", "query": {
            "type": "object", "properties": {"limit": {"type": "integer"}, "tag": {"type": "array"}}}}},
    ],
    "emits": ["order.created"],
}
async def handler(request: Request, ctx):
    if ctx.trigger.index == 1:
        if request.path_params["id"] == "teapot":
            raise HttpError(418, "short and stout")
        if request.path_params["id"] == "missing":
            raise Missing("order")
        if request.path_params["id"] == "crash":
            await ctx.state.set("orders", "crash", 1)
            raise RuntimeError("secret")
        if request.path_params["id"] == "text":
            return Response("hello", headers={"x-own": "1"})
        return {"order": await ctx.state.get("orders", request.path_params["id"]), "query": request.query}
    await ctx.state.set("orders", request.body.id, request.body)
    await ctx.emit("order.created", request.body)
    return 201, {"id": request.body.id, "trace": ctx.trace_id}
"""


async def test_an_answer_comes_after_its_commit(start_app) -> None:
    app = await start_app({"steps/orders_step.py": ORDERS})
    trace = "0af7651916cd43dd8448eb211c80319c"
    status, body, _ = app.request(
        "POST", "/orders", {"id": "o1", "quantity": 2}, headers={"traceparent": f"00-{trace}-b7ad6b7169203331-01"}
    )
    assert (status, body) == (201, {"id": "o1", "trace": trace})
    assert await app.state("orders", "o1") == {"id": "o1", "quantity": 2}
    [event] = await app.events("order.created")
    assert event.headers["traceparent"].split("-")[1] == trace
    [marker] = await app.messages(f"{app.root}.end.>")
    assert marker.subject.startswith(f"{app.root}.end.orders.api.")
    status, body, _ = app.request("GET", "/orders/o1?limit=5&tag=a&tag=b")
    assert (status, body) == (200, {"order": {"id": "o1", "quantity": 2}, "query": {"limit": 5, "tag": ["a", "b"]}})


async def test_bad_requests_are_refused_with_a_problem_that_names_the_field(start_app) -> None:
    app = await start_app({"steps/orders_step.py": ORDERS})
    status, body, headers = app.request("POST", "/orders", b"{broken")
    assert (status, headers["content-type"]) == (400, "application/problem+json")
    assert body["title"] == "Malformed JSON"
    status, body, _ = app.request("POST", "/orders", {"id": "o1", "quantity": 0})
    assert (status, body["errors"]) == (
        422,
        [{"field": "quantity", "message": "Input should be greater than 0", "found": "0"}],
    )
    status, body, _ = app.request("POST", "/orders")
    assert (status, body["errors"][0]["found"]) == (400, "nothing")
    status, body, _ = app.request("POST", "/orders", {"id": "x" * 2000, "quantity": 1})
    assert (status, body["detail"]) == (413, "expected at most 1024 bytes")
    status, body, _ = app.request("GET", "/orders/o1?limit=many")
    assert (status, body["errors"][0]["field"]) == (422, "query.limit")
    status, body, headers = app.request("DELETE", "/orders")
    assert (status, headers["allow"]) == (405, "POST")
    assert app.request("GET", "/nowhere")[0] == 404
    assert await app.messages(f"{app.root}.>") == []


async def test_errors_of_handlers_tell_what_they_may_and_commit_nothing(start_app) -> None:
    app = await start_app({"steps/orders_step.py": ORDERS})
    status, body, _ = app.request("GET", "/orders/teapot")
    assert (status, body["title"]) == (418, "short and stout")
    status, body, _ = app.request("GET", "/orders/missing")
    assert (status, body["title"]) == (404, "no order"), "also of a class that does without its parent's __init__"
    status, body, _ = app.request("GET", "/orders/crash")
    assert status == 500
    assert "secret" not in json.dumps(body)
    assert len(body["trace"]) == 32
    assert await app.state("orders", "crash") is None
    status, body, headers = app.request("GET", "/orders/text")
    assert (status, body, headers["x-own"]) == (200, "hello", "1")
    metrics = app.worker.metrics()
    assert metrics['bema_runs_total{app="shop",kind="api",outcome="failed",step="orders"}'] == 1


ALIASES = """
from bema import Request
from pydantic import BaseModel, Field
class Order(BaseModel):
    order_id: str = Field(alias="orderId")
    amount: float = 0
config = {"triggers": [{"api": {"method": "POST", "path": "/orders"}}],
          "emits": ["plain", {"topic": "checked", "schema": Order}]}
async def handler(request: Request[Order], ctx):
    await ctx.state.set("orders", "last", request.body)
    await ctx.state.append("orders", "all", request.body)
    await ctx.emit("plain", request.body)
    await ctx.emit("checked", request.body)
    return request.body
"""
HEARS = """
from pydantic import BaseModel, Field
class Order(BaseModel):
    order_id: str = Field(alias="orderId")
config = {"triggers": [{"event": {"topics": ["plain", "checked"]}}]}
async def handler(order: Order, ctx):
    await ctx.state.set("heard", ctx.trigger.topic, order.order_id)
"""


async def test_a_model_with_aliases_goes_out_as_its_schema_says_and_comes_in_again(start_app) -> None:
    app = await start_app({"steps/orders_step.py": ALIASES, "steps/hears_step.py": HEARS})
    order = {"orderId": "7", "amount": 1.5}
    assert app.request("POST", "/orders", order)[:2] == (200, order)
    assert await app.state("orders", "last") == order
    assert await app.state("orders", "all") == [order]
    for topic in ("plain", "checked"):
        assert [json.loads(event.data) for event in await app.events(topic)] == [order]
        await app.wait_state("heard", topic, "7")


async def test_a_body_with_what_json_has_not_is_malformed(start_app) -> None:
    app = await start_app({"steps/orders_step.py": ALIASES, "steps/hears_step.py": HEARS})
    status, body, headers = app.request("POST", "/orders", b'{"orderId": "7", "amount": NaN}')
    assert (status, headers["content-type"], body["title"]) == (400, "application/problem+json", "Malformed JSON")
    assert "expected JSON (which has no NaN)" in body["detail"]
    assert await app.messages(f"{app.root}.>") == []


SLOW = """
import asyncio, time
config = {"triggers": [{"api": {"method": "POST", "path": "/slow"}}], "timeoutSeconds": 0.3, "concurrency": 1}
async def handler(request, ctx):
    await ctx.state.set("slow", "done", 1)
    await asyncio.sleep(5)
"""


async def test_a_request_that_takes_too_long_is_a_504_and_commits_nothing(start_app) -> None:
    app = await start_app({"steps/slow_step.py": SLOW})
    status, body, _ = app.request("POST", "/slow")
    assert (status, body["title"]) == (504, "Timeout")
    assert await app.state("slow", "done") is None

    def free() -> bool:
        return app.request("POST", "/slow")[0] == 504

    await waits.until(free, "the place of the cancelled request")


BEATING = """
import asyncio
config = {"triggers": [{"api": {"method": "POST", "path": "/beat"}}], "timeoutSeconds": 1}
async def handler(request, ctx):
    for _ in range(3):
        await asyncio.sleep(0.6)
        await ctx.heartbeat()
    await asyncio.sleep(request.body)
    await ctx.state.set("beat", "slept", request.body)
    return {"slept": request.body}
"""


async def test_the_time_of_a_request_starts_anew_with_each_heartbeat(start_app) -> None:
    app = await start_app({"steps/beat_step.py": BEATING})
    assert app.request("POST", "/beat", 0.1)[:2] == (200, {"slept": 0.1})
    assert await app.state("beat", "slept") == 0.1
    began = time.monotonic()
    status, body, _ = app.request("POST", "/beat", 15)
    assert (status, body["title"]) == (504, "Timeout")
    assert 2.5 < time.monotonic() - began < 10
    assert await app.state("beat", "slept") == 0.1


HOT = """
config = {"triggers": [{"api": {"method": "POST", "path": "/take"}}], "concurrency": 64}
async def handler(request, ctx):
    left = await ctx.state.get("stock", "apple", 50)
    await ctx.state.set("stock", "apple", left - 1)
    return {"left": left - 1}
"""


async def test_requests_that_contend_for_a_key_each_see_their_own_value(start_app) -> None:
    import asyncio

    app = await start_app({"steps/take_step.py": HOT})
    answers = await asyncio.gather(*(asyncio.to_thread(app.request, "POST", "/take") for _ in range(40)))
    assert sorted(body["left"] for status, body, _ in answers if status == 200) == list(range(10, 50))
    assert await app.state("stock", "apple") == 10


PATIENT = """
import asyncio
config = {"triggers": [{"api": {"method": "POST", "path": "/wait"}}], "timeoutSeconds": 20}
async def handler(request, ctx):
    ctx.logger.info("begun")
    await ctx.state.set("waited", "done", 1)
    await asyncio.sleep(15)
"""


async def test_a_request_that_a_stop_interrupts_is_told_so(start_app) -> None:
    import asyncio

    app = await start_app({"steps/wait_step.py": PATIENT}, drain_seconds=1)
    asked = asyncio.create_task(asyncio.to_thread(app.request, "POST", "/wait"))
    await waits.until(lambda: "begun" in app.worker.output, "the handler's begin", explain=app.explain)
    app.worker.stop()
    status, body, headers = await asked
    assert (status, body["title"], headers["retry-after"]) == (503, "Stopping", "1")
    assert await app.state("waited", "done") is None
