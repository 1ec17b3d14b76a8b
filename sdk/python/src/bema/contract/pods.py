"""The closed list of what a Step may say about its pod.

A whole pod template would make the CRD larger than `kubectl apply` accepts, and would open what the restricted Pod
Security Standard closes. The operator sets every security context itself.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Annotated, Any

from pydantic import AfterValidator, Field, model_validator

from bema.contract.models import Model

Opaque = Annotated[dict[str, Any], Field(json_schema_extra={"x-kubernetes-preserve-unknown-fields": True})]
"""An object that the API server validates when the pod is created, exactly as in a pod."""

Labels = Annotated[dict[str, str], Field(max_length=64)]


CONFIG_MAP_PATTERN = r"^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$"
"""A regular expression (RE2) of a ConfigMap's name."""

CONFIG_MAP_MESSAGE = "expected the name of a ConfigMap such as shop-settings"


CONTAINER = "step"
"""Name of the container that runs a Step's code."""

CONTAINER_MESSAGE = f"the name {CONTAINER} belongs to the container that runs the handler"

VOLUME_BINDING = "bema-binding"
VOLUME_CODE = "bema-code"
VOLUME_TMP = "bema-tmp"
_VOLUMES = frozenset({VOLUME_BINDING, VOLUME_CODE, VOLUME_TMP})
"""Those that each pod has."""


def _check_name(name: str) -> str:
    if not re.fullmatch(CONFIG_MAP_PATTERN, name):
        raise ValueError(f"{CONFIG_MAP_MESSAGE}, found {name!r}")
    return name


def _keyed(name: str) -> dict[str, Any]:
    return {"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": [name]}


class EnvVar(Model):
    """An environment variable."""

    name: Annotated[str, Field(min_length=1, max_length=253)]
    """Name of the variable."""
    value: str | None = None
    """Its value."""
    value_from: Opaque | None = None
    """Where its value comes from, as in a pod."""

    @model_validator(mode="after")
    def _reserved(self) -> EnvVar:
        if self.name.startswith("BEMA_"):
            raise ValueError(f"names that begin with BEMA_ belong to Bema, found {self.name!r}")
        if self.value is not None and self.value_from is not None:
            raise ValueError("an environment variable has at most one of value, valueFrom; found both")
        return self


class EnvFrom(Model):
    """A ConfigMap or Secret whose keys become environment variables."""

    prefix: str | None = None
    """Put before each name."""
    config_map_ref: Opaque | None = None
    """A ConfigMap, as in a pod."""
    secret_ref: Opaque | None = None
    """A Secret, as in a pod."""

    @model_validator(mode="after")
    def _one_source(self) -> EnvFrom:
        if (self.config_map_ref is None) == (self.secret_ref is None):
            found = "both" if self.secret_ref is not None else "neither"
            raise ValueError(f"an entry of envFrom has exactly one of configMapRef, secretRef; found {found}")
        return self


class VolumeMount(Model):
    """Where a volume appears in a container."""

    name: Annotated[str, Field(max_length=63)]
    """Name of the volume."""
    mount_path: Annotated[str, Field(max_length=1024)]
    """Path in the container."""
    sub_path: str | None = None
    """Path in the volume."""
    read_only: bool | None = None
    """Mount it for reading only."""


class Volume(Model):
    """A volume: configMap, secret, emptyDir, projected or persistentVolumeClaim, exactly one."""

    name: Annotated[str, Field(min_length=1, max_length=63)]
    """Name of the volume."""
    config_map: Opaque | None = None
    """A ConfigMap, as in a pod."""
    secret: Opaque | None = None
    """A Secret, as in a pod."""
    empty_dir: Opaque | None = None
    """An empty directory, as in a pod."""
    projected: Opaque | None = None
    """Projected sources, as in a pod."""
    persistent_volume_claim: Opaque | None = None
    """A claim, as in a pod."""

    @model_validator(mode="after")
    def _one_source(self) -> Volume:
        fields = type(self).model_fields.items()
        found = [str(field.alias) for name, field in fields if name != "name" and getattr(self, name) is not None]
        if len(found) != 1:
            raise ValueError(
                "a volume has exactly one of configMap, secret, emptyDir, projected, persistentVolumeClaim; "
                f"found {' and '.join(found) or 'none'}"
            )
        return self


ConfigMapName = Annotated[str, Field(min_length=1, max_length=253), AfterValidator(_check_name)]


class RestartOn(Model):
    """What the pods start again for, although nothing of the Step has changed."""

    config_maps: Annotated[
        list[ConfigMapName], Field(min_length=1, max_length=8, json_schema_extra={"x-kubernetes-list-type": "set"})
    ]
    """Names of ConfigMaps: the pods are replaced when the data of one changes, comes or goes."""

    @model_validator(mode="after")
    def _once(self) -> RestartOn:
        twice = sorted({name for name in self.config_maps if self.config_maps.count(name) > 1})
        if twice:
            raise ValueError(f"configMaps: expected each name once, found {', '.join(twice)} twice")
        return self


class Container(Model):
    """A container beside the Step's own. It gets the restricted security context too."""

    name: Annotated[str, Field(min_length=1, max_length=63)]
    """Name of the container."""
    image: Annotated[str, Field(min_length=1, max_length=1024)]
    """Its image."""
    command: list[str] | None = None
    """Replaces the image's entrypoint."""
    args: list[str] | None = None
    """Replaces the image's arguments."""
    env: Annotated[list[EnvVar], Field(max_length=256, json_schema_extra=_keyed("name"))] | None = None
    """Environment variables."""
    env_from: Annotated[list[EnvFrom], Field(max_length=32)] | None = None
    """ConfigMaps and Secrets as environment variables."""
    resources: Opaque | None = None
    """Requests and limits, as in a pod."""
    volume_mounts: Annotated[list[VolumeMount], Field(max_length=64)] | None = None
    """Where volumes appear."""

    @model_validator(mode="after")
    def _beside(self) -> Container:
        if self.name == CONTAINER:
            raise ValueError(f"{CONTAINER_MESSAGE}, found it for another one")
        return self


class PodFields(Model):
    """What may be said about a Step's pod."""

    env: Annotated[list[EnvVar], Field(max_length=256, json_schema_extra=_keyed("name"))] | None = None
    """Environment variables of the handler."""
    env_from: Annotated[list[EnvFrom], Field(max_length=32)] | None = None
    """ConfigMaps and Secrets as environment variables of the handler."""
    resources: Opaque | None = None
    """Requests and limits, as in a pod. Default: requests of 10m CPU and 64Mi."""
    node_selector: Labels | None = None
    """Labels that the node must have."""
    tolerations: Annotated[list[Opaque], Field(max_length=32)] | None = None
    """Tolerations, as in a pod."""
    affinity: Opaque | None = None
    """Affinity, as in a pod."""
    topology_spread_constraints: Annotated[list[Opaque], Field(max_length=16)] | None = None
    """Topology spread constraints, as in a pod."""
    volumes: Annotated[list[Volume], Field(max_length=32, json_schema_extra=_keyed("name"))] | None = None
    """Volumes."""
    volume_mounts: Annotated[list[VolumeMount], Field(max_length=64)] | None = None
    """Where volumes appear in the handler's container."""
    init_containers: Annotated[list[Container], Field(max_length=8, json_schema_extra=_keyed("name"))] | None = None
    """Containers that run before the handler's."""
    sidecars: Annotated[list[Container], Field(max_length=8, json_schema_extra=_keyed("name"))] | None = None
    """Containers that run beside the handler's."""
    image_pull_secrets: Annotated[list[Opaque], Field(max_length=16)] | None = None
    """Secrets for pulling images, as in a pod."""
    service_account_name: Annotated[str, Field(max_length=253)] | None = None
    """ServiceAccount of the pod. Not acted on by this version."""
    priority_class_name: Annotated[str, Field(max_length=253)] | None = None
    """Priority class of the pod."""
    labels: Labels | None = None
    """More labels for the pod."""
    annotations: Labels | None = None
    """More annotations for the pod."""

    @model_validator(mode="after")
    def _own_labels(self) -> PodFields:
        taken = [key for key in self.labels or {} if "bema.dev/" in key or key.startswith("app.kubernetes.io/")]
        if taken:
            raise ValueError(f"labels below bema.dev/ and app.kubernetes.io/ belong to Bema, found {', '.join(taken)}")
        return self

    def over(self, below: PodFields) -> PodFields:
        """These fields, and what `below` says beside them. Maps are taken together by key, `_NAMED` lists by name;
        here wins. Of anything else, all of it counts that is said here, be it nothing."""
        found: dict[str, Any] = {}
        for field in type(self).model_fields:
            ours, theirs = getattr(self, field), getattr(below, field)
            if ours is None or theirs is None:
                found[field] = theirs if ours is None else ours
            elif field in _MAPS:
                found[field] = {**theirs, **ours}
            elif field in _NAMED:
                key = _NAMED[field]
                found[field] = list({getattr(item, key): item for item in (*theirs, *ours)}.values())
            else:
                found[field] = ours
        return self.model_copy(update=found)


def missing_volumes(pod: PodFields) -> Iterator[str]:
    """Mounts of volumes that a pod does not have, each as a sentence that names the field. Of a Step with its App's
    defaults: either may have the volume that the other mounts."""
    known = _VOLUMES | {volume.name for volume in pod.volumes or []}
    mounting = [("volumeMounts", pod.volume_mounts)]
    for field, containers in (("initContainers", pod.init_containers), ("sidecars", pod.sidecars)):
        mounting += [(f"{field} {item.name!r}: volumeMounts", item.volume_mounts) for item in containers or []]
    for where, mounts in mounting:
        for mount in mounts or []:
            if mount.name not in known:
                said = ", ".join(sorted(known - _VOLUMES)) or "none"
                yield (
                    f"pod.{where}: expected a volume of the Step or of its App's defaults, found {mount.name!r} at "
                    f"{mount.mount_path}; there is {said}"
                )


_MAPS = frozenset({"node_selector", "labels", "annotations"})
_NAMED = {
    "env": "name",
    "volumes": "name",
    "volume_mounts": "mount_path",
    "init_containers": "name",
    "sidecars": "name",
}
"""Lists whose items have a name, and what it is called."""
