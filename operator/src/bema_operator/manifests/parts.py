"""What all manifests share: labels, owner references, and leaving out what is absent."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from bema.contract import names
from bema.contract.bindings import Binding
from bema.contract.steps import Step
from bema_operator import kinds
from bema_operator.settings import Settings

Manifest = dict[str, Any]

MANAGED_BY = names.FIELD_MANAGER
COMPONENT = "step"


@dataclass(frozen=True, slots=True)
class Order:
    """What the builders need: what the user said, what it resolves to, and what the installation says."""

    step: Step
    binding: Binding
    settings: Settings
    contents: str = ""
    """What the ConfigMaps hold on which the Step is restarted, as a digest; empty for none."""

    @property
    def is_cron(self) -> bool:
        return bool(self.step.spec.crons)


def present(**fields: Any) -> dict[str, Any]:
    """A dict without what is None. Server-side apply would otherwise own a field that says nothing."""
    return {key: value for key, value in fields.items() if value is not None}


def or_none(items: list[Any]) -> list[Any] | None:
    """None for an empty list: an explicit empty list is not always a no-op when it is applied again."""
    return items or None


def selector(step: str, namespace: str) -> dict[str, str]:
    """The labels that tell this Step's pods from all others. Immutable in a Deployment."""
    return {names.LABEL_APP: namespace, names.LABEL_STEP: step}


def selector_text(step: str, namespace: str) -> str:
    return ",".join(f"{key}={value}" for key, value in selector(step, namespace).items())


def labels(binding: Binding) -> dict[str, str]:
    return {
        names.LABEL_NAME: binding.step,
        names.LABEL_COMPONENT: COMPONENT,
        names.LABEL_PART_OF: binding.app,
        names.LABEL_MANAGED_BY: MANAGED_BY,
        **selector(binding.step, binding.app),
    }


def metadata(name: str, binding: Binding) -> Manifest:
    """Nothing of the Step's own labels and annotations: what a GitOps tool wrote there is not the children's."""
    return {
        "name": name,
        "namespace": binding.app,
        "labels": labels(binding),
        "ownerReferences": [owner_reference(binding)],
    }


def owner_reference(binding: Binding) -> Manifest:
    """Without `blockOwnerDeletion`, which needs a right on the Step's finalizers on some clusters."""
    return {
        "apiVersion": kinds.STEP.api_version,
        "kind": kinds.STEP.name,
        "name": binding.step,
        "uid": binding.uid,
        "controller": True,
    }


def head(kind: kinds.Kind, name: str, binding: Binding) -> Manifest:
    return {"apiVersion": kind.api_version, "kind": kind.name, "metadata": metadata(name, binding)}


def dumped(items: list[Any] | None) -> list[Any]:
    """Contract models or plain values, as JSON-ready values."""
    return [item if isinstance(item, Mapping) else item.dump() for item in items or []]
