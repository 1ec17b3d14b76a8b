"""The pod of a Step: passes the `restricted` Pod Security Standard whatever the Step says."""

from __future__ import annotations

import math
from typing import Any

from bema.contract import names, pods
from bema_operator.manifests import config_maps, parts
from bema_operator.manifests.parts import Manifest, Order, present

USER = 10001
HOME = "/tmp"
RESOURCES = {"requests": {"cpu": "10m", "memory": "64Mi"}}
GRACE_SECONDS = 10
"""Beyond draining, for what is cancelled to end."""
TOLERATION_SECONDS = 30
"""A pod on a lost node is replaced after this time, in place of Kubernetes' 300 s."""
PROBE_TIMEOUT = 5
"""The health port is bound before the handler is imported: the first probe waits instead of failing."""


def deployment_pod(order: Order) -> Manifest:
    """The pod template of a Step that runs all the time.

    It asks for no spread of its own: Kubernetes' default is over nodes and zones, and any constraint would replace
    that. One for zones would moreover void all others of the pod on nodes that have no label of a zone.
    """
    return _template(order, {**_container(order), "args": _arguments(), **_ports(order), **_probes()})


def job_pod(order: Order) -> Manifest:
    """The pod template of a Step that runs once per tick. The Job's name carries the tick's nominal time."""
    job_name = {"name": names.ENV_JOB_NAME, "valueFrom": {"fieldRef": {"fieldPath": _FIELD_JOB_NAME}}}
    container = _container(order)
    container = {**container, "args": [*_arguments(), "--once"], "env": [*container["env"], job_name]}
    template = _template(order, container)
    return {**template, "spec": {**template["spec"], "restartPolicy": "Never"}}


_FIELD_JOB_NAME = f"metadata.labels['{names.LABEL_JOB_NAME}']"


def _arguments() -> list[str]:
    return ["--binding", names.PATH_BINDING]


def _template(order: Order, container: Manifest) -> Manifest:
    fields = order.step.spec.pod
    metadata = present(
        labels={**(fields.labels or {}), **parts.labels(order.binding)},
        annotations={
            "kubectl.kubernetes.io/default-container": pods.CONTAINER,
            **(fields.annotations or {}),
            **({names.ANNOTATION_CONTENTS: order.contents} if order.contents else {}),
        },
    )
    return {"metadata": metadata, "spec": _spec(order, fields, container)}


def _spec(order: Order, fields: pods.PodFields, container: Manifest) -> Manifest:
    return present(
        automountServiceAccountToken=False,
        enableServiceLinks=False,
        securityContext=_pod_security(),
        terminationGracePeriodSeconds=math.ceil(order.binding.drain_seconds) + GRACE_SECONDS,
        tolerations=_tolerations(fields.tolerations or []),
        containers=[container],
        initContainers=parts.or_none(_beside(fields)),
        volumes=_volumes(order, fields),
        imagePullSecrets=parts.or_none(fields.image_pull_secrets or []),
        nodeSelector=fields.node_selector or None,
        affinity=fields.affinity or None,
        topologySpreadConstraints=parts.or_none(fields.topology_spread_constraints or []),
        priorityClassName=fields.priority_class_name,
    )


def _pod_security() -> Manifest:
    return {
        "runAsNonRoot": True,
        "runAsUser": USER,
        "runAsGroup": USER,
        "fsGroup": USER,
        "seccompProfile": {"type": "RuntimeDefault"},
    }


def _container_security() -> Manifest:
    return {
        "allowPrivilegeEscalation": False,
        "capabilities": {"drop": ["ALL"]},
        "readOnlyRootFilesystem": True,
    }


def _container(order: Order) -> Manifest:
    fields = order.step.spec.pod
    code = order.step.spec.code
    return present(
        name=pods.CONTAINER,
        image=(code.image if code else None) or order.settings.runtime_image,
        imagePullPolicy=order.settings.image_pull_policy,
        env=_environment(fields.env),
        envFrom=parts.or_none(parts.dumped(fields.env_from)),
        resources=fields.resources or RESOURCES,
        securityContext=_container_security(),
        terminationMessagePolicy="FallbackToLogsOnError",
        volumeMounts=_mounts(order, fields),
    )


def _environment(env: list[pods.EnvVar] | None) -> list[Manifest]:
    """The Step's variables, and a home that can be written to unless the Step names one."""
    given = parts.dumped(env)
    home = [] if any(item["name"] == "HOME" for item in given) else [{"name": "HOME", "value": HOME}]
    return [*home, *given]


def _ports(order: Order) -> Manifest:
    """With their protocol: it is part of an item's key, and the server would fill it in."""
    binding = order.binding
    listens = {"http": binding.http, "health": binding.health, "metrics": binding.metrics}
    ports = [
        {"name": name, "containerPort": listen.port, "protocol": "TCP"} for name, listen in listens.items() if listen
    ]
    return {"ports": ports}


def _probes() -> Manifest:
    """No start-up probe: it would only add a second."""
    return {
        "readinessProbe": {
            "httpGet": {"path": "/readyz", "port": "health"},
            "periodSeconds": 2,
            "timeoutSeconds": PROBE_TIMEOUT,
        },
        "livenessProbe": {
            "httpGet": {"path": "/livez", "port": "health"},
            "periodSeconds": 10,
            "timeoutSeconds": PROBE_TIMEOUT,
        },
    }


def _mounts(order: Order, fields: pods.PodFields) -> list[Manifest]:
    mounts = [{"name": pods.VOLUME_BINDING, "mountPath": config_maps.FOLDER_BINDING, "readOnly": True}]
    if config_maps.inline(order):
        mounts.append({"name": pods.VOLUME_CODE, "mountPath": names.PATH_APP, "readOnly": True})
    return [*mounts, {"name": pods.VOLUME_TMP, "mountPath": HOME}, *parts.dumped(fields.volume_mounts)]


def _volumes(order: Order, fields: pods.PodFields) -> list[Manifest]:
    source = config_maps.name(order)
    volumes: list[Manifest] = [_from_config_map(pods.VOLUME_BINDING, source, config_maps.binding_items())]
    if config_maps.inline(order):
        volumes.append(_from_config_map(pods.VOLUME_CODE, source, config_maps.code_items(order)))
    return [*volumes, {"name": pods.VOLUME_TMP, "emptyDir": {}}, *parts.dumped(fields.volumes)]


def _from_config_map(volume: str, source: str, items: list[Manifest]) -> Manifest:
    return {"name": volume, "configMap": {"name": source, "items": items}}


def _beside(fields: pods.PodFields) -> list[Manifest]:
    """Init containers, then sidecars as init containers that go on running: a plain container beside a Job's would
    keep the Job from ending."""
    first = [_guest(container) for container in fields.init_containers or []]
    return [*first, *({**_guest(container), "restartPolicy": "Always"} for container in fields.sidecars or [])]


def _guest(container: pods.Container) -> Manifest:
    return {**container.dump(), "securityContext": _container_security()}


def _tolerations(given: list[dict[str, Any]]) -> list[Manifest]:
    """The Step's tolerations, and a short wait for lost nodes unless the Step names its own."""
    keys = {item.get("key") for item in given}
    ours = [
        {"key": key, "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": TOLERATION_SECONDS}
        for key in ("node.kubernetes.io/not-ready", "node.kubernetes.io/unreachable")
        if key not in keys
    ]
    return [*given, *ours]
