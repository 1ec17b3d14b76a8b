"""The App on a real cluster: what the API server refuses, and what the operator makes of what it takes."""

from __future__ import annotations

import asyncio
import itertools
import json
import time
from collections.abc import Iterator
from typing import Any

import pytest
import yaml

from bema.contract import names, retentions
from bema.contract.retentions import Quota
from bema.ports import connections
from bema.ports.jetstream import JetStream
from tests.support import diffs, kstatuses, operators, spaces, waits
from tests.support.kstatuses import Result
from tools import installs
from tools.cluster import errors, paths
from tools.kubernetes import Kubernetes

pytestmark = pytest.mark.e2e

NUMBERS = itertools.count(1)
RUN = format(int(time.time()) % 36**4, "x")
SOURCE = "async def handler(input, ctx):\n    return None\n"
CODE = {"entrypoint": "a_step.py", "inline": {"a_step.py": SOURCE}}
EVENT = {"event": {"topics": ["order.created"]}}
SWEEP_SECONDS = 90
"""Two sweeps of the janitor, and some."""


def app(name: str = "app", **spec: Any) -> dict[str, Any]:
    return {"apiVersion": "bema.dev/v1alpha1", "kind": "App", "metadata": {"name": name}, "spec": spec}


def step(name: str, **spec: Any) -> dict[str, Any]:
    body = {"triggers": [EVENT], "code": CODE, "emits": [{"topic": "nobody.hears"}], **spec}
    return {"apiVersion": "bema.dev/v1alpha1", "kind": "Step", "metadata": {"name": name}, "spec": body}


class Space(spaces.Space):
    """One namespace with Bema."""

    def pods(self, name: str) -> set[str]:
        found = json.loads(self.kubectl("get", "pods", "-l", f"{names.LABEL_STEP}={name}", "-o", "json"))["items"]
        return {pod["metadata"]["name"] for pod in found if "deletionTimestamp" not in pod["metadata"]}

    def wait_replaced(self, name: str, before: set[str]) -> None:
        waits.until_sync(
            lambda: bool(pods := self.pods(name)) and not pods & before, f"other pods of {name}", timeout=60
        )

    def binding(self, name: str) -> dict[str, Any]:
        """What the pods of a Step read."""
        volumes = self.get("deployment", name)["spec"]["template"]["spec"]["volumes"]
        [source] = [item["configMap"]["name"] for item in volumes if item["name"] == "bema-binding"]
        found: dict[str, Any] = json.loads(self.get("configmap", source)["data"]["_binding.json"])
        return found

    def ask(self, what: Any) -> Any:
        async def answer() -> Any:
            connection = await connections.connect([installs.nats_url(self.cluster)], name="test", wait=10)
            try:
                return await what(JetStream(connection))
            finally:
                await connection.close()

        return asyncio.run(answer())

    def events(self) -> list[str]:
        async def subjects(js: JetStream) -> list[str]:
            return await js.subjects(names.stream(self.name), names.events(names.root(self.name)))

        found: list[str] = self.ask(subjects)
        return found

    def quota(self) -> Quota | None:
        async def told(js: JetStream) -> Quota | None:
            stored = await js.get_last(names.stream(self.name), names.quota(names.root(self.name)))
            return retentions.read_quota(stored.data) if stored else None

        found: Quota | None = self.ask(told)
        return found

    def wait_storage(self, size: int) -> None:
        """Until the janitor tells everybody that there are so many bytes."""
        waits.until_sync(
            lambda: (quota := self.quota()) is not None and quota.storage == size,
            f"a storage of {size} bytes",
            timeout=SWEEP_SECONDS,
            explain=lambda: str(self.quota()),
        )

    def publish(self, topic: str) -> None:
        async def send(js: JetStream) -> None:
            await js.connection.request(names.event(names.root(self.name), topic), b"{}")

        self.ask(send)


@pytest.fixture
def space(installed: Kubernetes) -> Iterator[Space]:
    name = f"app-{RUN}-{next(NUMBERS)}"
    installed.kubectl("create", "namespace", name)
    installs.let_in(installed, name)
    yield Space(installed, name)
    installed.kubectl("delete", "namespace", name, "--wait=false")


# What the API server refuses


NO_TIME = "Invalid value: expected a time of at most 3650d such as 90s, 15m, 24h, 30d or 4w, found"
UNCHECKED = (
    "<nil>: Invalid value: null: some validation rules were not checked because the object was invalid; "
    "correct the existing errors to complete validation"
)
REFUSED = [
    pytest.param(
        app("shop"),
        ["metadata.name: Invalid value: expected the name app, because a namespace has one App"],
        id="another name",
    ),
    *(
        pytest.param(app(eventRetention=text), [f"spec.eventRetention: {NO_TIME} '{text}'"], id=f"events for {text}")
        for text in ("1y", "0s", "24", "3651d", "1h30m")
    ),
    pytest.param(
        app(deadLetterRetention="ever"),
        [f"spec.deadLetterRetention: {NO_TIME} 'ever'"],
        id="dead letters for ever",
    ),
    pytest.param(
        app(storage="5MB"),
        ["spec.storage: Invalid value: expected a number of bytes such as 65536, 512Ki or 1Mi"],
        id="an unknown unit",
    ),
    *(
        pytest.param(
            app(storage=size),
            [
                "spec.storage: Invalid value: expected at least 1Mi, such as 512Mi or 10Gi, found less: "
                "is its unit missing?"
            ],
            id=f"a storage of {size!r}",
        )
        for size in (1, "10", "1M", "1023Ki")
    ),
    pytest.param(
        app(replicas=2),
        ['spec.replicas: Unsupported value: 2: supported values: "1", "3", "5"', UNCHECKED],
        id="two copies",
    ),
    pytest.param(
        app(defaults={"retry": {"initialSeconds": 2.5, "maxSeconds": 2}}),
        ["spec.defaults.retry.initialSeconds: Invalid value: expected initialSeconds ≤ maxSeconds"],
        id="a first delay above the longest",
    ),
    pytest.param(
        app(defaults={"pod": {"env": [{"name": "BEMA_X"}]}}),
        ["spec.defaults.pod.env[0].name: Forbidden: names that begin with BEMA_ belong to Bema"],
        id="a variable of ours",
    ),
    pytest.param(
        app(defaults={"pod": {"sidecars": [{"name": "step", "image": "a"}]}}),
        ["spec.defaults.pod.sidecars[0].name: Forbidden: the name step belongs to the container that runs the handler"],
        id="the name of the handler's container",
    ),
]


@pytest.mark.parametrize(("manifest", "causes"), REFUSED)
def test_the_api_server_refuses_an_app_with_these_words(
    installed: Kubernetes, manifest: dict[str, Any], causes: list[str]
) -> None:
    with pytest.raises(errors.CommandFailed) as caught:
        installed.kubectl(
            "apply", "--dry-run=server", "--validate=strict", "-f", "-", "-n", "default", input=json.dumps(manifest)
        )
    head, _, text = str(caught.value).partition("ended with code 1: ")[2].partition(" is invalid: ")
    assert head == f'The App "{manifest["metadata"]["name"]}"'
    assert sorted(line.removeprefix("* ") for line in text.strip().splitlines()) == sorted(causes)


def test_what_an_app_cannot_say_yet_is_refused_by_name(installed: Kubernetes) -> None:
    with pytest.raises(errors.CommandFailed, match=r'strict decoding error: unknown field "spec\.hosts"'):
        installed.kubectl("apply", "-f", "-", "-n", "default", input=json.dumps(app(hosts=["shop.example"])))


def test_the_crd_of_apps_is_structural_and_an_app_comes_back_as_it_was_sent(installed: Kubernetes) -> None:
    found = json.loads(installed.kubectl("get", "crd", "apps.bema.dev", "-o", "json"))["status"]["conditions"]
    assert {item["type"]: item["status"] for item in found} == {"NamesAccepted": "True", "Established": "True"}
    spec = {
        "eventRetention": "7d",
        "deadLetterRetention": "4w",
        "storage": 5_000_000,
        "replicas": 3,
        "defaults": {"retry": {"maxAttempts": 5}, "timeoutSeconds": 1.5, "concurrency": 3, "pod": {"resources": {}}},
    }
    arguments = ("create", "--dry-run=server", "-o", "json", "-n", "default", "-f", "-")
    made = json.loads(installed.kubectl(*arguments, input=json.dumps(app(**spec))))
    assert made["spec"] == spec
    assert made["status"] == {"observedGeneration": -1}
    assert kstatuses.compute(made) is Result.IN_PROGRESS


# What the operator makes of it


def test_an_app_changes_what_the_janitor_and_the_pods_do(space: Space) -> None:
    space.apply(step("silent"), step("said", concurrency=8))
    for name in ("silent", "said"):
        space.wait_reason(name, "Available")
    silent, said = space.pods("silent"), space.pods("said")
    assert "concurrency" not in space.get("step", "silent")["spec"], "what nobody says is not in the Step"
    space.publish("nobody.hears")

    # How long, and how much: of no concern to pods.
    manifest = app(eventRetention="1s", storage="10Mi")
    space.apply(manifest)
    assert space.wait_reason("app", "Reconciled", kind="app") == "What it says counts for all Steps of the namespace."
    space.wait_storage(10 * 2**20)
    waits.until_sync(lambda: not space.events(), "the event to be removed", timeout=SWEEP_SECONDS)
    assert (space.pods("silent"), space.pods("said")) == (silent, said)
    diffs.until_nothing_differs(space.kubectl, "-f", "-", input=yaml.safe_dump(manifest))

    def storage() -> str:
        return str((space.get("app", "app") or {}).get("status", {}).get("storage", ""))

    waits.until_sync(lambda: storage().endswith("of 10Mi (0%)"), "the storage", timeout=SWEEP_SECONDS, explain=storage)
    head, row = space.kubectl("get", "apps.bema.dev").splitlines()
    assert head.split() == ["NAME", "READY", "STORAGE", "STEPS", "AGE"]
    assert row.split()[:2] == ["app", "True"]
    assert row.split()[-2] == "2"

    # Defaults: the Step that leaves something to them follows.
    space.apply(app(storage="10Mi", defaults={"concurrency": 3, "retry": {"maxAttempts": 7}}))
    space.wait_replaced("silent", silent)
    space.wait_reason("silent", "Available")
    found = space.binding("silent")
    assert (found["concurrency"], found["retry"]["maxAttempts"]) == (3, 7)
    assert space.binding("said")["concurrency"] == 8
    assert "retry" not in space.get("step", "silent")["spec"]

    # Gone: as if it had never been.
    silent = space.pods("silent")
    space.kubectl("delete", "apps.bema.dev", "app")
    space.wait_replaced("silent", silent)
    space.wait_reason("silent", "Available")
    assert (space.binding("silent")["concurrency"], space.binding("silent")["retry"]["maxAttempts"]) == (16, 3)
    space.wait_storage(2**30)


def test_a_pod_has_what_its_app_says(space: Space) -> None:
    pod = {"env": [{"name": "REGION", "value": "eu"}, {"name": "TIER", "value": "app"}], "labels": {"team": "shop"}}
    space.apply(app(defaults={"pod": pod}), step("orders", pod={"env": [{"name": "TIER", "value": "step"}]}))
    space.wait_reason("orders", "Available")
    template = space.get("deployment", "orders")["spec"]["template"]
    [container] = template["spec"]["containers"]
    values = {item["name"]: item["value"] for item in container["env"]}
    assert (values["REGION"], values["TIER"], template["metadata"]["labels"]["team"]) == ("eu", "step", "shop")


def test_an_app_that_is_not_acted_on_says_so_and_leaves_its_steps_as_they_are(space: Space) -> None:
    space.apply(step("old"))
    space.wait_reason("old", "Available")
    before = space.pods("old")
    space.apply(app(defaults={"concurrency": 3, "pod": {"serviceAccountName": "robot"}}), step("new"))
    named = "defaults.pod.serviceAccountName is not supported by this version"
    assert space.wait_reason("app", "NotSupported", kind="app").startswith(named)
    assert kstatuses.compute(space.get("app", "app")) is Result.FAILED
    for name in ("old", "new"):
        assert named in space.wait_reason(name, "AppNotReady")
    assert space.pods("old") == before
    assert space.get("deployment", "new") is None
    space.apply(app(defaults={"pod": {}}))
    for name in ("old", "new"):
        space.wait_reason(name, "Available")
    assert space.pods("old") == before
    events = json.loads(space.kubectl("get", "events", "-o", "json"))["items"]
    ours = {
        (event["involvedObject"]["kind"], event["reason"])
        for event in events
        if event["reportingComponent"] == "bema-operator"
    }
    assert ("App", "NotSupported") in ours
    assert ("Step", "AppNotReady") not in ours, "said once, and not by each Step"


def test_more_copies_than_there_are_servers_are_refused_by_the_app_and_its_steps_go_on(space: Space) -> None:
    space.apply(step("orders"))
    space.wait_reason("orders", "Available")
    before = space.pods("orders")
    space.apply(app(replicas=3))
    message = space.wait_reason("app", "TooFewServers", kind="app")
    assert message.startswith("expected 3 NATS servers that take a copy of the app each, found fewer: ")
    space.wait_reason("orders", "Available")
    assert space.pods("orders") == before
    space.apply(app(replicas=1))
    space.wait_reason("app", "Reconciled", kind="app")
    # Where there is nothing yet, nothing is made that is less than was asked for.
    space.apply(app(replicas=3), step("second"))
    space.wait_reason("second", "Available")


def test_an_operator_without_the_crd_of_apps_serves_steps(space: Space) -> None:
    file = str(paths.REPOSITORY / "crds/apps.yaml")

    def log() -> str:
        return operators.log(space.cluster)

    space.apply(app(defaults={"concurrency": 3}), step("orders"))
    space.wait_reason("orders", "Available")
    assert space.binding("orders")["concurrency"] == 3
    space.kubectl("delete", "-f", file, "--wait=true")
    try:
        said = "Apps are not served"
        waits.until_sync(lambda: said in log(), "the operator to say so", timeout=90, explain=log)
        space.apply(step("second"))
        space.wait_reason("second", "Available")
        assert space.binding("orders")["concurrency"] == 16
    finally:
        space.kubectl("apply", "--server-side", "-f", file)
        space.kubectl("wait", "--for=condition=Established", "crd/apps.bema.dev", "--timeout=30s")
    space.apply(app(defaults={"concurrency": 5}))
    space.wait_reason("app", "Reconciled", kind="app", seconds=90)
    waits.until_sync(lambda: space.binding("orders")["concurrency"] == 5, "the App to count", timeout=60)
