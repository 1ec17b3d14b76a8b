"""`bema doctor` at work: asks the API server for facts, and the operator's and NATS' pods through it, with the rights
of whoever types. What cannot be had is a fact, too."""

from __future__ import annotations

import asyncio
import datetime
import email.utils
import json
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from bema.clusters import kinds
from bema.clusters.calls import Answer
from bema.clusters.errors import KubeError, Unavailable
from bema.clusters.kinds import Kind
from bema.contract import crds, names
from bema_cli import diagnoses, measures
from bema_cli.clusters import Cluster
from bema_cli.diagnoses import Check, Fact, Right, Server, Verdict
from bema_cli.kubeconfigs import Place
from bema_cli.measures import Measures

T = TypeVar("T")

OWN_REVIEW = Kind("authorization.k8s.io", "v1", "selfsubjectaccessreviews", "SelfSubjectAccessReview")
REVIEW = Kind("authorization.k8s.io", "v1", "subjectaccessreviews", "SubjectAccessReview")

METRICS_PORT = 9090
MONITOR_PORT = 8222


@dataclass(frozen=True, slots=True, kw_only=True)
class Scope:
    """What is looked at."""

    place: Place
    system: str
    """Namespace of the operator and of NATS."""
    all_namespaces: bool

    @property
    def namespace(self) -> str | None:
        return None if self.all_namespaces else self.place.namespace

    @property
    def where(self) -> str:
        return "in all namespaces" if self.all_namespaces else f"in namespace {self.place.namespace}"


async def fact(wanted: Awaitable[T]) -> Fact[T]:
    """A value, or the error that kept it from being known."""
    try:
        return await wanted
    except KubeError as error:
        return error


async def examine(cluster: Cluster, scope: Scope) -> list[Check]:
    """Every check there is, whatever the ones before it say."""
    version, skew = await _version(cluster)
    first = diagnoses.cluster(version, scope.place)
    if isinstance(version, KubeError):
        return [first, *diagnoses.unasked("the API server does not answer, or refuses to")]
    served, step_crd, app_crd, deployments, steps, own = await asyncio.gather(
        fact(_json(cluster, "/apis/" + kinds.STEP.api_version)),
        fact(cluster.get(kinds.CRD, kinds.STEP.full_name)),
        fact(cluster.get(kinds.CRD, kinds.APP.full_name)),
        fact(_labelled(cluster, kinds.DEPLOYMENT, scope.system, diagnoses.OPERATOR)),
        fact(_listed(cluster, scope.namespace)),
        _own_rights(cluster, scope),
    )
    measured, servers, rights = await asyncio.gather(
        fact(_measures(cluster, scope.system)),
        fact(_servers(cluster, scope.system)),
        _operator_rights(cluster, deployments),
    )
    return [
        first,
        diagnoses.crd(crds.STEP, served, step_crd),
        diagnoses.crd(crds.APP, served, app_crd),
        diagnoses.user_rights(own, scope.where),
        diagnoses.operator(deployments, scope.system),
        diagnoses.operator_version(measured),
        rights,
        diagnoses.nats(measured),
        diagnoses.nats_health(servers, scope.system),
        diagnoses.nats_storage(servers, measured, scope.system),
        diagnoses.clock("clock here", skew, "the API server", "this machine"),
        diagnoses.clock("operator's clock", _skew(measured), "NATS", "the operator"),
        diagnoses.orphans(measured),
        diagnoses.steps(steps, scope.place, all_namespaces=scope.all_namespaces),
    ]


async def _version(cluster: Cluster) -> tuple[Fact[Any], Fact[float | None]]:
    """The cluster's version, and by how many seconds its clock is ahead of ours."""
    begun = time.time()
    answer = await fact(cluster.ask("/version"))
    ended = time.time()
    if isinstance(answer, KubeError):
        return answer, answer
    return _parsed(answer, "/version"), ahead(answer.date, begun, ended)


def ahead(date: str, begun: float, ended: float) -> float | None:
    """By how many seconds a server's clock is ahead, by the `Date` of an answer between two moments here. The header
    leaves out the fraction of a second, so that the server's time was up to a second later."""
    try:
        stated = email.utils.parsedate_to_datetime(date)
    except ValueError:
        return None
    if stated.tzinfo is None:
        stated = stated.replace(tzinfo=datetime.UTC)
    first, last = stated.timestamp(), stated.timestamp() + 1
    if first > ended:
        return first - ended
    return min(0.0, last - begun)


def _parsed(answer: Answer, path: str) -> Fact[Any]:
    try:
        return json.loads(answer.data)
    except ValueError:
        return Unavailable(f"{path}: expected JSON, found {answer.data[:80]!r}")


async def _json(cluster: Cluster, path: str) -> Any:
    found = _parsed(await cluster.ask(path), path)
    if isinstance(found, KubeError):
        raise found
    return found


async def _listed(cluster: Cluster, namespace: str | None) -> list[dict[str, Any]]:
    return (await cluster.listed(kinds.STEP, namespace)).items


async def _labelled(cluster: Cluster, kind: Kind, namespace: str, name: str) -> list[dict[str, Any]]:
    return (await cluster.listed(kind, namespace, labelSelector=f"{names.LABEL_NAME}={name}")).items


async def _reviewed(rights: Sequence[Right], ask: Callable[[Right], Awaitable[bool]]) -> dict[Right, Fact[bool]]:
    answers = await asyncio.gather(*(fact(ask(right)) for right in rights))
    return dict(zip(rights, answers, strict=True))


def _attributes(right: Right, namespace: str | None) -> dict[str, Any]:
    resource, _, subresource = right.resource.partition("/")
    found = {"verb": right.verb, "group": right.group, "resource": resource, "namespace": namespace or ""}
    return {**found, "subresource": subresource} if subresource else found


async def _own_rights(cluster: Cluster, scope: Scope) -> dict[Right, Fact[bool]]:
    async def ask(right: Right) -> bool:
        spec = {"resourceAttributes": _attributes(right, scope.namespace)}
        return bool((await cluster.create(OWN_REVIEW, {"spec": spec}))["status"]["allowed"])

    return await _reviewed(diagnoses.USER_RIGHTS, ask)


async def _operator_rights(cluster: Cluster, deployments: Fact[list[dict[str, Any]]]) -> Check:
    name = "operator's rights"
    if isinstance(deployments, KubeError):
        return diagnoses.not_known(name, deployments)
    if not deployments:
        return Check(name, Verdict.UNKNOWN, "not known: no operator")
    [deployment, *_] = deployments
    served = diagnoses.served_namespace(deployment)
    user = diagnoses.account(deployment)
    groups = ["system:serviceaccounts", f"system:serviceaccounts:{user.split(':')[2]}", "system:authenticated"]

    async def ask(right: Right) -> bool:
        spec = {"user": user, "groups": groups, "resourceAttributes": _attributes(right, served)}
        return bool((await cluster.create(REVIEW, {"spec": spec}))["status"]["allowed"])

    answers = await _reviewed(diagnoses.OPERATOR_RIGHTS, ask)
    return diagnoses.operator_rights(answers, f"in namespace {served}" if served else "in all namespaces")


async def _measures(cluster: Cluster, system: str) -> Measures:
    """What the operator's pod measures, through the API server's proxy."""
    pods = [pod for pod in await _labelled(cluster, kinds.POD, system, diagnoses.OPERATOR) if _runs(pod)]
    if not pods:
        raise Unavailable(f"expected a running pod of the operator in namespace {system}, found none")
    answer = await cluster.ask(_proxy(pods[-1], _port(pods[-1], "metrics", METRICS_PORT), "metrics"))
    return measures.parse(answer.data.decode("utf-8", "replace"))


async def _servers(cluster: Cluster, system: str) -> list[Server]:
    async def one(pod: dict[str, Any]) -> Server:
        port = _port(pod, "monitor", MONITOR_PORT)
        health, jetstream = await asyncio.gather(
            fact(_json(cluster, _proxy(pod, port, "healthz"))), fact(_json(cluster, _proxy(pod, port, "jsz")))
        )
        return Server(pod["metadata"]["name"], health, jetstream)

    pods = await _labelled(cluster, kinds.POD, system, diagnoses.NATS)
    return list(await asyncio.gather(*map(one, pods)))


def _runs(pod: dict[str, Any]) -> bool:
    return (pod.get("status") or {}).get("phase") == "Running" and not pod["metadata"].get("deletionTimestamp")


def _port(pod: dict[str, Any], name: str, default: int) -> int:
    ports = [port for container in pod["spec"].get("containers") or () for port in container.get("ports") or ()]
    return next((int(port["containerPort"]) for port in ports if port.get("name") == name), default)


def _proxy(pod: dict[str, Any], port: int, path: str) -> str:
    metadata = pod["metadata"]
    return kinds.POD.path(metadata["namespace"], f"{metadata['name']}:{port}", f"proxy/{path}")


def _skew(measured: Fact[Measures]) -> Fact[float | None]:
    if isinstance(measured, KubeError):
        return measured
    return measured.value("bema_operator_broker_clock_skew_seconds")
