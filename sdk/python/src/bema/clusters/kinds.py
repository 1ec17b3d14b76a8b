"""The Kubernetes kinds that Bema deals with. Names only: no I/O."""

from __future__ import annotations

from dataclasses import dataclass

from bema.contract import crds, names
from bema.contract.crds import Resource


@dataclass(frozen=True, slots=True)
class Kind:
    """One kind of object, as the API names it."""

    group: str
    version: str
    plural: str
    name: str

    @property
    def api_version(self) -> str:
        return f"{self.group}/{self.version}" if self.group else self.version

    @property
    def full_name(self) -> str:
        """As rights and `kubectl` name it, such as `steps.bema.dev`."""
        return f"{self.plural}.{self.group}" if self.group else self.plural

    def path(self, namespace: str | None = None, name: str | None = None, subresource: str | None = None) -> str:
        """The URL path of a collection, an object or its subresource. No namespace: all of them."""
        parts = ["/apis" if self.group else "/api", self.api_version]
        if namespace is not None:
            parts += ["namespaces", namespace]
        parts += [part for part in (self.plural, name, subresource) if part is not None]
        return "/".join(parts)


def _ours(of: Resource) -> Kind:
    return Kind(names.API_GROUP, names.API_VERSION, of.plural, of.kind)


STEP = _ours(crds.STEP)
APP = _ours(crds.APP)
CONFIG_MAP = Kind("", "v1", "configmaps", "ConfigMap")
DEPLOYMENT = Kind("apps", "v1", "deployments", "Deployment")
CRON_JOB = Kind("batch", "v1", "cronjobs", "CronJob")
SERVICE = Kind("", "v1", "services", "Service")
DISRUPTION_BUDGET = Kind("policy", "v1", "poddisruptionbudgets", "PodDisruptionBudget")
NETWORK_POLICY = Kind("networking.k8s.io", "v1", "networkpolicies", "NetworkPolicy")
LEASE = Kind("coordination.k8s.io", "v1", "leases", "Lease")
EVENT = Kind("", "v1", "events", "Event")
POD = Kind("", "v1", "pods", "Pod")
NAMESPACE = Kind("", "v1", "namespaces", "Namespace")
CRD = Kind("apiextensions.k8s.io", "v1", "customresourcedefinitions", "CustomResourceDefinition")
