"""`make demo-cluster`: the same orders and the same audit on Kubernetes, while pods are deleted by force."""

from __future__ import annotations

import asyncio
import json
import secrets
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

from tools import installs, kind_clusters
from tools.cluster import clusters, paths, stages
from tools.cluster.errors import CommandFailed
from tools.demo import audits, brokers, images, interruptions, providers, trials
from tools.demo.brokers import Broker
from tools.demo.drivers import Driver
from tools.demo.errors import DemoError
from tools.demo.histories import Entry
from tools.demo.interruptions import Interruption
from tools.demo.kube_apps import API_STEP, KubeApp
from tools.demo.orderfiles import Line
from tools.images.builders import Built
from tools.kubernetes import Kubernetes

FIRST_STRIKE = 0.1
LAST_STRIKE = 0.7
"""Parts of the file that are settled when the first and the last pod is deleted."""
MORE_STRIKES = (0.8, 0.85, 0.9, 0.95)
"""When again, as long as nothing was interrupted."""


class Code(StrEnum):
    """How the handlers reach their pods."""

    INLINE = "inline"
    """Inside the Steps."""
    IMAGE = "image"
    """In an image built on the runtime's, with a requirements file."""


@dataclass(frozen=True)
class Options:
    """What the caller chose."""

    lines: Sequence[Line]
    codes: Sequence[Code] = tuple(Code)
    name: str = "demo"
    """The cluster's name."""
    folder: Path = paths.REPOSITORY / "examples" / "orders"
    keep: bool = False
    """Leave the cluster and the app up."""
    kind: bool = False
    """On a cluster of kind's, which is deleted at the end."""


@dataclass(frozen=True)
class Result:
    """What one trial on the cluster showed."""

    outcome: trials.Outcome
    report_problems: Sequence[str]
    clients: dict[str, int]
    """What called the provider, with how often."""

    @property
    def passed(self) -> bool:
        return self.outcome.passed and not self.report_problems


def run(options: Options) -> bool:
    """Run it, once for each way to bring the code; whether all trials passed."""
    with _cluster(options) as cluster:
        cluster.verify()
        stages.say(f"cluster {cluster.name}; kubeconfig: {cluster.kubeconfig}")
        runtime = installs.install(cluster)
        passed = True
        for code in options.codes:
            result = play(cluster, runtime, code, options)
            passed = passed and result.passed
    return passed


@contextmanager
def _cluster(options: Options) -> Iterator[Kubernetes]:
    if options.kind:
        with kind_clusters.running(f"bema-{options.name}") as kind:
            yield kind
    elif options.keep:
        yield clusters.up(options.name)
    else:
        with clusters.running(options.name) as cluster:
            yield cluster


def play(cluster: Kubernetes, runtime: Built, code: Code, options: Options) -> Result:
    """One trial, in a namespace of its own, and its outcome on standard output."""
    image = images.orders_image(cluster, runtime, options.folder) if code is Code.IMAGE else None
    app = KubeApp(cluster, f"orders-{code}-{secrets.token_hex(2)}")
    with providers.running(cluster.host_ip) as provider:
        try:
            with stages.stage(f"Steps in namespace {app.namespace}, code {code}"):
                app.create(options.folder, image=image, payment_url=provider.url)
                app.wait_ready()
            result = asyncio.run(_trial(app, provider, options.lines))
        except (DemoError, CommandFailed):
            stages.say(_dump(app))
            raise
        finally:
            if not options.keep:
                app.delete()
    print(f"\nOn Kubernetes, code {code}", flush=True)
    for problem in result.report_problems:
        print(f"  the report by hand: {problem}")
    print("  " + ", ".join(f"{count} requests to the provider by {name}" for name, count in result.clients.items()))
    trials.show(result.outcome)
    return result


def _dump(app: KubeApp) -> str:
    try:
        return app.describe()
    except CommandFailed as failed:
        return str(failed)


async def _trial(app: KubeApp, provider: providers.Provider, lines: Sequence[Line]) -> Result:
    steps = app.deployments()
    stages.say(f"each Step its own: Deployments {', '.join(steps)}; CronJob nightly-report; nothing for courier")
    async with brokers.connected(app.nats_url, app.namespace) as broker:

        async def sabotage(driver: Driver) -> list[Interruption]:
            return await _delete_in_turn(app, steps, broker, driver)

        outcome = await trials.run(trials.Scene(app.url, broker, provider.ledger, lines), sabotage)
        with stages.stage("report by hand: kubectl create job --from=cronjob/nightly-report"):
            await asyncio.to_thread(app.report_by_hand)
        problems = report_problems(await broker.entries(), outcome.verdict)
    return Result(outcome, problems, provider.ledger.clients())


async def _delete_in_turn(app: KubeApp, steps: Sequence[str], broker: Broker, driver: Driver) -> list[Interruption]:
    """Delete the pods of each Step and the broker's, spread over the sending, the broker's in the middle. Pods have
    a moment to end what they have in hand: if all of them could, one more is deleted, and so on."""
    half = len(steps) // 2
    victims: list[str | None] = [*steps[:half], None, *steps[half:]]
    done: list[Interruption] = []
    for number, step in enumerate(victims):
        await driver.progress.reached(FIRST_STRIKE + (LAST_STRIKE - FIRST_STRIKE) * number / (len(victims) - 1))
        done.append(await _delete(app, step, broker, driver))
        stages.say(done[-1].text)
    for part in MORE_STRIKES:
        await driver.progress.reached(part)
        if driver.progress.unanswered or await broker.repeated_deliveries():
            break
        done.append(await _delete(app, API_STEP, broker, driver))
        stages.say(done[-1].text)
    return done


async def _delete(app: KubeApp, step: str | None, broker: Broker, driver: Driver) -> Interruption:
    async def hit() -> None:
        await asyncio.to_thread(app.delete_nats if step is None else lambda: app.delete_pods_of(step))

    what = "deleted the NATS pod by force" if step is None else f"deleted the pod of {step} by force"
    requests = len(driver.open_requests()) if step in (None, API_STEP) else 0
    return await interruptions.delete(what, hit, broker=broker, step=step, requests=requests)


def report_problems(entries: Sequence[Entry], verdict: audits.Verdict) -> list[str]:
    """What is wrong with the report that was made last: it has to say what the broker holds."""
    reports = [json.loads(entry.data) for entry in entries if entry.words[:2] == ("state", "reports")]
    if not reports:
        return ["expected an entry in the state group reports, found none"]
    orders = [json.loads(entry.data) for entry in entries if entry.words[:2] == ("state", "orders")]
    expected: dict[str, Any] = {
        "orders": verdict.accepted,
        "by_status": dict(Counter(order["status"] for order in orders)),
        "revenue_cents": sum(order["total_cents"] for order in orders if order["status"] == "paid"),
    }
    found = {name: reports[-1].get(name) for name in expected}
    return [] if found == expected else [f"expected {expected}, found {found}"]
