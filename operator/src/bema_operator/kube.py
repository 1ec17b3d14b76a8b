"""The Kubernetes API as the operator uses it: over `bema.clusters`, with its writes counted."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from bema.clusters import calls
from bema.clusters.calls import Access
from bema.clusters.errors import Conflict, Expired, Gone, KubeError, Refused, Unavailable
from bema.contract import names
from bema_operator import kinds, metrics
from bema_operator.objects import Object
from bema_operator.settings import VERSION

__all__ = ["Access", "Conflict", "Expired", "Gone", "Kube", "KubeError", "Refused", "Unavailable", "access"]

POOL = 32

_APPLY = "application/apply-patch+yaml"
_MANAGER = {"fieldManager": names.FIELD_MANAGER, "force": "true"}
_POLITELY = {"fieldManager": names.FIELD_MANAGER}


async def access(kubeconfig: str | None) -> Access:
    """From a kubeconfig file, or from the pod's ServiceAccount. The token is read again by itself."""
    found = calls.in_cluster() if kubeconfig is None else await calls.from_file(kubeconfig)
    found.connection_pool_maxsize = POOL
    found.client_session_kwargs = {"trust_env": False}
    return found


class Kube(calls.Client):
    """The calls that the operator makes."""

    def __init__(self, found: Access, measures: metrics.Metrics, *, agent: str = f"bema-operator/{VERSION}") -> None:
        super().__init__(found, agent=agent)
        self._measures = measures
        self.check: Callable[[], None] = lambda: None
        """Raises when nothing may be written any more."""

    async def uid(self, kind: kinds.Kind, name: str, namespace: str | None = None) -> str | None:
        """Which object this is; None when the API server says by its name that it does not exist: any other answer
        that is none, such as that of a CRD that is not there, raises `KubeError`."""
        try:
            found = await self.get(kind, name, namespace)
        except Gone:
            return None
        return str(found["metadata"]["uid"])

    async def find(self, kind: kinds.Kind, namespace: str, name: str) -> dict[str, Any] | None:
        """One object, with the right to list only; None when it does not exist."""
        items = await self.list(kind, namespace, fieldSelector=f"metadata.name={name}")
        return items[0] if items else None

    async def create(self, kind: kinds.Kind, manifest: Object) -> None:
        """Make an object. Once: should the answer be lost, there may be two."""
        self.check()
        await self.call("POST", kind.path(manifest["metadata"]["namespace"]), body=manifest)
        self._measures.writes.labels(kind.name, "create").inc()

    async def apply(self, kind: kinds.Kind, manifest: Object, *, force: bool = True) -> dict[str, Any]:
        """Server-side apply, as one manager that wins; without `force`, as one that gives way: raises `Conflict` when
        another manager has set one of the fields to something else."""
        self.check()
        metadata = manifest["metadata"]
        path = kind.path(metadata["namespace"], metadata["name"])
        query = _MANAGER if force else _POLITELY
        found: dict[str, Any] = await self.call("PATCH", path, query=query, body=manifest, content_type=_APPLY)
        self._measures.writes.labels(kind.name, "apply").inc()
        return found

    async def apply_status(self, kind: kinds.Kind, namespace: str, name: str, uid: str, status: Object) -> Any:
        """Server-side apply of a status. Raises `Conflict` when the object was made again meanwhile."""
        self.check()
        body = {
            "apiVersion": kind.api_version,
            "kind": kind.name,
            "metadata": {"name": name, "namespace": namespace, "uid": uid},
            "status": status,
        }
        path = kind.path(namespace, name, "status")
        found = await self.call("PATCH", path, query=_MANAGER, body=body, content_type=_APPLY)
        self._measures.writes.labels(kind.name, "status").inc()
        return found

    async def delete(self, kind: kinds.Kind, found: Object) -> None:
        """Delete this very object; nothing there, or another one, is no error."""
        self.check()
        metadata = found["metadata"]
        body = {"preconditions": {"uid": metadata["uid"]}, "propagationPolicy": "Background"}
        try:
            await self.call("DELETE", kind.path(metadata["namespace"], metadata["name"]), body=body)
        except (Gone, Conflict):
            return
        self._measures.writes.labels(kind.name, "delete").inc()
