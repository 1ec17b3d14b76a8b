"""The test cluster itself: up in seconds, good for pods and claims, and gone without residue whatever happened."""

import asyncio
import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass, replace
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path

import nats
import nats.js
import pytest

from tools.cluster import boxes, clusters, components, errors, images, journals, names, paths, processes, waits

pytestmark = pytest.mark.e2e

UP_SECONDS = 20
"""Four times what it takes on two quiet cores; more is a defect, not a slow machine."""
NATS_IMAGE = "bema.local/nats-server:test"
NAMESPACE = "restricted"

SERVER = f"""
apiVersion: v1
kind: Pod
metadata: {{name: NAME, namespace: {NAMESPACE}, labels: {{app: NAME}}}}
spec:
  enableServiceLinks: false
  automountServiceAccountToken: false
  terminationGracePeriodSeconds: 2
  securityContext: {{runAsNonRoot: true, runAsUser: 10001, seccompProfile: {{type: RuntimeDefault}}}}
  containers:
  - name: server
    image: {NATS_IMAGE}
    args: [--jetstream, --store_dir=/data, --http_port=8222]
    readinessProbe: {{httpGet: {{path: /healthz, port: 8222}}, periodSeconds: 1}}
    securityContext: {{readOnlyRootFilesystem: true, allowPrivilegeEscalation: false, capabilities: {{drop: [ALL]}}}}
    volumeMounts: [{{name: data, mountPath: /data}}]
  volumes: [{{name: data, VOLUME}}]
"""
SERVICE = f"""
apiVersion: v1
kind: Service
metadata: {{name: web, namespace: {NAMESPACE}}}
spec: {{selector: {{app: web}}, ports: [{{port: 80, targetPort: 8222}}]}}
"""
CLAIM = f"""
apiVersion: v1
kind: PersistentVolumeClaim
metadata: {{name: data, namespace: {NAMESPACE}}}
spec: {{accessModes: [ReadWriteOnce], resources: {{requests: {{storage: 1Gi}}}}}}
"""


@dataclass(frozen=True)
class Started:
    cluster: clusters.Cluster
    seconds: float
    kernel_before: dict[str, str]
    """The machine's settings that a kubelet likes to change, as they were before this cluster."""


@pytest.fixture(scope="module")
def started(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Started]:
    """A cluster with a namespace where pods have to be restricted, and an image of one static server."""
    with cluster_or_skip("e2e-self") as up:
        program = shutil.which("nats-server", path=str(Path(sys.executable).parent)) or shutil.which("nats-server")
        assert program, "nats-server is missing: install requirements-dev.txt"
        archive = tmp_path_factory.mktemp("images") / "nats.tar"
        images.write_single(Path(program), NATS_IMAGE, archive)
        assert up.cluster.load(archive) == [NATS_IMAGE]
        up.cluster.kubectl("create", "namespace", NAMESPACE)
        up.cluster.kubectl("label", "namespace", NAMESPACE, "pod-security.kubernetes.io/enforce=restricted")
        yield up


@contextlib.contextmanager
def cluster_or_skip(name: str) -> Iterator[Started]:
    begin, kernel = time.monotonic(), kernel_settings()
    try:
        cluster = clusters.up(name)
    except errors.CannotRunHere as missing:
        pytest.skip(str(missing))
    try:
        yield Started(cluster, time.monotonic() - begin, kernel)
    finally:
        clusters.down(name)


def test_it_comes_up_in_seconds_and_every_part_of_it_is_well(started: Started) -> None:
    assert started.seconds < UP_SECONDS
    assert started.cluster.problems() == []
    node = json.loads(started.cluster.kubectl("get", "node", "n1", "--output=json"))
    assert {c["type"]: c["status"] for c in node["status"]["conditions"]}["Ready"] == "True"
    assert node["status"]["nodeInfo"]["kubeletVersion"].startswith("v1.35.")


def test_a_second_up_finds_the_first_one(started: Started) -> None:
    with clusters.running(started.cluster.name) as again:
        assert again.identity == started.cluster.identity
    assert started.cluster.problems() == []


def test_a_restricted_pod_runs_and_the_host_reaches_it_and_its_service(started: Started) -> None:
    cluster = started.cluster
    cluster.kubectl("apply", "--filename=-", input=SERVICE + "---" + server("web", "emptyDir: {}"))
    wait_ready(cluster, "web")
    pod = IPv4Address(jsonpath(cluster, "pod/web", "{.status.podIP}"))
    service = IPv4Address(jsonpath(cluster, "service/web", "{.spec.clusterIP}"))
    assert pod in IPv4Network(cluster.pod_cidr)
    assert service in IPv4Network(cluster.service_cidr)
    assert fetch(f"http://{pod}:8222/healthz") == {"status": "ok"}
    # The proxies learn of an endpoint a moment after the pod is ready.
    waits.until(lambda: answers(f"http://{service}/healthz"), what="the Service to answer", seconds=10)


def test_a_pod_that_wants_root_is_refused(started: Started) -> None:
    greedy = server("greedy", "emptyDir: {}").replace("runAsNonRoot: true, runAsUser: 10001", "runAsUser: 0")
    with pytest.raises(errors.CommandFailed) as refused:
        started.cluster.kubectl("apply", "--filename=-", input=greedy)
    assert 'pods "greedy" is forbidden: violates PodSecurity "restricted:latest": runAsNonRoot != true' in str(
        refused.value
    )


def test_what_a_pod_wrote_to_its_claim_outlives_the_pod_and_not_the_claim(started: Started) -> None:
    cluster, volume = started.cluster, "persistentVolumeClaim: {claimName: data}"
    cluster.kubectl("apply", "--filename=-", input=CLAIM + "---" + server("first", volume))
    wait_ready(cluster, "first")
    asyncio.run(publish(jsonpath(cluster, "pod/first", "{.status.podIP}"), b"kept"))
    cluster.kubectl("delete", "pod", "first", f"--namespace={NAMESPACE}")
    cluster.kubectl("apply", "--filename=-", input=server("second", volume))
    wait_ready(cluster, "second")
    assert asyncio.run(published(jsonpath(cluster, "pod/second", "{.status.podIP}"))) == b"kept"

    folder = cluster.record.layout.volumes(1) / jsonpath(cluster, "pvc/data", "{.spec.volumeName}")
    assert folder.is_dir()
    cluster.kubectl("delete", "pod/second", "pvc/data", f"--namespace={NAMESPACE}")
    cluster.kubectl("wait", "--for=delete", "pv", "--all", "--timeout=20s")
    assert not folder.exists()


def test_a_component_that_dies_is_started_again(started: Started) -> None:
    cluster = started.cluster
    pid = pid_of(cluster, "tools.cluster.provisioners")
    os.kill(pid, signal.SIGKILL)
    waits.until(lambda: starts(cluster, "provisioner") == 2, what="the provisioner to be started again", seconds=10)
    waits.until(lambda: cluster.problems() == [], what="the cluster to be well again", seconds=10)


DENY_ALL = f"""
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {{name: deny-all, namespace: {NAMESPACE}}}
spec: {{podSelector: {{}}, policyTypes: [Ingress]}}
"""


def test_a_network_policy_is_enforced_and_a_dead_agent_is_a_problem(started: Started) -> None:
    cluster = started.cluster
    cluster.kubectl("apply", "--filename=-", input=server("closed", "emptyDir: {}"))
    wait_ready(cluster, "closed")
    url = f"http://{jsonpath(cluster, 'pod/closed', '{.status.podIP}')}:8222/healthz"
    assert answers(url)
    cluster.kubectl("apply", "--filename=-", input=DENY_ALL)
    try:
        waits.until(lambda: not answers(url), what="the policy to keep this machine out", seconds=10)
        os.kill(pid_of(cluster, "--node=n1"), signal.SIGKILL)
        # Until it is back, nobody is kept out, and nobody may take that for what a policy does.
        waits.until(lambda: "n1" in " ".join(cluster.problems()), what="the dead agent to be a problem", seconds=5)
        waits.until(lambda: cluster.problems() == [], what="the agent to enforce again", seconds=20)
        assert cluster.starts(components.POLICIES) == 2
        assert not answers(url)
    finally:
        cluster.kubectl("delete", "networkpolicy/deny-all", "pod/closed", f"--namespace={NAMESPACE}")


def test_the_machines_kernel_settings_stay_as_they_were(started: Started) -> None:
    assert kernel_settings() == started.kernel_before


def test_a_dump_shows_events_pods_and_every_component(started: Started) -> None:
    dump = started.cluster.dump_logs(lines=5)
    assert "Successfully assigned" in dump
    for component in components.component_names(started.cluster.record.node(1)):
        assert f"=== {component} (" in dump


def test_clusters_stand_side_by_side_and_one_killed_leaves_no_residue(started: Started) -> None:
    first = started.cluster
    before = Machine.now("e2e-other")
    second = clusters.up("e2e-other")
    assert not IPv4Network(first.service_cidr).supernet(new_prefix=16).overlaps(second.record.plan.block)
    second.verify()
    with pytest.raises(errors.WrongCluster):
        clusters.Cluster(replace(first.record, identity=second.identity)).verify()

    for pid in [pid for mark in second.record.marks for pid in processes.marked(mark)]:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    assert clusters.down("e2e-other")
    assert Machine.now("e2e-other") == before
    assert first.problems() == []


def test_down_leaves_no_residue(started: Started) -> None:
    before = Machine.now("e2e-gone")
    with cluster_or_skip("e2e-gone") as up:
        assert set(Machine.now("e2e-gone").processes) >= {"containerd", "kubelet", "kube-apiserver"}
        assert up.cluster.problems() == []
    assert Machine.now("e2e-gone") == before
    assert not clusters.down("e2e-gone")


@pytest.mark.parametrize("reached", ["Folder", "Link", "Cgroup", "Box", "Route"])
def test_down_cleans_up_after_an_up_that_was_killed(started: Started, reached: str) -> None:
    before = Machine.now("e2e-half")
    layout = paths.layout("e2e-half")
    with subprocess.Popen(
        [sys.executable, "-m", "tools.cluster", "up", "--name", "e2e-half"],
        cwd=paths.REPOSITORY,
        stderr=subprocess.PIPE,
    ) as process:
        waits.until(lambda: reached in journal_text(layout), what=f"{reached} on record", seconds=20, every=0.001)
        process.kill()
    assert clusters.down("e2e-half")
    assert Machine.now("e2e-half") == before


def test_it_refuses_a_link_that_it_did_not_make(started: Started) -> None:
    name = names.bridge("e2e-foreign")
    subprocess.run(["ip", "link", "add", "name", name, "type", "bridge"], check=True)
    try:
        before = Machine.now("e2e-foreign")
        with pytest.raises(errors.Refused, match=f"the link {name} exists and was not made by this cluster"):
            clusters.up("e2e-foreign")
        assert not clusters.down("e2e-foreign")
        assert Machine.now("e2e-foreign") == before
    finally:
        subprocess.run(["ip", "link", "del", name], check=True)


def test_it_refuses_a_block_that_the_machine_routes_elsewhere(started: Started) -> None:
    block = IPv4Network("10.251.0.0/16")
    subprocess.run(["ip", "route", "add", "blackhole", "10.251.70.0/24"], check=True)
    try:
        before = Machine.now("e2e-foreign")
        with pytest.raises(errors.Refused, match=r"the block 10.251.0.0/16 overlaps 10.251.70.0/24"):
            clusters.up("e2e-foreign", block=block)
        assert Machine.now("e2e-foreign") == before
    finally:
        subprocess.run(["ip", "route", "del", "blackhole", "10.251.70.0/24"], check=True)


def test_down_leaves_a_link_that_took_the_name_of_ours(started: Started) -> None:
    name = "e2e-swap"
    with cluster_or_skip(name):
        bridge = names.bridge(name)
        subprocess.run(["ip", "link", "del", bridge], check=True)
        subprocess.run(["ip", "link", "add", "name", bridge, "type", "bridge"], check=True)
    try:
        assert Path(f"/sys/class/net/{bridge}").exists()
    finally:
        subprocess.run(["ip", "link", "del", bridge], check=True)


def server(name: str, volume: str) -> str:
    return SERVER.replace("NAME", name).replace("VOLUME", volume)


def wait_ready(cluster: clusters.Cluster, pod: str) -> None:
    try:
        options = (f"--namespace={NAMESPACE}", "--timeout=30s")
        cluster.kubectl("wait", "--for=condition=Ready", f"pod/{pod}", *options)
    except errors.CommandFailed:
        print(cluster.dump_logs())
        raise


def jsonpath(cluster: clusters.Cluster, what: str, path: str) -> str:
    return cluster.kubectl("get", what, f"--namespace={NAMESPACE}", f"--output=jsonpath={path}")


def fetch(url: str) -> object:
    direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with direct.open(url, timeout=2) as answer:
        return json.load(answer)


def answers(url: str) -> bool:
    try:
        return fetch(url) == {"status": "ok"}
    except OSError:
        return False


async def publish(address: str, data: bytes) -> None:
    client = await nats.connect(f"nats://{address}:4222")
    stream = client.jetstream()
    await stream.add_stream(name="kept", subjects=["kept"])
    await stream.publish("kept", data)
    await client.close()


async def published(address: str) -> bytes | None:
    client = await nats.connect(f"nats://{address}:4222")
    message = await client.jetstream().get_last_msg("kept", "kept")
    await client.close()
    return message.data


def pid_of(cluster: clusters.Cluster, text: str) -> int:
    for pid in processes.marked(cluster.record.marks[0]):
        words = Path(f"/proc/{pid}/cmdline").read_text().split("\0")
        if text in words:
            return pid
    raise AssertionError(f"no process of {cluster.name} has {text} in its command line")


def starts(cluster: clusters.Cluster, component: str) -> int:
    return {status.name: status.starts for status in boxes.statuses(cluster.record.layout, 1)}[component]


def journal_text(layout: paths.Layout) -> str:
    journal = journals.Journal.read(layout.journal)
    return " ".join(type(entry).__name__ for entry in journal.newest_first()) if journal else ""


@dataclass(frozen=True)
class Machine:
    """What a cluster could leave behind on a machine. Other clusters come and go meanwhile and do not count."""

    links: frozenset[str]
    routes: frozenset[str]
    cgroups: frozenset[str]
    mounts: frozenset[str]
    firewall: str
    files: frozenset[str]
    processes: list[str]

    @classmethod
    def now(cls, name: str) -> "Machine":
        bridge = names.bridge(name)
        links = {link["ifname"] for link in json.loads(output("ip", "-j", "link", "show"))}
        routes = output("ip", "route", "show", "table", "all").splitlines()
        foreign = re.compile(r"\bbm-[a-z0-9-]+")
        top = [path for base in Path("/sys/fs/cgroup").iterdir() for path in base.glob("*/") if path.is_dir()]
        other_cgroup = re.compile(rf"bema-(?!{name}-)")
        # Image builders mount below these, perhaps right now.
        mounts = [line.split()[4] for line in Path("/proc/self/mountinfo").read_text().splitlines()]
        mounts = [mount for mount in mounts if not mount.startswith(("/tmp/", "/var/lib/containers/"))]
        root = paths.clusters_root()
        return cls(
            links=frozenset(link for link in links if not link.startswith("bm-") or link.startswith(bridge)),
            routes=frozenset(line for line in routes if set(foreign.findall(line)) <= {bridge}),
            cgroups=frozenset(str(path) for path in top if not other_cgroup.match(path.name)),
            mounts=frozenset(mounts),
            firewall=re.sub(r"#.*|\[\d+:\d+\]", "", output("iptables-save")),
            files=frozenset(str(path) for path in root.glob(f"{name}*") if path.suffix != ".lock"),
            processes=processes_of(name),
        )


def processes_of(name: str) -> list[str]:
    """The processes of a cluster: with its folder in their environment or arguments, or (pods) in its cgroups."""
    needles = (f"{paths.layout(name).folder}/".encode(), f"/bema-{name}-".encode())
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            read = b"\n".join((folder / file).read_bytes() for file in ("environ", "cgroup", "cmdline"))
            if any(needle in read for needle in needles):
                found.append((folder / "comm").read_text().strip())
    return found


def kernel_settings() -> dict[str, str]:
    return {setting: Path(setting).read_text() for setting in components.KERNEL_SETTINGS}


def output(*command: str) -> str:
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout
