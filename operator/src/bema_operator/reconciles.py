"""One reconcile: observe the facts about a Step, decide, act, and again, until its status can be reported.

The same for create, update, resume and drift; idempotent; at most one at a time per Step.
"""

from __future__ import annotations

import collections
import contextlib
import logging
from collections.abc import Callable
from typing import Any, NamedTuple, assert_never

from bema.contract import names
from bema.contract.bindings import Binding
from bema.contract.statuses import Reason
from bema_operator import (
    apps,
    brokers,
    caches,
    decisions,
    events,
    facts,
    kinds,
    kube,
    metrics,
    ownership,
    plans,
    reasons,
    rollouts,
    scales,
    status_writes,
    statuses,
)
from bema_operator.contents import Contents
from bema_operator.facts import Facts, Key, Problem, Subject
from bema_operator.manifests import parts
from bema_operator.objects import Object
from bema_operator.plans import Plan
from bema_operator.settings import Settings

log = logging.getLogger(__name__)

PATIENCE = 3.0
"""How long a workload may be unready before its pods are asked why, in seconds."""
LONGEST_PAUSE = 300.0
"""The pods of an unready workload are looked at again after half the time that it has been unready, at most so many
seconds: of thousands that are unready at one time, somebody has to list the pods of each."""
REFUSED_AGAIN = 60.0
"""When to try again what the API server refuses: only somebody else's change can help, such as of a quota."""
BROKER_AGAIN = 15.0
"""When to ask the broker again that refused or did not answer; a reconnect brings the Step back at once."""
WAITING_AGAIN = 5.0
"""When to look again whether the events are done, or the Step gone, that a Step waits for: nobody tells."""
TURN_AGAIN = 2.0
"""When to ask again whether it is a Step's turn to have its pods replaced."""
LET_GO_AGAIN = 30.0
"""When to look again whether the consumers of a Step that hears no events are needed no more: nobody tells."""
PLANS_KEPT = 200
"""Making one anew takes less than 1 ms."""
ROUNDS = 8
"""More than a reconcile ever needs. Beyond, it chases its own tail."""


class NeverSettled(Exception):
    """A reconcile did not come to an end. A defect, such as an apply whose result does not look applied."""


class _Generations(NamedTuple):
    """What a plan was made of."""

    uid: str
    generation: int
    app_uid: str
    app_generation: int
    contents: str


class Reconciler:
    """Looks at one Step at a time, as often as it is told to."""

    def __init__(
        self,
        settings: Settings,
        cache: caches.Cache,
        api: kube.Kube,
        broker: brokers.Broker,
        *,
        contents: Contents,
        measures: metrics.Metrics,
        clock: Callable[[], float],
        time: Callable[[], str],
    ) -> None:
        """`contents`: what ConfigMaps hold. `clock` gives seconds for durations, `time` the time of day as RFC 3339."""
        self._settings = settings
        self._cache = cache
        self._api = api
        self._broker = broker
        self._measures = measures
        self._contents = contents
        self._clock = clock
        self._time = time
        self._events = events.Events(api, clock=clock, time=time)
        self._writer = status_writes.Writer(api, cache, self._events, clock=clock)
        self._namespaces: dict[str, str] = {}
        self._plans: collections.OrderedDict[Key, tuple[_Generations, Plan]] = collections.OrderedDict()
        """Those of the Steps that were looked at last: a plan takes far more memory than all else about a Step."""
        self._unready: dict[Key, float] = {}
        self._turns = rollouts.Turns()
        self._contests = scales.Contests()
        self._lost: set[tuple[str, str]] = set()
        """Apps and the creation times of their new streams whose loss was counted."""

    async def reconcile(self, key: Key) -> float | None:
        """Bring one Step in order. Returns after how many seconds to look again without news, or None."""
        found = self._cache.step(key)
        if found is None:
            self._forget(key)
            return None
        with self._measures.reconciles.time():
            try:
                return await self._settle(await self._observe(found))
            except StepGone as error:
                # Its own event, or our next list, says so too.
                log.debug("Left alone: %s", error, extra=key.bound)
                return None
            except Exception as error:
                self._measures.errors.labels(type(error).__name__).inc()
                raise

    def _forget(self, key: Key) -> None:
        """The Step is gone; Kubernetes removes its children."""
        self._broker.forget(key)
        self._contents.forget(key)
        self._plans.pop(key, None)
        self._unready.pop(key, None)
        self._turns.done(key)
        self._contests.forget(key)
        if not self._cache.has_steps(key.namespace):
            # The next namespace of this name may be another one.
            self._namespaces.pop(key.namespace, None)

    async def _observe(self, found: Object) -> Facts:
        subject = plans.subject(found)
        plan = Plan() if subject.deleting else await self._plan(subject, found)
        children = self._cache.children(subject.key, subject.uid)
        seen = Facts(
            subject=subject,
            spec=plan.spec,
            invalid=plan.invalid,
            unsupported=plan.unsupported,
            held=plan.held,
            wanted=scales.settled(plan.wanted, children, plan.spec, yields=self._yield_for(subject.key) > 0),
            binding=plan.binding,
            stream=plan.stream,
            children=children,
            backlog=self._backlog(subject, plan.binding),
        )
        return seen.with_(patience_over=self._is_patience_over(seen))

    async def _plan(self, subject: Subject, found: Object) -> Plan:
        namespace_uid = await self._namespace_uid(subject.key.namespace)
        app = self._cache.app(subject.key.namespace)
        digest = await self._contents.digest(subject.key, plans.restarts_on(found), subject.generation)
        now = _Generations(subject.uid, subject.generation, *apps.identity(app), digest)
        before, plan = self._plans.get(subject.key, (None, Plan()))
        if before != now:
            plan = plans.plan(found, namespace_uid, self._settings, plans.app_plan(app), digest)
            self._plans[subject.key] = (now, plan)
            if len(self._plans) > PLANS_KEPT:
                self._plans.popitem(last=False)
        return plan

    def _backlog(self, subject: Subject, binding: Binding | None) -> int | None:
        """As of the last look at the broker; before the first, what the status says."""
        if binding is None or binding.consumer is None:
            return None
        known = self._broker.backlog(subject.key)
        return subject.status.get("backlog") if known is None else known

    async def _namespace_uid(self, namespace: str) -> str:
        if namespace not in self._namespaces:
            uid = await self._api.uid(kinds.NAMESPACE, namespace)
            if uid is None:
                raise StepGone(f"namespace {namespace} is gone")
            self._namespaces[namespace] = uid
        return self._namespaces[namespace]

    async def _adopted(self, namespace: str) -> str:
        """The uid of the namespace before, where a person says on the namespace that its stream is to be taken over."""
        found = await self._api.get(kinds.NAMESPACE, namespace)
        uid: str = found["metadata"].get("annotations", {}).get(names.ANNOTATION_ADOPT_STREAM, "")
        return uid

    def _yield_for(self, key: Key) -> float:
        """Seconds for which somebody else's number of pods is left alone, which the Step contradicts."""
        return self._contests.wait(key, self._clock())

    def _is_patience_over(self, seen: Facts) -> bool:
        if seen.rollout is None or seen.rollout.is_done:
            self._unready.pop(seen.subject.key, None)
            if not seen.differing:
                self._turns.done(seen.subject.key)
            return False
        # After a restart of ours, a Step that was unready already has been waited for enough.
        waited = PATIENCE if statuses.was_unready(seen.subject) else 0.0
        since = self._unready.setdefault(seen.subject.key, self._clock() - waited)
        return self._clock() - since >= PATIENCE

    async def _settle(self, seen: Facts) -> float | None:
        for _ in range(ROUNDS):
            action = decisions.decide(seen)
            match action:
                case decisions.Leave():
                    return None
                case decisions.Subscribe():
                    seen = await self._subscribe(seen)
                case decisions.Apply():
                    seen = await self._apply(seen)
                case decisions.Prune():
                    seen = await self._prune(seen)
                case decisions.LookAtPods():
                    seen = await self._look_at_pods(seen)
                case decisions.Report():
                    seen = await self._release(seen)
                    await self._writer.write(seen.subject, statuses.status(seen, self._time()))
                    return self._again(seen)
                case _:
                    assert_never(action)
        raise NeverSettled(f"{seen.subject.key}: no end after {ROUNDS} rounds; the last action was {action}")

    async def _subscribe(self, seen: Facts) -> Facts:
        key, binding, stream = seen.subject.key, seen.binding, seen.stream
        if binding is None or stream is None:
            raise NeverSettled(f"{key}: expected a Binding and a stream, found none")
        discards, others = seen.subject.discards, self._others(binding, key)
        subscription = await self._broker.ensure(key, binding, stream=stream, others=others, discards=discards)
        if subscription.problem is not None and subscription.problem.reason is Reason.APP_STREAM_OWNED:
            adopt = await self._adopted(key.namespace)
            subscription = await self._broker.ensure(
                key, binding, stream=stream, others=others, discards=discards, adopt=adopt
            )
        found = seen.with_(subscription=subscription, backlog=self._backlog(seen.subject, binding))
        await self._note_loss(found)
        return found

    def _others(self, binding: Binding, key: Key) -> brokers.Others:
        async def exists(name: str) -> bool:
            return await self._api.uid(kinds.STEP, name, key.namespace) is not None

        same = self._cache.adopters(Key(key.namespace, binding.adopts)) if binding.adopts else []
        rivals = [name for name in same if name != key.name]
        return brokers.Others(self._cache.adopters(key), rivals, exists)

    async def _note_loss(self, seen: Facts) -> None:
        """Said and counted once for each stream, not by every Step."""
        app = seen.subject.key.namespace
        if statuses.told_for(seen, self._time()) > 0 and (app, seen.replaced) not in self._lost:
            self._lost.add((app, seen.replaced))
            self._measures.streams_lost.labels(app).inc()
            log.error(
                "The app's stream of %s is gone and with it all that it held; another one was made at %s",
                seen.subject.stream_created,
                seen.replaced,
                extra={"app": app},
            )
            await self._events.warn(seen.subject, Reason.BROKER_DATA_LOST, statuses.loss(seen.replaced))

    async def _apply(self, seen: Facts) -> Facts:
        for manifest in seen.due:
            if rollouts.is_unasked(seen, manifest) and not self._turns.take(seen.subject.key):
                seen = seen.with_(ahead=self._turns.holders)
                continue
            try:
                if (live := seen.live(manifest)) is not None:
                    if scales.is_overruled(manifest, live):
                        self._contests.note(seen.subject.key, self._clock())
                    await self._write(seen.subject, manifest, "Changed")
                elif not await self._make(seen.subject, manifest):
                    return self._with_obstacle(seen, manifest)
            except kube.Refused as error:
                return self._refused(seen, error)
        return self._with_children(seen)

    async def _write(self, subject: Subject, manifest: Object, verb: str, *, force: bool = True) -> None:
        kind = _kind(manifest)
        written = await self._api.apply(kind, manifest, force=force)
        self._cache.put(kind, written)
        if kind is kinds.DEPLOYMENT:
            self._unready[subject.key] = self._clock()
        log.info("%s %s %s", verb, kind.name, manifest["metadata"]["name"], extra=subject.key.bound)

    async def _make(self, subject: Subject, manifest: Object) -> bool:
        """Make a child that we do not know; whether it was made: its name must be free or ours. When the child was
        there before, its Step must still be, or we would fight the garbage collector."""
        key = subject.key
        if subject.was_reconciled and await self._api.uid(kinds.STEP, key.name, key.namespace) != subject.uid:
            raise StepGone(f"{key} was deleted meanwhile")
        if _kind(manifest) in kinds.SELECTING:
            # Asks and makes at once: whatever is not ours selects other pods, which is a conflict.
            with contextlib.suppress(kube.Conflict):
                await self._write(subject, manifest, "Made", force=False)
                return True
        if not await self._is_free(subject, manifest):
            return False
        await self._write(subject, manifest, "Made")
        return True

    async def _is_free(self, subject: Subject, manifest: Object) -> bool:
        """Whether nobody else has an object of this name. That of a ConfigMap is a digest of its content."""
        kind = _kind(manifest)
        if kind is kinds.CONFIG_MAP:
            return True
        found = await self._api.find(kind, subject.key.namespace, manifest["metadata"]["name"])
        return found is None or facts.owner_uid(found) == subject.uid or _is_orphan(found, subject.key.name)

    def _with_obstacle(self, seen: Facts, manifest: Object) -> Facts:
        where = f"{manifest['kind']} {seen.subject.key.namespace}/{manifest['metadata']['name']}"
        return self._with_children(seen).with_(taken=[where])

    def _refused(self, seen: Facts, error: kube.Refused) -> Facts:
        if "because it is being terminated" in str(error):
            # The namespace goes, and takes the Step with it.
            raise StepGone(f"{seen.subject.key}: its namespace is being deleted") from error
        log.warning("The API server refuses: %s", error, extra=seen.subject.key.bound)
        reason = statuses.refusal_reason(str(error))
        return self._with_children(seen).with_(refused=Problem(reason, str(error)))

    def _with_children(self, seen: Facts) -> Facts:
        children = self._cache.children(seen.subject.key, seen.subject.uid)
        fresh = seen.with_(children=children)
        return fresh.with_(patience_over=self._is_patience_over(fresh))

    async def _prune(self, seen: Facts) -> Facts:
        """Only what carries this Step's uid and our label: see `caches.Cache.children`."""
        gone = [child for child in seen.surplus if _is_managed(child)]
        for child in gone:
            await self._api.delete(_kind(child), child)
            log.info("Deleted %s %s", child["kind"], child["metadata"]["name"], extra=seen.subject.key.bound)
        surplus = {facts.identity(child) for child in seen.surplus}
        return seen.with_(children=[child for child in seen.children if facts.identity(child) not in surplus])

    async def _look_at_pods(self, seen: Facts) -> Facts:
        key = seen.subject.key
        selector = parts.selector_text(key.name, key.namespace)
        return seen.with_(pods=await self._api.list(kinds.POD, key.namespace, labelSelector=selector))

    async def _release(self, seen: Facts) -> Facts:
        """Whatever a noop may have heard before it was one, also while nobody looked."""
        if not seen.is_noop:
            return seen
        key = seen.subject.key
        return seen.with_(released=await self._broker.release(key, await self._namespace_uid(key.namespace)))

    def _again(self, seen: Facts) -> float | None:
        if seen.refused is not None or seen.taken:
            return REFUSED_AGAIN
        if seen.subscription is not None and seen.subscription.problem is not None:
            is_waiting = seen.subscription.problem.reason in reasons.WAITING
            return WAITING_AGAIN if is_waiting else BROKER_AGAIN
        if seen.rollout is not None and not seen.rollout.is_done:
            waited = self._clock() - self._unready.get(seen.subject.key, self._clock())
            return min(max(PATIENCE, waited / 2), LONGEST_PAUSE)
        if seen.ahead:
            return TURN_AGAIN
        if scales.contested(seen):
            return max(self._yield_for(seen.subject.key), TURN_AGAIN)
        if not seen.released or (seen.subscription is not None and seen.subscription.leftovers):
            return LET_GO_AGAIN
        if self._writer.leaves_out:
            return status_writes.AGAIN
        return statuses.told_for(seen, self._time()) or None


class StepGone(Exception):
    """The Step was deleted while it was worked on."""


def _kind(manifest: Object) -> kinds.Kind:
    return kinds.of(manifest["apiVersion"], manifest["kind"])


def _is_managed(child: Object) -> bool:
    labels: dict[str, Any] = child["metadata"].get("labels", {})
    return labels.get(names.LABEL_MANAGED_BY) == parts.MANAGED_BY or bool(ownership.our_fields(child))


def _is_orphan(found: Object, step: str) -> bool:
    """Whether an object was made for a Step of this name and left behind, as `--cascade=orphan` does: to be adopted."""
    labels: dict[str, Any] = found["metadata"].get("labels", {})
    ours = labels.get(names.LABEL_MANAGED_BY) == parts.MANAGED_BY and labels.get(names.LABEL_STEP) == step
    return ours and not found["metadata"].get("ownerReferences")
