"""A Step that was renamed goes on from the place of the one that it was, and does nothing twice."""

from __future__ import annotations

import asyncio
import json
import signal
from collections import Counter
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest

from bema import handlers
from bema.contract import bindings, errors, names
from bema.contract.adoptions import Adoption, Former
from bema.contract.bindings import Binding, Installation, Owner
from bema.contract.statuses import Reason
from bema.contract.steps import Step
from bema.ports import admin, adoptions, dead_letters, subscriptions
from bema_operator.brokers import Broker, Others
from bema_operator.facts import Key, Problem
from bema_operator.metrics import Metrics
from bema_operator.settings import Settings
from tests.support import waits
from tests.support.runtimes import NAMESPACE, App

Start = Callable[..., Any]
WORK = """
import asyncio, json, pathlib
config = {
    "triggers": [{"event": {"topics": ["a"]ORDERING}}],
    "concurrency": 8,
    "retry": {"maxAttempts": 2, "initialSeconds": 4, "jitter": 0},
    ADOPT
}
HERE = pathlib.Path(__file__).parent
async def handler(data, ctx):
    n = data["n"]
    with (HERE / "runs.log").open("a") as log:
        log.write(json.dumps([n, ctx.step, ctx.run_id, ctx.attempt]) + "\\n")
    while n == 0 and not (HERE / "gate").exists():
        await asyncio.sleep(0.05)
    if n == 7 and ctx.attempt == 1:
        raise ValueError("once")
    if n == 9:
        raise ValueError("always")
    await ctx.state.append("seen", str(n), ctx.step)
"""
COUNT = 40
FAILING = {7, 9}


def work(adopts: str = "", *, ordering: bool = False) -> str:
    adopt = f'"adoptFrom": "{adopts}",' if adopts else ""
    return WORK.replace("ADOPT", adopt).replace("ORDERING", ', "ordering": {}' if ordering else "")


def bound(app: App, name: str, text: str) -> Binding:
    """A Step that comes later."""
    path, like = f"steps/{name}_step.py", app.bindings[0]
    (app.folder / path).write_text(text)
    handler = handlers.load(app.folder, path)
    spec = handlers.spec_of(handler, {"entrypoint": path, "image": "none"})
    installation = Installation(
        broker=like.broker, health=like.health, metrics=like.metrics, folder=str(app.folder), drain_seconds=5
    )
    return bindings.bind(Step(name=handler.name, spec=spec), Owner(namespace=NAMESPACE), installation)


async def take_over(app: App, name: str, text: str) -> Binding:
    binding = bound(app, name, text)
    await subscriptions.ensure(app.js, binding)
    app.bindings.append(binding)
    return binding


async def seen(app: App) -> dict[int, list[str]]:
    """By event, the Steps that handled it with effect."""
    stored = await app.messages(names.state_filter(app.root, "seen"))
    return {int(names.state_of(app.root, each.subject)[1]): json.loads(each.data) for each in stored}


async def wait_seen(app: App, wanted: set[int], *, timeout: float = 30) -> None:
    async def all_there() -> bool:
        return set(await seen(app)) >= wanted

    async def told() -> str:
        return f"{sorted(wanted - set(await seen(app)))} missing"

    await waits.until(all_there, f"{len(wanted)} events handled", timeout=timeout, explain=app.explain)


def runs(app: App) -> list[list[Any]]:
    text = (app.folder / "steps/runs.log").read_text()
    return [json.loads(line) for line in text.splitlines()]


def ids(app: App, number: int) -> list[tuple[str, str, int]]:
    """Step, run and attempt of each execution for an event."""
    return [(step, run, attempt) for n, step, run, attempt in runs(app) if n == number]


async def ends(app: App) -> Counter[str]:
    """Markers by the Step in whose name they are."""
    found = await app.messages(f"{app.root}.end.*.event.>")
    return Counter(each.subject.split(".")[3] for each in found)


async def busy(start_app: Start, *, ordering: bool = False) -> App:
    """A Step `old` that has handled all of its events but the first, which it has in hand, and those that failed."""
    app: App = await start_app({"steps/old_step.py": work(ordering=ordering)})
    for number in range(COUNT):
        await app.emit("a", {"n": number}, key=str(number) if number else None)
    await waits.until(lambda: (app.folder / "steps/runs.log").exists() and ids(app, 0), "event 0 in hand")
    return app


def open_gate(app: App) -> None:
    (app.folder / "steps/gate").touch()


async def test_what_was_done_above_the_floor_is_not_done_again(start_app: Start) -> None:
    app = await busy(start_app)
    await wait_seen(app, set(range(1, COUNT)) - FAILING)
    before = (await admin.consumer_states(app.js, app.stream))["old"]
    assert before.ack_floor < 2, "the first event holds it"
    app.worker.stop(signal.SIGKILL)
    await take_over(app, "new", work("old"))
    assert set(await admin.consumer_states(app.js, app.stream)) == {"new"}
    for number in range(COUNT, COUNT + 5):
        await app.emit("a", {"n": number})
    open_gate(app)
    await app.spawn(only=["new"]).wait_ready()
    await wait_seen(app, set(range(COUNT + 5)) - {9}, timeout=40)
    await app.wait_idle()
    found = await seen(app)
    assert {number: steps for number, steps in found.items() if len(steps) != 1} == {}
    assert {number for number, steps in found.items() if steps == ["new"]} == {0, 7, *range(COUNT, COUNT + 5)}
    # The same run, so the same key for the outside world; the next attempt of one that had failed counts on.
    assert len({run for _, run, _ in ids(app, 0)}) == 1
    again = {n for n, step, _, _ in runs(app) if step == "new"}
    assert again == {0, 7, *range(COUNT, COUNT + 5)} | ({9} & again), "no handler runs for what was done"
    assert [(step, attempt) for step, _, attempt in ids(app, 7)] == [("old", 1), ("new", 2)]
    assert len({run for _, run, _ in ids(app, 7)}) == 1
    assert await ends(app) == {"old": COUNT, "new": 5}
    assert [names.dead_letter_of(app.root, each.subject)[0] for each in await app.dead_letters()] == ["new"]


async def test_what_the_former_step_still_has_in_hand_ends_once(start_app: Start) -> None:
    """Its pods may live on for a while after it was deleted."""
    app = await busy(start_app)
    await wait_seen(app, set(range(1, COUNT)) - FAILING)
    await take_over(app, "new", work("old"))
    await app.spawn(only=["new"]).wait_ready()
    await waits.until(lambda: len(ids(app, 0)) == 2, "both to have event 0", explain=app.explain)
    open_gate(app)
    await app.emit("a", {"n": COUNT})
    await wait_seen(app, {0, COUNT})
    await app.wait_idle()
    found = await seen(app)
    assert len(found[0]) == 1
    assert found[COUNT] == ["new"], "the former one is given nothing any more"


async def test_the_order_of_each_partition_goes_on(start_app: Start) -> None:
    app = await busy(start_app, ordering=True)
    held = {number for number in range(1, COUNT) if names.partition(str(number), 8) == 0}
    await wait_seen(app, set(range(1, COUNT)) - held - FAILING, timeout=40)
    app.worker.stop(signal.SIGKILL)
    await take_over(app, "new", work("old", ordering=True))
    states = await admin.consumer_states(app.js, app.stream)
    assert {admin.step_of(state) for state in states.values()} == {"new"}
    assert len(states) == 9
    open_gate(app)
    await app.spawn(only=["new"]).wait_ready()
    await wait_seen(app, set(range(COUNT)) - {9}, timeout=60)
    found = await seen(app)
    assert {number: steps for number, steps in found.items() if len(steps) != 1} == {}
    stored = await app.messages(names.state_filter(app.root, "seen"))
    order = [int(names.state_of(app.root, each.subject)[1]) for each in sorted(stored, key=lambda each: each.sequence)]
    for partition in range(8):
        own = [n for n in order if (names.partition(str(n), 8) if n else 0) == partition]
        assert own == sorted(own)


async def test_a_step_that_is_renamed_twice_keeps_the_names_of_both(start_app: Start) -> None:
    app = await busy(start_app)
    await wait_seen(app, set(range(1, COUNT)) - FAILING)
    app.worker.stop(signal.SIGKILL)
    await take_over(app, "new", work("old"))
    await app.emit("a", {"n": COUNT})
    await take_over(app, "newest", work("new"))
    found = await adoptions.read(app.js, app.stream, "newest")
    assert found is not None
    assert [former.step for former in found.formers] == ["old", "new"]
    filters = (await admin.consumer_states(app.js, app.stream))["newest"].filters
    assert {names.retry_filter(app.root, step) for step in ("old", "new", "newest")} <= set(filters)
    open_gate(app)
    await app.spawn(only=["newest"]).wait_ready()
    await app.emit("a", {"n": COUNT + 1})
    await wait_seen(app, {0, 7, COUNT, COUNT + 1})
    await app.wait_idle()
    counts = {number: steps for number, steps in (await seen(app)).items() if len(steps) != 1}
    assert counts == {}
    assert await ends(app) == {"old": COUNT, "new": 1, "newest": 1}
    await subscriptions.ensure(app.js, app.binding("newest"))
    assert (await admin.consumer_states(app.js, app.stream))["newest"].filters == filters, "also after another look"


@pytest.mark.parametrize("stop", ["begin", "ensure_consumer", "delete_consumer", "_write"])
async def test_whoever_is_interrupted_begins_again(
    start_app: Start, monkeypatch: pytest.MonkeyPatch, stop: str
) -> None:
    app: App = await start_app({"steps/old_step.py": work()}, workers=0)
    for number in range(3):
        await app.emit("a", {"n": number})
    module: Any = admin if hasattr(admin, stop) else adoptions
    wanted, calls = getattr(module, stop), Counter[str]()

    async def fail(*arguments: Any, **options: Any) -> Any:
        """After the first time, but for what begins: that fails when it is done."""
        calls["all"] += 1
        if stop == "begin" or calls["all"] > 1:
            await wanted(*arguments, **options) if stop == "begin" else None
            raise errors.BrokerUnavailable("interrupted")
        return await wanted(*arguments, **options)

    binding = bound(app, "new", work("old"))
    with monkeypatch.context() as patch:
        patch.setattr(module, stop, fail)
        if stop in ("begin", "_write"):
            with pytest.raises(errors.BrokerUnavailable):
                await subscriptions.ensure(app.js, binding)
        else:
            await subscriptions.ensure(app.js, binding)
    await subscriptions.ensure(app.js, binding)
    states = await admin.consumer_states(app.js, app.stream)
    assert {durable: state.backlog for durable, state in states.items()} == {"new": 3}
    found = await adoptions.read(app.js, app.stream, "new")
    assert found is not None
    assert found.is_done
    assert [former.step for former in found.formers] == ["old"]


async def test_without_anybody_to_take_over_a_step_begins_as_it_says(start_app: Start) -> None:
    app: App = await start_app({"steps/other_step.py": work()}, workers=0)
    await app.emit("a", {"n": 1})
    await take_over(app, "new", work("old"))
    assert await adoptions.read(app.js, app.stream, "new") == Adoption()
    states = await admin.consumer_states(app.js, app.stream)
    assert (states["new"].backlog, states["other"].backlog) == (0, 1), "from now on"
    assert names.retry_filter(app.root, "old") not in states["new"].filters


async def test_one_step_alone_takes_over_a_place(start_app: Start) -> None:
    app: App = await start_app({"steps/old_step.py": work()}, workers=0)
    for number in range(3):
        await app.emit("a", {"n": number})
    both = [bound(app, name, work("old")) for name in ("one", "two")]
    ends = await asyncio.gather(*(subscriptions.ensure(app.js, each) for each in both), return_exceptions=True)
    [winner] = [each for each, end in zip(both, ends, strict=True) if not isinstance(end, Exception)]
    [loser] = [each for each in both if each is not winner]
    [error] = [end for end in ends if isinstance(end, Exception)]
    assert isinstance(error, errors.PlaceTaken)
    assert f"the Step {winner.step} has taken over the place of old" in str(error)
    for _ in range(2):
        states = await admin.consumer_states(app.js, app.stream)
        assert {durable: state.backlog for durable, state in states.items()} == {winner.step: 3}
        with pytest.raises(errors.PlaceTaken):
            await subscriptions.ensure(app.js, loser)
        await subscriptions.ensure(app.js, winner)
    await subscriptions.remove(app.js, app.stream, winner.step)
    await subscriptions.ensure(app.js, loser)
    assert await adoptions.read(app.js, app.stream, loser.step) == Adoption(), "it is gone with the one that had it"


async def test_a_renaming_is_undone_and_done_again(start_app: Start) -> None:
    app: App = await start_app({"steps/old_step.py": work()}, workers=0)
    for number in range(3):
        await app.emit("a", {"n": number})
    for name, former in (("new", "old"), ("old", "new"), ("new", "old")):
        await subscriptions.ensure(app.js, bound(app, name, work(former)))
        states = await admin.consumer_states(app.js, app.stream)
        assert {durable: state.backlog for durable, state in states.items()} == {name: 3}
        assert await adoptions.holder(app.js, app.stream, former) == name
        assert await adoptions.read(app.js, app.stream, former) is None


class Operator:
    """The operator's side of an app, with Steps that are there by their names."""

    def __init__(self, app: App) -> None:
        self.app = app
        self.broker = Broker(Settings(nats_urls=tuple(app.nats_urls)), Metrics(), lambda key: None)
        self.adopting: dict[str, str] = {}
        """All Steps that are there, and whose place they take over."""

    async def look(self, name: str) -> Problem | None:
        """Look at a Step, which hears `a`."""
        former = self.adopting[name]
        binding = bound(self.app, name, work(former))
        same = [step for step, adopts in self.adopting.items() if adopts == former and step != name]
        others = Others([step for step, adopts in self.adopting.items() if adopts == name], same, self._exists)
        stream = bindings.app_stream(
            Owner(namespace=NAMESPACE), Installation(broker=bindings.Broker(urls=self.app.nats_urls))
        )
        key = Key(NAMESPACE, name)
        return (await self.broker.ensure(key, binding, stream=stream, others=others)).problem

    async def _exists(self, name: str) -> bool:
        return name in self.adopting

    async def backlogs(self) -> dict[str, int]:
        states = await admin.consumer_states(self.app.js, self.app.stream)
        return {durable: state.backlog for durable, state in states.items()}


@pytest.fixture
async def operator(start_app: Start) -> AsyncIterator[Operator]:
    """Of an app with a Step `old` for which three events wait."""
    app: App = await start_app({"steps/old_step.py": work()}, workers=0)
    for number in range(3):
        await app.emit("a", {"n": number})
    found = Operator(app)
    task = asyncio.create_task(found.broker.run())
    try:
        await found.broker.wait_connected(10)
        found.adopting["old"] = ""
        yield found
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def test_of_two_that_take_over_one_place_the_other_is_held_back(operator: Operator) -> None:
    operator.adopting |= {"a": "old", "b": "old"}
    first, second = await operator.look("a"), await operator.look("b")
    assert first is not None
    assert first.reason is Reason.ADOPTION_WAITS
    assert second is not None
    assert second.reason is Reason.TAKEN_OVER
    assert second.message.startswith("The Step a is to take over the place of old (adoptFrom), too")
    del operator.adopting["old"]
    assert (await operator.look("b")) == second
    assert await operator.look("a") is None
    for name in ("b", "0"):
        operator.adopting["0"] = "old"
        problem = await operator.look(name)
        assert problem is not None
        assert problem.reason is Reason.TAKEN_OVER
        assert problem.message.startswith("The Step a has taken over the place of old (adoptFrom), which one")
        assert await operator.look("a") is None
    assert await operator.backlogs() == {"a": 3}


async def test_a_renaming_is_undone_with_the_whole_backlog(operator: Operator) -> None:
    del operator.adopting["old"]
    operator.adopting["new"] = "old"
    assert await operator.look("new") is None
    # Both while the new one is there and once it is gone, its events wait for whoever takes over its place.
    operator.adopting["old"] = ""
    for gone in ((), ("new",)):
        for name in gone:
            del operator.adopting[name]
        problem = await operator.look("old")
        assert problem is not None
        assert problem.reason is Reason.TAKEN_OVER
        assert "delete this Step, apply it with adoptFrom: new, and only then delete new" in problem.message
        assert await operator.backlogs() == {"new": 3}
    operator.adopting |= {"old": "new", "new": "old"}
    problem = await operator.look("old")
    assert problem is not None
    assert problem.reason is Reason.ADOPTION_WAITS
    assert await operator.look("new") is None
    del operator.adopting["new"]
    assert await operator.look("old") is None
    assert await operator.look("old") is None
    assert await operator.backlogs() == {"old": 3}


async def test_a_step_that_is_gone_for_good_has_taken_over_nothing(start_app: Start) -> None:
    app: App = await start_app({"steps/old_step.py": work(ordering=True)}, workers=0)
    await take_over(app, "new", work("old", ordering=True))
    taken = await adoptions.read(app.js, app.stream, "new")
    assert taken is not None
    assert [former.step for former in taken.formers] == ["old"]
    *partitions, main = reversed(await admin.states_of_step(app.js, app.stream, "new"))
    assert (main, len(partitions)) == ("new", app.bindings[-1].partitions)
    for durable in partitions:
        await subscriptions.remove(app.js, app.stream, durable)
    assert await adoptions.read(app.js, app.stream, "new") == taken, "its main consumer is still there"
    await subscriptions.remove(app.js, app.stream, main)
    assert await adoptions.read(app.js, app.stream, "new") is None
    assert await admin.consumer_states(app.js, app.stream) == {}
    await subscriptions.remove(app.js, app.stream, main)


async def test_events_that_wait_on_a_topic_of_the_former_one_alone_are_told(start_app: Start) -> None:
    app: App = await start_app({"steps/old_step.py": work().replace('["a"]', '["a", "b"]')}, workers=0)
    await app.emit("b", {})
    binding = bound(app, "new", work("old"))
    assert await subscriptions.unheard(app.js, binding, until={}) == {}
    assert await subscriptions.unheard(app.js, binding, until={}, step="old") == {"b": 1}


async def test_a_dead_letter_of_the_former_step_can_be_redriven(start_app: Start) -> None:
    app = await busy(start_app)
    open_gate(app)
    await waits.until(app.dead_letters, "a dead letter", timeout=30, explain=app.explain)
    app.worker.stop(signal.SIGKILL)
    place = dead_letters.Place.of(NAMESPACE)
    [letter] = await app.dead_letters()
    found = await dead_letters.find(app.js, place, names.dead_letter_of(app.root, letter.subject)[1])
    assert found is not None
    await take_over(app, "new", work("old"))
    await app.spawn(only=["new"]).wait_ready()
    run = await dead_letters.redrive(app.js, place, found, data=b'{"n": 100}')
    await wait_seen(app, {100})
    assert ids(app, 100) == [("new", run, 1)]


def test_the_name_of_an_event() -> None:
    adoption = Adoption((Former("a", 10), Former("b", 20)))
    assert [adoption.name_of(sequence, "c") for sequence in (1, 10, 11, 20, 21)] == ["a", "a", "b", "b", "c"]
    assert Adoption().name_of(1, "c") == "c"
    assert not Adoption((Former("a", None),)).is_done
