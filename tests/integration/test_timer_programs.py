"""Random programs of emits with ids and of timers, each committed by one run, beside a model of what is promised."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from typing import Any

from bema.contract import envelopes, names
from tests.support.runtimes import App

TOPICS, IDS = "ab", "xy"
PROGRAM = """
config = {"triggers": [{"api": {"method": "POST", "path": "/p"}}], "emits": ["a", "b"]}
async def handler(request, ctx):
    for verb, topic, id in request.body:
        if verb == "emit":
            await ctx.emit(topic, None, id=id)
        elif verb == "later":
            await ctx.emit(topic, None, id=id, delay=1000)
        elif verb == "cancel":
            await ctx.timers.cancel(id)
        else:
            await ctx.timers.reschedule(id, delay=2000)
"""
Operation = tuple[str, str, str]


class Model:
    """What each operation does, one after the other."""

    def __init__(self) -> None:
        self.waiting: dict[str, str] = {}
        """Topics of the events for later, by id."""
        self.used: set[tuple[str, str]] = set()
        self.sent: Counter[str] = Counter()
        self._made: set[str] = set()
        """Ids of the events for later that the run itself has made."""

    def run(self, program: list[Operation]) -> None:
        before, freed = set(self.used), set[str]()
        own: set[tuple[str, str]] = set()
        later: dict[str, str] = {}
        for verb, topic, id in program:
            if verb == "cancel":
                freed.add(id)
                self._take_back(id, before)
                own.discard((later.pop(id, ""), id))
            # Of several in one run the first counts, whatever becomes of it, until the run takes it back
            elif verb != "reschedule" and (topic, id) not in own and not (verb == "later" and id in later):
                own.add((topic, id))
                if verb == "later":
                    later[id] = topic
                self._emit(verb, topic, id, freed)
        self._made.clear()

    def _take_back(self, id: str, before: set[tuple[str, str]]) -> None:
        if id in self.waiting:
            place = (self.waiting.pop(id), id)
            if id not in self._made:
                before.discard(place)
            # What a run has not sent does not change what was sent before
            if place not in before:
                self.used.discard(place)

    def _emit(self, verb: str, topic: str, id: str, freed: set[str]) -> None:
        if (verb == "later" and id in self.waiting) or ((topic, id) in self.used and id not in freed):
            return
        self.used.add((topic, id))
        if verb == "later":
            self.waiting[id] = topic
            self._made.add(id)
        else:
            self.sent[topic] += 1


def programs(seed: int, count: int) -> list[list[Operation]]:
    chance = random.Random(seed)
    verbs = ["emit", "later", "later", "cancel", "cancel", "reschedule"]
    return [
        [(chance.choice(verbs), chance.choice(TOPICS), chance.choice(IDS)) for _ in range(chance.randint(1, 6))]
        for _ in range(count)
    ]


async def test_what_a_run_does_with_ids_and_timers_is_what_the_model_says(start_app) -> None:
    app = await start_app({"steps/program_step.py": PROGRAM})
    model = Model()
    for number, program in enumerate(programs(seed=1, count=250)):
        said = f"program {number}: {program} after {model.waiting}, {sorted(model.used)}"
        model.run(program)
        async with asyncio.timeout(20):
            status, body, _ = await asyncio.to_thread(app.request, "POST", "/p", program)
        assert status < 300, f"{said}: {body}"
        assert await _waiting(app) == model.waiting, said
        assert {topic: len(await app.events(topic)) for topic in TOPICS} == {t: model.sent[t] for t in TOPICS}, said


async def _waiting(app: App) -> dict[str, str]:
    """Topics of the events for later, by id, as the broker has them."""
    found: dict[str, Any] = {}
    for stored in await app.messages(f"{app.root}.timer.>"):
        if envelopes.DELETED not in stored.headers:
            topic = envelopes.attribute(stored.headers, envelopes.TYPE)
            [id] = [id for id in IDS if names.timer(app.root, id) == stored.subject]
            found[id] = topic
    return found
