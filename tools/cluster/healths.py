"""Whether a cluster does what it should: boxes, components, API server, identity, nodes."""

from tools.cluster import api_clients, boxes, components, errors, links, manifests, names, records


def problems(record: records.Record) -> list[str]:
    """What is wrong, a sentence each; empty when the cluster is up and well."""
    found = _of_boxes(record)
    bridge = names.bridge(record.name)
    if links.mac(bridge) is None:
        found.append(f"the link {bridge} is gone")
    if found:
        return found
    try:
        record.api().get("/readyz")
        check_identity(record)
        return [text for index in record.indexes if (text := _of_node(record, index))]
    except (api_clients.ApiError, errors.WrongCluster) as failed:
        return [f"the API server: {failed}"]


def is_alive(record: records.Record) -> bool:
    """Whether every box runs, well or not."""
    return all(boxes.pid(record.identity, index) is not None for index in record.indexes)


def check_identity(record: records.Record) -> None:
    """Raise `errors.WrongCluster` unless the server that answers carries the identity on record."""
    path = f"/api/v1/namespaces/kube-system/configmaps/{manifests.IDENTITY}"
    try:
        found = record.api().get(path)["data"].get("identity")
    except api_clients.ApiError as refused:
        raise errors.WrongCluster(f"{record.plan.api_url} does not say which cluster it is: {refused}") from refused
    if found != record.identity:
        raise errors.WrongCluster(
            f"{record.plan.api_url} is cluster {found}, and {record.layout.kubeconfig} was made for {record.identity}"
        )


def node_is_ready(record: records.Record, index: int) -> bool:
    """Whether the node is Ready and pods may be scheduled on it."""
    try:
        return _of_node(record, index) is None
    except api_clients.ApiError:
        return False


def enforces(record: records.Record, index: int) -> bool:
    """Whether the node's network policies are enforced: the very process that runs now has said so."""
    try:
        said = record.layout.enforcing(index).read_text().strip()
    except FileNotFoundError:
        return False
    pids = [status.pid for status in boxes.statuses(record.layout, index) if status.name == components.POLICIES]
    return [said] == [str(pid) for pid in pids]


def _of_boxes(record: records.Record) -> list[str]:
    found = []
    for index in record.indexes:
        if boxes.pid(record.identity, index) is None:
            found.append(f"node {names.node(index)} is not running")
            continue
        for status in boxes.statuses(record.layout, index):
            if not status.running:
                how = f"its last exit code was {status.last_exit}" if status.starts else "it was not started yet"
                found.append(f"{status.name} on {names.node(index)} is not running; {how}")
            elif status.name == components.POLICIES and not enforces(record, index):
                found.append(f"{names.node(index)} does not enforce network policies yet")
    return found


def _of_node(record: records.Record, index: int) -> str | None:
    node = record.api().get(f"/api/v1/nodes/{names.node(index)}")
    conditions = {condition["type"]: condition for condition in node["status"].get("conditions", [])}
    ready = conditions.get("Ready", {"status": "Unknown", "message": "no condition yet"})
    if ready["status"] != "True":
        return f"node {names.node(index)} is not Ready: {ready['message']}"
    taints = [taint["key"] for taint in node["spec"].get("taints", [])]
    return f"node {names.node(index)} is tainted: {', '.join(taints)}" if taints else None
