"""What `bema doctor` makes of the facts: for each a verdict, what was found and what to do. Pure.

A fact is a value, or the error that kept it from being known. What is not known is no problem, and not well either.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, TypeAlias, TypeVar

from bema.clusters.errors import Gone, KubeError
from bema.contract import crds, names, retentions, versions
from bema.contract.statuses import Reason
from bema.ports.admin import MINIMUM_SERVER
from bema_cli import refusals, step_rows
from bema_cli.kubeconfigs import Place
from bema_cli.measures import Measures
from bema_cli.step_rows import Mark

Object = Mapping[str, Any]
T = TypeVar("T")
Fact: TypeAlias = T | KubeError

MINIMUM_CLUSTER = (1, 29)
"""The oldest Kubernetes whose API server judges all rules of the CRD."""

SKEW_WARNING, SKEW_PROBLEM = 5.0, 60.0
"""Seconds that two clocks may differ before it is worth a word, and before logs, schedules and lifetimes mislead."""

OPERATOR = "bema-operator"
NATS = "nats"


class Verdict(StrEnum):
    OK = "ok"
    WARNING = "warning"
    PROBLEM = "problem"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class Check:
    """One row of what the doctor says."""

    name: str
    verdict: Verdict
    found: str
    advice: str = ""


@dataclass(frozen=True, slots=True)
class Right:
    """A verb on a resource; a subresource after a slash."""

    verb: str
    resource: str
    group: str = ""

    @property
    def words(self) -> str:
        return f"{self.verb} {self.resource}{f'.{self.group}' if self.group else ''}"


USER_RIGHTS = (
    *(Right(verb, "steps", names.API_GROUP) for verb in ("get", "list", "watch")),
    *(Right(verb, kind, names.API_GROUP) for kind in ("steps", "apps") for verb in ("create", "patch", "delete")),
    *(Right(verb, "pods") for verb in ("list", "watch")),
    Right("get", "pods/log"),
)
"""What `bema steps`, `bema logs` and `kubectl apply` of what `bema render` writes take."""

_NEEDED = frozenset(USER_RIGHTS[:2])
"""Without these nothing of a Step can be seen."""

_WRITES = ("list", "watch", "create", "patch", "delete")

OPERATOR_RIGHTS = (
    *(Right(verb, "steps", names.API_GROUP) for verb in ("get", "list", "watch")),
    Right("patch", "steps/status", names.API_GROUP),
    *(Right(verb, "apps", names.API_GROUP) for verb in ("list", "watch")),
    Right("patch", "apps/status", names.API_GROUP),
    *(Right(verb, resource) for resource in ("configmaps", "services") for verb in _WRITES),
    *(Right(verb, "deployments", "apps") for verb in _WRITES),
    *(Right(verb, "cronjobs", "batch") for verb in _WRITES),
    *(Right(verb, "poddisruptionbudgets", "policy") for verb in _WRITES),
    *(Right(verb, "networkpolicies", "networking.k8s.io") for verb in _WRITES),
    Right("list", "pods"),
    Right("create", "events"),
    *(Right(verb, "namespaces") for verb in ("get", "list")),
)
"""What deploy/rbac.yaml gives the operator."""


ROWS = (
    "CRD",
    "CRD of Apps",
    "your rights",
    "operator",
    "operator's version",
    "operator's rights",
    "NATS",
    "NATS' health",
    "NATS' storage",
    "clock here",
    "operator's clock",
    "orphans",
    "Steps",
)
"""The checks that follow that of the cluster."""


def unasked(why: str) -> list[Check]:
    """Every check but the first, when nobody could be asked."""
    return [Check(name, Verdict.UNKNOWN, f"not known: {why}") for name in ROWS]


def not_known(name: str, error: KubeError) -> Check:
    """The right that is missing, or whatever else kept a fact from being known."""
    if error.code == 403:
        return Check(name, Verdict.UNKNOWN, f"not known: expected {refusals.right(error)}, found none")
    return Check(name, Verdict.UNKNOWN, f"not known: {error}")


def cluster(found: Fact[Object], place: Place) -> Check:
    name = "cluster"
    if isinstance(found, KubeError):
        return Check(name, Verdict.PROBLEM, refusals.words(found, place), "check the kubeconfig and the way there")
    version = str(found.get("gitVersion", "of no version"))
    where = f"Kubernetes {version} at {place.server} (context {place.context})"
    number = _version(version)
    if number is not None and number[:2] < MINIMUM_CLUSTER:
        needed = ".".join(map(str, MINIMUM_CLUSTER))
        return Check(name, Verdict.PROBLEM, where, f"Bema needs {needed} or later: upgrade the cluster")
    return Check(name, Verdict.OK, where)


def _version(text: str) -> tuple[int, ...] | None:
    found = re.match(r"v?(\d+)\.(\d+)(?:\.(\d+))?", text)
    return tuple(int(part or 0) for part in found.groups()) if found else None


def crd(of: crds.Resource, served: Fact[Object], found: Fact[Object]) -> Check:
    """`served`: what the API server says of the group; `found`: the CRD itself, which few may read."""
    name = "CRD" if of is crds.STEP else f"CRD of {of.kind}s"
    full_name = f"{of.full_name} {names.API_VERSION}"
    if isinstance(served, KubeError) and served.code != 404:
        return not_known(name, served)
    if isinstance(served, KubeError) or not _serves(of, served):
        verdict = Verdict.PROBLEM if of is crds.STEP else Verdict.WARNING
        return Check(name, verdict, f"expected {full_name}, found none", f"install it: {refusals.INSTALL}")
    there = f"{full_name} is served"
    if isinstance(found, KubeError):
        why = not_known(name, found).found.removeprefix("not known: ")
        return Check(name, Verdict.UNKNOWN, f"{there}; its version is not known: {why}")
    annotations = found["metadata"].get("annotations") or {}
    version = annotations.get(names.ANNOTATION_VERSION)
    if annotations.get(names.ANNOTATION_SCHEMA) == crds.digest(of):
        return Check(name, Verdict.OK, f"{there}, of Bema {version}")
    other = f"that of Bema {version}" if version != versions.VERSION else f"another one of Bema {version}"
    text = f"{there}; expected that of Bema {versions.VERSION}, found {other if version else 'one without a version'}"
    return Check(name, Verdict.WARNING, text, f"bring it up to date: {refusals.INSTALL}")


def _serves(of: crds.Resource, group: Object) -> bool:
    return any(resource.get("name") == of.plural for resource in group.get("resources") or ())


def user_rights(answers: Mapping[Right, Fact[bool]], where: str) -> Check:
    name = "your rights"
    check = _rights(name, answers, where, "ask for ClusterRole edit, or view, in the namespace")
    missing = {right for right, answer in answers.items() if answer is False}
    if check.verdict is Verdict.PROBLEM and not missing & _NEEDED:
        return Check(name, Verdict.WARNING, check.found, check.advice)
    return check


def operator_rights(answers: Mapping[Right, Fact[bool]], where: str) -> Check:
    return _rights("operator's rights", answers, where, "kubectl apply -f deploy/rbac.yaml")


def _rights(name: str, answers: Mapping[Right, Fact[bool]], where: str, advice: str) -> Check:
    unknown = [answer for answer in answers.values() if isinstance(answer, KubeError)]
    if unknown:
        return not_known(name, unknown[0])
    missing = [right.words for right, answer in answers.items() if not answer]
    if missing:
        return Check(name, Verdict.PROBLEM, f"missing {where}: {', '.join(missing)}", advice)
    return Check(name, Verdict.OK, f"all {len(answers)} that it takes {where}")


def operator(found: Fact[Sequence[Object]], system: str) -> Check:
    """`found`: the Deployments of the operator's name in the namespace of the system."""
    name = "operator"
    if isinstance(found, KubeError):
        return not_known(name, found)
    if not found:
        text = f"expected Deployment {OPERATOR} in namespace {system}, found none"
        return Check(name, Verdict.PROBLEM, text, "kubectl apply -f deploy/, or name its namespace with --system")
    [deployment, *_] = found
    wanted = (deployment.get("spec") or {}).get("replicas", 1)
    available = (deployment.get("status") or {}).get("availableReplicas") or 0
    text = f"{available} of {wanted} available in namespace {system}, image {_image(deployment)}"
    if served := served_namespace(deployment):
        text += f", for namespace {served} only"
    if wanted == 0:
        advice = f"kubectl -n {system} scale deployment/{OPERATOR} --replicas=1"
        return Check(name, Verdict.PROBLEM, f"{text}: it was scaled to 0", advice)
    if not available:
        return Check(name, Verdict.PROBLEM, text, f"kubectl -n {system} describe pod -l {names.LABEL_NAME}={OPERATOR}")
    return Check(name, Verdict.OK, text)


def _container(deployment: Object) -> Object:
    containers = deployment["spec"]["template"]["spec"].get("containers") or [{}]
    found: Object = containers[0]
    return found


def _image(deployment: Object) -> str:
    return str(_container(deployment).get("image", "none"))


def served_namespace(deployment: Object) -> str | None:
    """The one namespace that the operator serves; None for all."""
    environment = {item.get("name"): item.get("value") for item in _container(deployment).get("env") or ()}
    return environment.get("BEMA_NAMESPACE") or None


def account(deployment: Object) -> str:
    """The operator's user name to the API server."""
    spec = deployment["spec"]["template"]["spec"]
    name = spec.get("serviceAccountName") or "default"
    return f"system:serviceaccount:{deployment['metadata']['namespace']}:{name}"


def operator_version(found: Fact[Measures]) -> Check:
    name = "operator's version"
    if isinstance(found, KubeError):
        return not_known(name, found)
    version = found.label("bema_operator_info", "version")
    if version is None:
        return Check(name, Verdict.WARNING, "it does not tell its version", f"bring it to Bema {versions.VERSION}")
    if version != versions.VERSION:
        text = f"expected Bema {versions.VERSION}, as this command line is, found {version}"
        return Check(name, Verdict.WARNING, text, "bring both to one version")
    return Check(name, Verdict.OK, f"Bema {version}")


def nats(found: Fact[Measures]) -> Check:
    """NATS as the operator sees it."""
    name = "NATS"
    if isinstance(found, KubeError):
        return not_known(name, found)
    version = found.label("bema_operator_broker_info", "version")
    known = f"nats-server {version}" if version else "NATS"
    if not found.value("bema_operator_broker_connected"):
        last = f"; it was {known}" if version else ""
        text = f"the operator has no connection to NATS{last}"
        return Check(name, Verdict.PROBLEM, text, "check that NATS is up, and the operator's BEMA_NATS_URL")
    number = _version(version or "")
    if number is not None and number < MINIMUM_SERVER:
        needed = ".".join(map(str, MINIMUM_SERVER))
        return Check(name, Verdict.PROBLEM, f"connected to {known}", f"Bema needs {needed} or later: upgrade it")
    return Check(name, Verdict.OK, f"connected to {known}")


@dataclass(frozen=True, slots=True)
class Server:
    """A NATS pod as its monitor tells."""

    pod: str
    health: Fact[Object]
    jetstream: Fact[Object]


def nats_health(found: Fact[Sequence[Server]], system: str) -> Check:
    name = "NATS' health"
    if isinstance(found, KubeError):
        return not_known(name, found)
    if not found:
        return _no_nats(name, system)
    unwell = [(server, server.health) for server in found if isinstance(server.health, KubeError)]
    refused = [error for _, error in unwell if error.code == 403]
    if refused:
        return not_known(name, refused[0])
    if unwell:
        text = "; ".join(f"pod {server.pod}: {error}" for server, error in unwell)
        return Check(name, Verdict.PROBLEM, text, f"kubectl -n {system} logs {unwell[0][0].pod}")
    return Check(name, Verdict.OK, ", ".join(f"pod {server.pod}: {_word(server.health)}" for server in found))


def _word(health: Fact[Object]) -> str:
    return str(health.get("status", "ok")) if isinstance(health, Mapping) else "not known"


def _no_nats(name: str, system: str) -> Check:
    text = f"not known: expected a pod of NATS ({names.LABEL_NAME}={NATS}) in namespace {system}, found none"
    return Check(name, Verdict.UNKNOWN, text, "where NATS runs elsewhere, look there")


def nats_storage(found: Fact[Sequence[Server]], measured: Fact[Measures], system: str) -> Check:
    """What NATS holds of what it may, and each app of its own share."""
    name = "NATS' storage"
    full: dict[str, float] = {}
    if isinstance(measured, Measures):
        full = {what: 100 * share for what, share in measured.by("bema_operator_app_storage_ratio", "app").items()}
    parts, shares = [], {f"app {app}": share for app, share in full.items() if share >= retentions.HIGH}
    servers = [] if isinstance(found, KubeError) else found
    for server in servers:
        if isinstance(server.jetstream, KubeError):
            continue
        used = float(server.jetstream.get("storage") or 0)
        most = float((server.jetstream.get("config") or {}).get("max_storage") or 0)
        shares[f"pod {server.pod}"] = 100 * used / most if most else 0.0
        parts.append(f"pod {server.pod} uses {_bytes(used)} of {_bytes(most)}")
    if full:
        fullest = max(full, key=lambda app: full[app])
        parts.append(f"the fullest of {len(full)} apps is {fullest}: {full[fullest]:.0f} % of its share")
    if not parts:
        errors = [found, *(server.jetstream for server in servers), measured]
        error = next((each for each in errors if isinstance(each, KubeError)), None)
        return not_known(name, error) if error else _no_nats(name, system)
    worst = max(shares.values(), default=0.0)
    if worst >= retentions.HIGH:
        verdict = Verdict.PROBLEM if worst >= retentions.FULL else Verdict.WARNING
        which = ", ".join(f"{what} {share:.0f} %" for what, share in shares.items() if share >= retentions.HIGH)
        advice = f"{which} used: see docs/storage.md; a larger claim, or less kept"
        return Check(name, verdict, "; ".join(parts), advice)
    return Check(name, Verdict.OK, "; ".join(parts))


def _bytes(count: float) -> str:
    for unit in ("B", "KiB", "MiB", "GiB"):
        if count < 1024:
            return f"{count:.0f} {unit}"
        count /= 1024
    return f"{count:.1f} TiB"


def clock(name: str, found: Fact[float | None], ahead: str, behind: str) -> Check:
    """Two clocks. `found`: by how many seconds that of `ahead` is ahead of that of `behind`; None: not compared."""
    if isinstance(found, KubeError):
        return not_known(name, found)
    if found is None:
        return Check(name, Verdict.UNKNOWN, "not known: they were not compared yet")
    size = abs(found)
    if size < SKEW_WARNING:
        return Check(name, Verdict.OK, f"{ahead} and {behind} differ by {size:.1f} s")
    first, second = (ahead, behind) if found > 0 else (behind, ahead)
    verdict = Verdict.PROBLEM if size >= SKEW_PROBLEM else Verdict.WARNING
    return Check(name, verdict, f"{first} is {size:.0f} s ahead of {second}", "set both by NTP")


def orphans(found: Fact[Measures]) -> Check:
    name = "orphans"
    if isinstance(found, KubeError):
        return not_known(name, found)
    counts = found.by("bema_operator_orphans", "kind")
    if not counts:
        return Check(name, Verdict.UNKNOWN, "not known: the operator has not looked for any yet")
    parts = [f"{count:.0f} {kind}" for kind, count in sorted(counts.items()) if count]
    if not parts:
        return Check(name, Verdict.OK, "none")
    text = f"{' and '.join(parts)} of Steps and namespaces that are gone wait for their removal"
    advice = "nothing to do, unless a Step was deleted by mistake: apply it again and it goes on where it was"
    return Check(name, Verdict.WARNING, text, advice)


def steps(found: Fact[Iterable[Object]], place: Place, *, all_namespaces: bool) -> Check:
    name = "Steps"
    if isinstance(found, KubeError):
        missing = found.code == 404 and not isinstance(found, Gone)
        return Check(name, Verdict.UNKNOWN, "not known: no CRD") if missing else not_known(name, found)
    rows = sorted((step_rows.row(item) for item in found), key=step_rows.sort_key)
    where = "in all namespaces" if all_namespaces else f"in namespace {place.namespace}"
    if not rows:
        return Check(name, Verdict.OK, f"none {where}")
    unready = [row for row in rows if row.mark is not Mark.READY]
    if not unready:
        return Check(name, Verdict.OK, f"all {len(rows)} ready {where}")
    verdict = Verdict.PROBLEM if any(row.mark is Mark.UNREADY for row in unready) else Verdict.WARNING
    said = [
        f"{f'{row.namespace}/' if all_namespaces else ''}{row.name}"
        f"{f' ({row.reason})' if row.reason else ''}: {row.message}"
        for row in unready
    ]
    text = f"{len(unready)} of {len(rows)} not ready {where}: {'; '.join(said)}"
    return Check(name, verdict, text, "; ".join(_advice(row.reason in _OF_THE_BROKER for row in unready)))


_OF_THE_BROKER = frozenset(
    {Reason.BROKER_UNAVAILABLE, Reason.BROKER_REFUSED, Reason.BROKER_TOO_OLD, Reason.TOO_FEW_SERVERS}
)
"""Reasons of a Step about which its own pods have nothing to say."""


def _advice(of_the_broker: Iterable[bool]) -> Iterable[str]:
    """Of Steps that are not ready: what to do about those that wait for NATS, and about the others."""
    found = set(of_the_broker)
    if True in found:
        yield "see NATS above, and the operator's BEMA_NATS_URL"
    if False in found:
        yield "`bema logs STEP` shows what they say"
