"""Steps that are edited: what comes to a process that does not hear it, or hears it no more."""

from __future__ import annotations

import json

from bema.ports import subscriptions
from tests.support import waits
from tests.support.runtimes import App

BOTH = """
config = {"triggers": [{"event": {"topics": ["old"]}}, {"event": {"topics": ["new"]}}],
          "retry": {"maxAttempts": 2, "initialSeconds": 0.5, "maxSeconds": 0.5}}
async def handler(data, ctx):
    await ctx.state.append("ran", ctx.trigger.topic, data)
    if data == "fails":
        raise ValueError("not yet")
"""


def _of(app: App, topic: str, unheard: int) -> None:
    """Let processes started from now on hear one topic alone, as a version of the Step does."""
    [binding] = app.bindings
    limits = binding.limits.model_copy(update={"unheard_deliveries": unheard})
    events = [event for event in binding.events if topic in event.topics]
    app.bindings = [binding.model_copy(update={"events": events, "limits": limits})]


async def test_a_retry_of_a_topic_that_is_heard_no_more_is_a_dead_letter_and_runs_as_no_other(start_app) -> None:
    app = await start_app({"steps/both_step.py": BOTH})
    await app.emit("old", "fails")

    async def waiting() -> bool:
        return bool(await app.messages(f"{app.root}.timer.retry.>"))

    await waits.until(waiting, "the next attempt to be scheduled", explain=app.explain)
    app.worker.stop()
    _of(app, "new", unheard=2)
    app.spawn()
    [letter] = await waits.until(app.dead_letters, "the dead letter", explain=app.explain)
    assert (letter.headers["Bema-Reason"], letter.data) == ("NotHeard", b'"fails"')
    told = json.loads(letter.headers["Bema-Errors"])[-1]["message"]
    assert told == "expected a Step with a trigger for topic old, found none: it was edited since this was sent"
    assert await app.state("ran", "new") is None


async def test_what_only_the_next_version_hears_waits_for_it(start_app) -> None:
    """While a Step is rolled out, its consumer hears for the next version already, and pods of the last one pull."""
    app = await start_app({"steps/both_step.py": BOTH}, workers=0)
    [newest] = app.bindings
    _of(app, "old", unheard=8)
    app.spawn()
    await app.worker.wait_ready()
    await app.emit("new", "early")
    await app.emit("old", "now")
    await app.wait_state("ran", "old", ["now"])
    app.bindings = [newest]
    await subscriptions.ensure(app.js, newest)
    app.spawn()
    await app.wait_state("ran", "new", ["early"], timeout=60)
    assert await app.dead_letters() == []
