"""Making a cluster. Everything is written to the journal before it is made; on an error everything is undone."""

import functools
import secrets
import shutil
import time
from collections.abc import Callable
from ipaddress import IPv4Network

from tools.cluster import (
    addresses,
    api_clients,
    boxes,
    builds,
    certificates,
    cgroups,
    components,
    configs,
    errors,
    healths,
    images,
    journals,
    links,
    locks,
    logs,
    manifests,
    names,
    packages,
    paths,
    records,
    removals,
    stages,
    waits,
)

_STEADY = 1.5
_DEADLINE = 90
"""Seconds for each wait. A machine in good order needs five for all together."""


def up(name: str, *, nodes: int | None = None, block: IPv4Network | None = None) -> records.Record:
    """A cluster of that name, up and well: the one that is there already, or a new one (with one node by default).

    Raises `errors.CannotRunHere` when the machine lacks something, `errors.Refused` when something foreign is in the
    way, `errors.ClusterError` when a cluster of that name is up but not well.
    """
    layout = paths.layout(names.checked(name))
    packages.check()
    programs = builds.build()
    with locks.cluster(layout):
        existing = records.find(name)
        if existing is not None and healths.is_alive(existing):
            return _verified(existing, nodes, block)
        if existing is not None:
            stages.say(f"cluster {name} is left over from a crash; clearing it away")
            removals.remove(layout)
        with stages.stage(f"cluster {name} up"):
            return _create(layout, nodes or 1, block, programs)


def _verified(record: records.Record, nodes: int | None, block: IPv4Network | None) -> records.Record:
    if nodes not in (None, record.nodes) or block not in (None, record.plan.block):
        raise errors.Refused(
            f"cluster {record.name} is up with {record.nodes} nodes on {record.plan.block}; take it down first"
        )
    wrong = healths.problems(record)
    if wrong:
        raise errors.ClusterError(
            f"cluster {record.name} is up but not well: {'; '.join(wrong)}. See `python -m tools.cluster logs`, "
            f"or take it `down`"
        )
    stages.say(f"cluster {record.name} is already up")
    return record


def _create(layout: paths.Layout, nodes: int, block: IPv4Network | None, programs: paths.Programs) -> records.Record:
    journal, record = _begin(layout, nodes, block)
    try:
        _make_node_files(record, programs)
        _make_boxes(journal, record, programs)
        _make_usable(record)
    except BaseException as failed:
        if not isinstance(failed, KeyboardInterrupt):
            stages.say(logs.tails(record, lines=15))
            stages.say(f"the logs of cluster {layout.name} are kept in {logs.keep(record)}")
        removals.remove(layout)
        raise
    return record


def _begin(layout: paths.Layout, nodes: int, block: IPv4Network | None) -> tuple[journals.Journal, records.Record]:
    """Choose addresses, start the journal, and make the folder and the bridge, which hold the place for us."""
    with locks.addresses(layout.root):
        _refuse_foreign(layout, nodes)
        taken = [*links.networks_in_use(), *records.blocks_on_record(layout.root)]
        plan = addresses.choose(taken, block)
        header = journals.Header(layout.name, secrets.token_hex(16), str(plan.block), nodes)
        journal = journals.Journal.create(layout.journal, header)
        try:
            journal.record(journals.Folder(str(layout.folder)))
            layout.folder.mkdir(mode=0o700)
            bridge = journals.Link(names.bridge(layout.name), links.random_mac())
            journal.record(bridge)
            links.add_bridge(bridge, f"{plan.host}/{plan.nodes.prefixlen}")
        except BaseException:
            removals.remove(layout)
            raise
    return journal, records.of(journal, layout)


def _refuse_foreign(layout: paths.Layout, nodes: int) -> None:
    if not 1 <= nodes <= names.NODE_LIMIT:
        raise errors.Refused(f"a cluster has 1 to {names.NODE_LIMIT} nodes; found {nodes}")
    if layout.folder.exists():
        raise errors.Refused(
            f"{layout.folder} exists and was not made by this cluster; remove it or choose another --name"
        )
    links.refuse_existing(names.bridge(layout.name))
    for index in range(1, nodes + 1):
        links.refuse_existing(names.veth(layout.name, index))


def _make_node_files(record: records.Record, programs: paths.Programs) -> None:
    certificates.write(record.layout, record.plan, record.nodes)
    cni, runc = packages.cni_folder(), shutil.which("runc")
    if cni is None or runc is None:
        raise errors.CannotRunHere("runc or the CNI plugins have disappeared from this machine")
    for index in record.indexes:
        node = record.node(index)
        record.layout.logs(index).mkdir(parents=True)
        record.layout.volumes(index).mkdir()
        for path, content in configs.files(node, runc=runc, cni=cni).items():
            path.parent.mkdir(exist_ok=True)
            path.write_text(content)
    images.write_single(programs.base / "pause", configs.PAUSE_IMAGE, record.layout.folder / "pause.tar")


def _make_boxes(journal: journals.Journal, record: records.Record, programs: paths.Programs) -> None:
    group = names.cgroup(record.name, record.identity)
    journal.record(journals.Cgroup(group))
    cgroups.make(group, [names.node(index) for index in record.indexes])
    for index in record.indexes:
        node = record.node(index)
        journal.record(journals.Box(names.mark(record.identity, index)))
        pid = boxes.start(node, components.script(node, programs))
        cable = journals.Link(names.veth(record.name, index), links.random_mac())
        journal.record(cable)
        links.add_cable(cable, names.bridge(record.name), pid)
        _add_route(journal, record, record.plan.node_pods(index), index)
    _add_route(journal, record, record.plan.services, 1)


def _add_route(journal: journals.Journal, record: records.Record, network: IPv4Network, index: int) -> None:
    route = journals.Route(str(network), str(record.plan.node(index)), names.bridge(record.name))
    journal.record(route)
    links.add_route(route)


def _make_usable(record: records.Record) -> None:
    for index in record.indexes:
        with stages.stage(f"  pause image on {names.node(index)}"):
            images.wait_for_containerd(record.layout, record.identity, index)
            images.load(record.layout, record.identity, index, record.layout.folder / "pause.tar")
    with stages.stage("  API server ready"):
        _until(record, lambda: _api_is_ready(record), "the API server to be ready")
    with stages.stage("  nodes Ready"):
        _create_objects(record)
        for index in record.indexes:
            is_ready = functools.partial(healths.node_is_ready, record, index)
            _until(record, _Steady(is_ready), f"node {index} to be Ready")
    for index in record.indexes:
        is_enforcing = functools.partial(healths.enforces, record, index)
        _until(record, is_enforcing, f"node {index} to enforce network policies")
    # Pods are refused until their namespace has it, and until then a cluster is of no use.
    path = "/api/v1/namespaces/default/serviceaccounts/default"
    _until(record, lambda: _exists(record, path), "the default service account")


class _Steady:
    """A probe that has held for a while. The node controller looks at nodes once a second: what it saw before a node
    was Ready may taint it for a moment after that."""

    def __init__(self, probe: Callable[[], bool]) -> None:
        self._probe = probe
        self._since: float | None = None

    def __call__(self) -> bool:
        now = time.monotonic()
        if not self._probe():
            self._since = None
            return False
        self._since = self._since or now
        return now - self._since >= _STEADY


def _until(record: records.Record, probe: Callable[[], bool], what: str) -> None:
    """Wait, but not for a box that has died."""

    def checked() -> bool:
        if not healths.is_alive(record):
            raise errors.ClusterError(f"a box died while waiting for {what}; see its init.log above")
        return probe()

    waits.until(checked, what=what, seconds=_DEADLINE)


def _api_is_ready(record: records.Record) -> bool:
    return _exists(record, "/readyz")


def _exists(record: records.Record, path: str) -> bool:
    try:
        record.api().get(path, seconds=2)
    except api_clients.ApiError:
        return False
    return True


def _create_objects(record: records.Record) -> None:
    api = record.api()
    for item in manifests.all_objects(record.plan, record.name, record.identity):
        api.request("POST", manifests.collection(item), item)
