"""Whose the number of a Step's pods is: the Step's where it says one, else that of whoever scales its Deployment. Pure.

An autoscaler, or a person with `kubectl scale`, sets the number by the `scale` subresource and owns the field from then
on. What we apply leaves it out then, which changes nothing: a field that is another's stays. Left out while it is ours,
it would fall back to its default. Of 0 the API server notes no owner: that one is the Step's to say.
"""

from __future__ import annotations

from collections.abc import Sequence

from bema.contract.steps import StepSpec
from bema_operator import facts, kinds, ownership
from bema_operator.objects import Object


def leave(wanted: Sequence[Object], children: Sequence[Object], spec: StepSpec | None) -> Sequence[Object]:
    """The stamped manifests, without a number of pods that is somebody else's."""
    if spec is None or spec.says_pods or not any(map(ownership.scaler, children)):
        return wanted
    scaled = {facts.identity(child) for child in children if ownership.scaler(child)}
    return [_without_replicas(item) if facts.identity(item) in scaled else item for item in wanted]


def _without_replicas(manifest: Object) -> Object:
    if manifest["kind"] != kinds.DEPLOYMENT.name:
        return manifest
    spec = {key: value for key, value in manifest["spec"].items() if key != "replicas"}
    return ownership.stamp({**manifest, "spec": spec})
