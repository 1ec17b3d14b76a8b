"""The committer against a server on which something changes between its tries."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from bema.contract import names
from bema.contract.effects import EmitEvent
from bema.ports.jetstream import JetStream, Outgoing
from bema_runtime import batches
from bema_runtime.commits import Commit, RunOutcome
from bema_runtime.committers import Committed, Committer, Result
from bema_runtime.metrics import Metrics
from tests.support import units
from tests.support.runtimes import App

PAY = """
config = {"triggers": [{"event": {"topics": ["order.created"]}}], "emits": ["order.paid"]}
def handler(order, ctx):
    pass
"""


class Expiring(JetStream):
    """What is left of an id goes away right before the second batch is sent, as it does by itself after a minute."""

    def __init__(self, app: App, subject: str) -> None:
        super().__init__(app.connection)
        self._stream = app.stream
        self._subject = subject
        self.batches = 0

    async def publish_batch(
        self, messages: Sequence[Outgoing], *, id: str = "", always: bool = False, timeout: float = 5.0
    ) -> int:
        self.batches += 1
        if self.batches == 2:
            assert await self.purge(self._stream, self._subject, below=None) == 1
        return await super().publish_batch(messages, id=id, always=always, timeout=timeout)


async def test_what_was_left_of_an_id_and_has_gone_meanwhile_keeps_no_commit_waiting(start_app) -> None:
    app = await start_app({"steps/pay_step.py": PAY}, workers=0)
    [binding] = app.bindings
    subject = names.dedup(app.root, "order.paid", "x")
    await app.js.publish(batches.tombstone(subject, None))
    js = Expiring(app, subject)
    results: list[Result] = []
    ended = asyncio.Event()

    def settle(found: Sequence[tuple[Commit, Result]]) -> None:
        results.extend(result for _, result in found)
        ended.set()

    committer = Committer(js, app.stream, metrics=Metrics(), settle=settle)
    committer.start()
    try:
        run = units.run(unit=units.unit(binding))
        committer.submit(Commit(run, RunOutcome.OK, [EmitEvent("order.paid", b"1", 1, id="x")]))
        async with asyncio.timeout(10):
            await ended.wait()
    finally:
        await committer.close()
    assert results == [Committed()]
    assert js.batches == 3, "without an expectation, with one that no longer holds, and without one again"
    assert [event.data for event in await app.events("order.paid")] == [b"1"]
