"""The command line against a real cluster: `bema` as a process, with a kubeconfig of its own and its user's rights."""

from __future__ import annotations

import asyncio
import copy
import datetime
import itertools
import json
import time
import urllib.parse
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from bema.contract import names
from tests.support import waits
from tests.support.proxies import Proxy
from tests.support.terminals import Terminal
from tools import installs
from tools.cluster import paths
from tools.cluster.clusters import Cluster

pytestmark = pytest.mark.e2e

NUMBERS = itertools.count(1)
RUN = format(int(time.time()) % 36**4, "x")
API = {"api": {"method": "GET", "path": "/say"}}
EVENT = {"event": {"topics": ["order.created"]}}
CRON = {"cron": {"schedule": "0 2 * * *"}}
CHATTY = """
print("plain words at import")

async def handler(input, ctx):
    ctx.logger.info("said", extra={"what": "hello"})
    ctx.logger.warning("careful")
    return {"trace": ctx.trace_id}
"""
SYSTEM = ("-n", installs.SYSTEM)


def step(name: str, *triggers: dict[str, Any], text: str = CHATTY, **spec: Any) -> dict[str, Any]:
    code = {"language": "python", "entrypoint": "a_step.py", "inline": {"a_step.py": text}}
    body = {"triggers": list(triggers), "code": code} if triggers else {}
    return {"apiVersion": "bema.dev/v1alpha1", "kind": "Step", "metadata": {"name": name}, "spec": {**body, **spec}}


STEPS_ONLY = {"apiGroups": ["bema.dev"], "resources": ["steps"], "verbs": ["get", "list", "watch"]}


def few(*rules: dict[str, Any]) -> dict[str, Any]:
    """A Role of few rights."""
    kind = {"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "Role"}
    return {**kind, "metadata": {"name": "few"}, "rules": list(rules)}


class Space:
    """A namespace, and somebody at a terminal who may do everything in the cluster."""

    def __init__(self, cluster: Cluster, name: str, home: Path) -> None:
        self.cluster = cluster
        self.name = name
        self.home = home
        self.terminal = Terminal(home, cluster.kubeconfig)

    def kubectl(self, *arguments: str, input: str | None = None) -> str:
        return self.cluster.kubectl("--namespace", self.name, *arguments, input=input)

    def apply(self, *manifests: dict[str, Any]) -> None:
        self.kubectl("apply", "-f", "-", input=yaml.safe_dump_all(manifests))

    def ready(self, *manifests: dict[str, Any]) -> None:
        """Apply Steps, and wait until all are ready."""
        self.apply(*manifests)
        for manifest in manifests:
            self.kubectl("wait", "--for=condition=Ready", f"step/{manifest['metadata']['name']}", "--timeout=55s")

    def pods(self, name: str) -> list[str]:
        found = json.loads(self.kubectl("get", "pods", "-l", f"{names.LABEL_STEP}={name}", "-o", "json"))["items"]
        return sorted(pod["metadata"]["name"] for pod in found if not pod["metadata"].get("deletionTimestamp"))

    def say(self, name: str) -> str:
        """Ask an api Step; the trace of its run."""
        address = self.kubectl("get", "service", name, "-o", "jsonpath={.spec.clusterIP}")
        with urllib.request.urlopen(f"http://{address}/say", timeout=10) as answer:
            return str(json.load(answer)["trace"])

    def records(self, *arguments: str) -> list[dict[str, Any]]:
        """What `bema logs --json` prints."""
        done = self.terminal.run("logs", *arguments, "-n", self.name, "--json")
        assert done.code == 0, done.err
        return [json.loads(line) for line in done.out.splitlines()]

    def user(self, *rules: dict[str, Any]) -> Terminal:
        """Somebody with these rights in this namespace and no others."""
        self.kubectl("create", "serviceaccount", "somebody")
        self.apply(few(*rules))
        self.kubectl("create", "rolebinding", "few", "--role=few", f"--serviceaccount={self.name}:somebody")
        token = self.kubectl("create", "token", "somebody", "--duration=1h").strip()
        config = yaml.safe_load(self.cluster.kubeconfig.read_text())
        config["users"][0]["user"] = {"token": token}
        path = self.home / "somebody.kubeconfig"
        path.write_text(yaml.safe_dump(config))
        return Terminal(self.home, path)


@pytest.fixture
def space(installed: Cluster, tmp_path: Path) -> Iterator[Space]:
    name = f"cli-{RUN}-{next(NUMBERS)}"
    installed.kubectl("create", "namespace", name)
    installs.let_in(installed, name)
    yield Space(installed, name, tmp_path)
    installed.kubectl("delete", "namespace", name, "--wait=false")


def checks(terminal: Terminal, *arguments: str) -> tuple[int, dict[str, dict[str, str]]]:
    """Exit code and rows of `bema doctor`."""
    done = terminal.run("doctor", "--json", *arguments)
    return done.code, {check["name"]: check for check in done.json()["checks"]}


def test_the_steps_of_a_namespace_and_what_keeps_them(space: Space) -> None:
    space.ready(step("good", API, replicas=2), step("outside"), step("nightly", CRON))
    space.apply(step("new", {"stream": {"stream": "orders"}}))
    space.kubectl("wait", "--for=jsonpath={.status.conditions[0].reason}=NotSupported", "step/new", "--timeout=30s")
    done = space.terminal.run("steps", "-n", space.name)
    assert done.code == 0
    rows = [line.split() for line in done.out.splitlines()]
    assert rows[0] == ["NAME", "TYPE", "TRIGGER", "READY", "REPLICAS", "BACKLOG", "AGE"]
    assert [row[0] for row in rows[1:]] == ["good", "new", "nightly", "outside"]
    assert rows[1][1:8] == ["api", "GET", "/say", "✓", "Available", "2/2", "-"]
    assert "✗ NotSupported" in done.out
    assert done.err.startswith("✗ new: NotSupported: ")
    assert "triggers[0].stream" in done.err
    found = {item["name"]: item for item in space.terminal.run("steps", "-n", space.name, "--json").json()}
    assert found["good"]["replicas"] == {"ready": 2, "wanted": 2}
    assert (found["good"]["ready"], found["new"]["ready"], found["new"]["mark"]) == (True, False, "unready")
    everywhere = space.terminal.run("steps", "-A")
    assert everywhere.out.split()[0] == "NAMESPACE"
    assert f"{space.name}  good" in everywhere.out


def test_a_namespace_without_steps_says_so(space: Space) -> None:
    done = space.terminal.run("steps", "-n", space.name)
    assert (done.code, done.out) == (0, "")
    assert f"no Steps in namespace {space.name} of {space.cluster.api_url}" in done.err


def test_a_watch_tells_each_change_and_ends_with_ctrl_c(space: Space) -> None:
    space.ready(step("first"))
    with space.terminal.started("steps", "-n", space.name, "--watch", "--json") as session:

        def told(change: str, name: str, **fields: Any) -> bool:
            return any(
                item["change"] == change and item["step"]["name"] == name and fields.items() <= item["step"].items()
                for item in session.json()
            )

        session.wait(lambda: told("added", "first", ready=True), "the Step that was there")
        space.apply(step("second", EVENT))
        session.wait(lambda: told("added", "second"), "a Step that came")
        session.wait(lambda: told("changed", "second", ready=True), "it to be ready")
        space.kubectl("delete", "step", "second")
        session.wait(lambda: told("removed", "second"), "it to be gone")
        done = session.interrupt()
    assert (done.code, done.err) == (0, "")


def test_a_live_table_is_drawn_again_and_ends_with_ctrl_c(space: Space) -> None:
    space.ready(step("first"))
    with space.terminal.on_screen("steps", "-n", space.name, "--watch") as (session, screen):
        session.wait(lambda: "✓ NoWorkload" in screen(), "the table")
        drawn = screen().count("first")
        session.wait(lambda: screen().count("first") > drawn, "the table to be drawn again, as its ages grow")
        assert "second" not in screen()
        space.apply(step("second"))
        session.wait(lambda: "second" in screen(), "the Step that came")
        done = session.interrupt()
        assert done.code == 0, screen()
    assert "Traceback" not in screen()


async def test_a_watch_whose_connection_is_cut_goes_on_and_misses_nothing(space: Space) -> None:
    url = urllib.parse.urlsplit(space.cluster.api_url)
    proxy = Proxy(url.port or 443, str(url.hostname))
    await proxy.start()
    config = yaml.safe_load(space.cluster.kubeconfig.read_text())
    config["clusters"][0]["cluster"] |= {
        "server": f"https://127.0.0.1:{proxy.port}",
        "tls-server-name": "kubernetes.default.svc",
    }
    path = space.home / "proxied.kubeconfig"
    path.write_text(yaml.safe_dump(config))
    space.ready(step("first"), step("leaves"))
    try:
        with Terminal(space.home, path).started("steps", "-n", space.name, "--watch", "--json") as session:

            def changes() -> list[tuple[str, str]]:
                return [(item["change"], item.get("step", {}).get("name", "")) for item in session.json()]

            await waits.until(lambda: ("added", "leaves") in changes(), "the Steps", explain=session.told)
            proxy.cut()
            await waits.until(lambda: ("none", "") in changes(), "the loss to be told", explain=session.told)
            await asyncio.to_thread(space.apply, step("second"))
            await asyncio.to_thread(space.kubectl, "delete", "step", "leaves")
            proxy.mend()
            await waits.until(lambda: ("added", "second") in changes(), "a Step that came", explain=session.told)
            await waits.until(lambda: ("removed", "leaves") in changes(), "a Step that went", explain=session.told)
            assert changes().count(("added", "first")) == 1
            done = await asyncio.to_thread(session.interrupt)
        assert (done.code, done.err) == (0, "")
    finally:
        await proxy.close()


def test_logs_of_all_pods_in_order_and_by_trace(space: Space) -> None:
    space.ready(step("chatty", API, replicas=2))
    traces: list[str] = []

    def both_have_answered_in_turns() -> bool:
        traces.append(space.say("chatty"))
        said = [record for record in space.records("chatty") if record.get("message") == "said"]
        pods = [record["pod"] for record in sorted(said, key=lambda record: str(record["time"]))]
        return sum(one != other for one, other in itertools.pairwise(pods)) > 1

    waits.until_sync(both_have_answered_in_turns, "both pods to be asked in turns", timeout=60)
    records = space.records("chatty")
    assert {record["pod"] for record in records} == set(space.pods("chatty"))
    times = [record["time"] for record in records if record.get("message") == "said"]
    assert len(times) == len(traces)
    assert times == sorted(times)
    assert [record["what"] for record in records if record.get("message") == "said"] == ["hello"] * len(traces)
    assert sum(record.get("text") == "plain words at import" for record in records) == 2

    of_trace = space.records("chatty", "--trace", traces[0][-8:])
    assert [(record["message"], record["trace"]) for record in of_trace][:2] == [
        ("said", traces[0]),
        ("careful", traces[0]),
    ]
    assert {record["trace"] for record in of_trace} == {traces[0]}
    assert {record["message"] for record in space.records("chatty", "--level", "warning")} == {"careful"}
    assert [record["time"] for record in space.records("chatty", "--tail", "3")] == [
        record["time"] for record in records[-3:]
    ]
    assert [record["message"] for record in space.records("chatty", "--level", "WARNING", "--tail", "1")] == ["careful"]
    later = (datetime.datetime.now(datetime.UTC) + datetime.timedelta(hours=1)).isoformat()
    assert space.records("chatty", "--since", later) == []
    assert len(space.records("chatty", "--since", "1h")) == len(records)


def test_logs_for_people(space: Space) -> None:
    space.ready(step("chatty", API))
    trace = space.say("chatty")
    [pod] = space.pods("chatty")
    done = space.terminal.run("logs", "chatty", "-n", space.name)
    assert done.code == 0
    [said] = [line for line in done.out.splitlines() if " said " in line]
    assert f" INFO    {pod} said " in said
    assert f"trace={trace[-8:]} what=hello" in said
    assert trace not in said
    assert any(line.endswith(f"{pod} plain words at import") for line in done.out.splitlines())


def test_logs_of_a_schedules_jobs_and_of_a_step_without_pods(space: Space) -> None:
    space.ready(step("nightly", CRON))
    done = space.terminal.run("logs", "nightly", "-n", space.name)
    assert (done.code, done.out) == (0, "")
    assert "Step nightly has no pod now" in done.err
    space.kubectl("create", "job", "--from=cronjob/nightly", "by-hand")
    space.kubectl("wait", "--for=condition=Complete", "job/by-hand", "--timeout=50s")
    assert "said" in {record.get("message") for record in space.records("nightly")}


ONCE_UNLUCKY = """
import pathlib

if not pathlib.Path("/tmp/seen").exists():
    pathlib.Path("/tmp/seen").touch()
    raise ValueError("no such luck")

async def handler(input, ctx):
    pass
"""


def test_logs_before_the_last_restart(space: Space) -> None:
    space.ready(step("lucky", EVENT, text=ONCE_UNLUCKY))
    now, before = str(space.records("lucky")), str(space.records("lucky", "--previous"))
    assert ("no such luck" in now, "Ready: lucky" in now) == (False, True)
    assert ("no such luck" in before, "Ready: lucky" in before) == (True, False)


def test_logs_of_a_container_that_waits_to_be_started_again(space: Space) -> None:
    space.apply(step("broken", EVENT, text="raise ValueError('no such luck')"))

    def waits_long() -> bool:
        """Twenty seconds and more, from the second restart on."""
        found = json.loads(space.kubectl("get", "pods", "-o", "json"))["items"]
        statuses = [item for pod in found for item in pod["status"].get("containerStatuses", ())]
        return any(item["restartCount"] > 1 and "waiting" in item["state"] for item in statuses)

    waits.until_sync(waits_long, "the container to wait", timeout=90)
    # The kubelet may just have removed the log before, and not yet tell the last.
    waits.until_sync(lambda: "no such luck" in str(space.records("broken")), "its last words", timeout=10)


def test_following_picks_up_new_pods_and_lets_go_of_old_ones(space: Space) -> None:
    space.ready(step("chatty", API))
    [first] = space.pods("chatty")
    before = space.say("chatty")
    with space.terminal.started("logs", "chatty", "-n", space.name, "--follow", "--json") as session:

        def said(**fields: str) -> bool:
            return any(fields.items() <= item.items() for item in session.json())

        session.wait(lambda: said(message="said", trace=before), "what was there")
        after = space.say("chatty")
        session.wait(lambda: said(message="said", trace=after), "what was added")
        space.ready(step("chatty", API, replicas=2))
        [second] = set(space.pods("chatty")) - {first}
        session.wait(lambda: said(pod=second, message="Ready: chatty"), "the log of a pod that came")
        space.kubectl("delete", "pod", first)
        session.wait(lambda: f"· pod {first} went" in session.err, "the pod to be let go")
        [third] = set(space.pods("chatty")) - {first, second}
        session.wait(lambda: said(pod=third, message="Ready: chatty"), "the log of its successor")
        records = [item for item in session.json() if item.get("message") == "said"]
        assert [item["trace"] for item in records] == [before, after]
        done = session.interrupt()
    assert done.code == 0
    assert "Traceback" not in done.err


def test_an_unknown_step_is_named_with_its_nearest(space: Space) -> None:
    space.ready(step("orders"))
    done = space.terminal.run("logs", "ordres", "-n", space.name)
    expected = f"✗ expected a Step named 'ordres' in namespace '{space.name}', found none; did you mean 'orders'?\n"
    assert (done.code, done.err) == (1, expected)


def test_no_cluster_is_said_in_many_ways(space: Space) -> None:
    alone = Terminal(space.home, None).run("steps")
    assert alone.code == 1
    assert f"expected a kubeconfig, found none: no --kubeconfig, and no file at {space.home}/.kube/config" in alone.err
    unknown = space.terminal.run("steps", "--context", "nowhere")
    assert unknown.code == 1
    assert "expected a context named 'nowhere'" in unknown.err
    config = yaml.safe_load(space.cluster.kubeconfig.read_text())
    away = copy.deepcopy(config)
    away["clusters"][0]["cluster"]["server"] = "https://127.0.0.1:1"
    path = space.home / "away.kubeconfig"
    path.write_text(yaml.safe_dump(away))
    done = Terminal(space.home, path).run("steps")
    assert done.code == 1
    assert "expected an API server at https://127.0.0.1:1" in done.err
    code, rows = checks(Terminal(space.home, path))
    assert (code, rows["cluster"]["verdict"], rows["NATS"]["verdict"]) == (1, "problem", "unknown")
    stranger = copy.deepcopy(config)
    stranger["users"][0]["user"] = {"token": "nobody"}
    path.write_text(yaml.safe_dump(stranger))
    done = Terminal(space.home, path).run("steps")
    assert done.code == 1
    assert f"expected credentials that {space.cluster.api_url}" in done.err


def test_somebody_with_fewer_rights_hears_which_are_missing(space: Space) -> None:
    space.ready(step("orders", API))
    user = space.user(STEPS_ONLY)
    assert "✓ Available" in user.run("steps", "-n", space.name).out
    refused = {
        ("steps", "-A"): "expected the right to list steps.bema.dev in the whole cluster",
        ("steps", "-n", "default"): "expected the right to list steps.bema.dev in namespace default",
        ("steps", "-n", "default", "--watch"): "expected the right to list steps.bema.dev in namespace default",
        ("logs", "orders", "-n", space.name): f"expected the right to list pods in namespace {space.name}",
        ("logs", "orders", "-n", space.name, "-f"): f"expected the right to list pods in namespace {space.name}",
    }
    for arguments, expected in refused.items():
        done = user.run(*arguments)
        assert (done.code, done.out) == (1, "")
        assert done.err.startswith(f"✗ {expected}, found that {space.cluster.api_url}"), done.err

    space.apply(few(STEPS_ONLY, {"apiGroups": [""], "resources": ["pods"], "verbs": ["list", "watch"]}))
    for more in ((), ("-f",)):
        done = user.run("logs", "orders", "-n", space.name, *more)
        assert (done.code, done.out) == (1, "")
        assert done.err.startswith(f"✗ expected the right to get pods/log in namespace {space.name}"), done.err

    code, rows = checks(user, "-n", space.name)
    verdicts = {name: row["verdict"] for name, row in rows.items()}
    assert code == 0
    assert verdicts.pop("your rights") == "warning"
    assert "missing" in rows["your rights"]["found"]
    assert {name for name, verdict in verdicts.items() if verdict == "ok"} == {"cluster", "clock here", "Steps"}
    assert set(verdicts.values()) == {"ok", "unknown"}
    system = f"in namespace {installs.SYSTEM}, found none"
    assert rows["operator"]["found"] == f"not known: expected the right to list deployments.apps {system}"
    assert rows["NATS"]["found"] == f"not known: expected the right to list pods {system}"
    assert "get customresourcedefinitions.apiextensions.k8s.io in the whole cluster" in rows["CRD"]["found"]


def test_the_proxy_of_pods_is_a_right_of_its_own(space: Space) -> None:
    user = space.user(STEPS_ONLY)
    account = f"{space.name}:somebody"
    space.cluster.kubectl(
        *SYSTEM, "create", "rolebinding", space.name, "--clusterrole=view", f"--serviceaccount={account}"
    )
    try:
        _, rows = checks(user, "-n", space.name)
    finally:
        space.cluster.kubectl(*SYSTEM, "delete", "rolebinding", space.name)
    assert rows["operator"]["verdict"] == "ok"
    missing = f"not known: expected the right to get pods/proxy in namespace {installs.SYSTEM}, found none"
    assert {rows[name]["found"] for name in ("NATS", "NATS' health", "NATS' storage", "orphans")} == {missing}
    assert "create subjectaccessreviews.authorization.k8s.io" in rows["operator's rights"]["found"]


def test_all_is_well(space: Space) -> None:
    space.ready(step("orders", EVENT, replicas=0))

    def clocks_are_compared() -> bool:
        return checks(space.terminal, "-n", space.name)[1]["operator's clock"]["verdict"] == "ok"

    waits.until_sync(clocks_are_compared, "the operator to have compared its clock", timeout=40)
    code, rows = checks(space.terminal, "-n", space.name)
    bad = {name: row for name, row in rows.items() if row["verdict"] != "ok" and name != "orphans"}
    assert (code, bad) == (0, {})
    assert "nats-server 2." in rows["NATS"]["found"]
    assert "pod nats-0 uses" in rows["NATS' storage"]["found"]
    done = space.terminal.run("doctor", "-n", space.name)
    assert done.code == 0
    assert done.out.startswith("✓ cluster ")


def test_a_step_that_is_not_ready_and_a_crd_of_another_version(space: Space) -> None:
    space.apply(step("new", {"stream": {"stream": "orders"}}))
    space.kubectl("wait", "--for=jsonpath={.status.conditions[0].reason}=NotSupported", "step/new", "--timeout=30s")
    space.kubectl("annotate", "--overwrite", "crd/steps.bema.dev", "bema.dev/version=0.0.9", "bema.dev/schema=other")
    try:
        code, rows = checks(space.terminal, "-n", space.name)
    finally:
        crds = str(paths.REPOSITORY / "crds")
        space.kubectl("apply", "--server-side", "--force-conflicts", "-f", crds)
    assert code == 1
    assert rows["Steps"]["verdict"] == "problem"
    assert "1 of 1 not ready" in rows["Steps"]["found"]
    assert "new (NotSupported): " in rows["Steps"]["found"]
    assert rows["CRD"]["verdict"] == "warning"
    assert "found that of Bema 0.0.9" in rows["CRD"]["found"]
    assert checks(space.terminal, "-n", space.name)[1]["CRD"]["verdict"] == "ok"


def test_what_waits_for_its_removal(space: Space) -> None:
    change = (*SYSTEM, "set", "env", "deployment/bema-operator")
    space.cluster.kubectl(*change, "BEMA_ORPHAN_GRACE_SECONDS=60")
    try:
        rollout = ("rollout", "status", "deployment/bema-operator", "--timeout=60s")
        space.cluster.kubectl(*SYSTEM, *rollout, seconds=70)
        space.ready(step("gone", EVENT, replicas=0))
        space.kubectl("delete", "step", "gone")

        def row() -> dict[str, str]:
            return checks(space.terminal, "-n", space.name)[1]["orphans"]

        waits.until_sync(lambda: "consumer" in row()["found"], "the consumer to be counted", timeout=40)
        assert row()["verdict"] == "warning"
    finally:
        space.cluster.kubectl(*change, "BEMA_ORPHAN_GRACE_SECONDS-")
        space.cluster.kubectl(*SYSTEM, *rollout, seconds=70)


def test_with_nats_away_the_doctor_says_so_and_goes_on(space: Space) -> None:
    space.ready(step("orders", EVENT, replicas=0))
    space.cluster.kubectl(*SYSTEM, "scale", "statefulset/nats", "--replicas=0")
    try:
        space.cluster.kubectl(*SYSTEM, "wait", "--for=delete", "pod/nats-0", "--timeout=60s", seconds=70)

        def rows() -> dict[str, dict[str, str]]:
            return checks(space.terminal, "-n", space.name)[1]

        waits.until_sync(lambda: rows()["NATS"]["verdict"] == "problem", "the doctor to say so", timeout=40)
        waits.until_sync(lambda: "BrokerUnavailable" in rows()["Steps"]["found"], "the Step to say so", timeout=40)
        code, found = checks(space.terminal, "-n", space.name)
        assert code == 1
        assert "the operator has no connection to NATS; it was nats-server 2." in found["NATS"]["found"]
        assert "expected a pod of NATS" in found["NATS' health"]["found"]
        assert [found[name]["verdict"] for name in ("cluster", "CRD", "operator", "operator's rights")] == ["ok"] * 4
        assert found["Steps"]["verdict"] == "problem"
        assert found["Steps"]["advice"] == "see NATS above, and the operator's BEMA_NATS_URL"
    finally:
        space.cluster.kubectl(*SYSTEM, "scale", "statefulset/nats", "--replicas=1")
        space.cluster.kubectl(*SYSTEM, "rollout", "status", "statefulset/nats", "--timeout=60s", seconds=70)


def test_without_an_operator_the_doctor_says_so(space: Space) -> None:
    code, rows = checks(space.terminal, "-n", space.name, "--system", "default")
    assert code == 1
    assert rows["operator"]["found"] == "expected Deployment bema-operator in namespace default, found none"
    assert "expected a running pod of the operator in namespace default" in rows["NATS"]["found"]


def test_without_the_crd_it_is_said_how_to_install_it(space: Space) -> None:
    crds = str(paths.REPOSITORY / "crds")
    space.kubectl("delete", "-f", crds, "--wait=true")
    try:
        for arguments in (("steps",), ("steps", "--watch"), ("logs", "orders")):
            done = space.terminal.run(*arguments, "-n", space.name)
            assert done.code == 1
            assert done.err.startswith("✗ expected the CRD steps.bema.dev (v1alpha1) on "), done.err
            assert done.err.endswith("install Bema: kubectl apply --server-side -f crds/\n")
        code, rows = checks(space.terminal, "-n", space.name)
        assert (code, rows["CRD"]["verdict"]) == (1, "problem")
        assert "kubectl apply --server-side -f crds/" in rows["CRD"]["advice"]
        assert rows["Steps"]["found"] == "not known: no CRD"
    finally:
        space.kubectl("apply", "--server-side", "-f", crds)
        space.kubectl("wait", "--for=condition=Established", "crd/steps.bema.dev", "--timeout=30s")
        space.cluster.kubectl(*SYSTEM, "rollout", "restart", "deployment/bema-operator")
        space.cluster.kubectl(*SYSTEM, "rollout", "status", "deployment/bema-operator", "--timeout=60s", seconds=70)
