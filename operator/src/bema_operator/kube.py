"""The Kubernetes API: one generic call over `kubernetes.aio`'s client. The only module that imports `kubernetes`.

    KubeError
    ├── Gone            the object that was asked for does not exist, and the API server says so by name
    ├── Refused         the content or the right is wrong; trying again soon cannot help
    ├── Conflict        another object or another version is in the way
    └── Unavailable     nobody answered, or not now

Not the typed API (it loads 150 MiB of models, and sends dicts as strategic merges), nor the dynamic one (it discovers).
"""

from __future__ import annotations

import asyncio
import json
import logging
import re
import ssl
from collections.abc import Mapping
from typing import Any

import aiohttp
from kubernetes.aio.client import ApiClient, Configuration
from kubernetes.aio.config import incluster_config, kube_config

from bema.contract import names
from bema_operator import kinds, metrics, queues
from bema_operator.settings import VERSION

log = logging.getLogger(__name__)

Object = Mapping[str, Any]

Access = Configuration
"""Where the API server is, and what to present to it."""

# The package says that it is typed, but these are not.
_load_in_cluster: Any = incluster_config.load_incluster_config
_load_file: Any = kube_config.load_kube_config

TIMEOUT = 20.0
POOL = 32
PAGE = 500
RETRY_AFTER = (0.2, 1.0)
"""Pauses before the second and third try of a request that nobody answered, in seconds."""

_WRONG_CONTENT = re.compile(r"failed to (?:create typed patch object|convert new object|convert merged object)")

_APPLY = "application/apply-patch+yaml"
_MANAGER = {"fieldManager": names.FIELD_MANAGER, "force": "true"}


class KubeError(queues.Expected):
    """The API server did not do what was asked."""


class Gone(KubeError):
    """The object does not exist. Positive evidence: the kind is served, and the answer names the object."""


class Refused(KubeError):
    """The content or the right is wrong."""


class Conflict(KubeError):
    """Another object or another version is in the way."""


class Unavailable(KubeError):
    """Nobody answered, or not now."""


async def access(kubeconfig: str | None) -> Access:
    """From a kubeconfig file, or from the pod's ServiceAccount. The token is read again by itself."""
    found = Configuration()
    if kubeconfig is None:
        _load_in_cluster(client_configuration=found)
    else:
        await _load_file(config_file=kubeconfig, client_configuration=found, persist_config=False)
    found.connection_pool_maxsize = POOL
    found.client_session_kwargs = {"trust_env": False}
    return found


def ssl_context(found: Access) -> ssl.SSLContext:
    """As the API client makes it, for the watches' own sessions."""
    context = ssl.create_default_context(cafile=found.ssl_ca_cert, cadata=found.ca_cert_data)
    if found.cert_file:
        context.load_cert_chain(found.cert_file, keyfile=found.key_file)
    if not found.verify_ssl:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return context


class Kube:
    """The calls that the operator makes."""

    def __init__(self, found: Access, measures: metrics.Metrics) -> None:
        self._client: Any = ApiClient(configuration=found)
        self._client.user_agent = f"bema-operator/{VERSION}"
        self._measures = measures

    async def close(self) -> None:
        await self._client.close()

    async def list(self, kind: kinds.Kind, namespace: str | None = None, **query: str) -> list[dict[str, Any]]:
        """All objects of a kind, in pages. `query` may hold `labelSelector` and `fieldSelector`."""
        items: list[dict[str, Any]] = []
        more = ""
        while True:
            paging = {"limit": str(PAGE), **({"continue": more} if more else {})}
            page = await self.call("GET", kind.path(namespace), query={**query, **paging})
            items += page["items"]
            more = page["metadata"].get("continue", "")
            if not more:
                return items

    async def get(self, kind: kinds.Kind, name: str, namespace: str | None = None) -> dict[str, Any]:
        """One object. Raises `Gone` when it does not exist."""
        found: dict[str, Any] = await self.call("GET", kind.path(namespace, name))
        return found

    async def find(self, kind: kinds.Kind, namespace: str, name: str) -> dict[str, Any] | None:
        """One object, with the right to list only; None when it does not exist."""
        items = await self.list(kind, namespace, fieldSelector=f"metadata.name={name}")
        return items[0] if items else None

    async def create(self, kind: kinds.Kind, manifest: Object) -> None:
        """Make an object. Once: should the answer be lost, there may be two."""
        await self.call("POST", kind.path(manifest["metadata"]["namespace"]), body=manifest)
        self._measures.writes.labels(kind.name, "create").inc()

    async def apply(self, kind: kinds.Kind, manifest: Object) -> dict[str, Any]:
        """Server-side apply, as one manager that wins."""
        metadata = manifest["metadata"]
        path = kind.path(metadata["namespace"], metadata["name"])
        found: dict[str, Any] = await self.call("PATCH", path, query=_MANAGER, body=manifest, content_type=_APPLY)
        self._measures.writes.labels(kind.name, "apply").inc()
        return found

    async def apply_status(self, kind: kinds.Kind, namespace: str, name: str, uid: str, status: Object) -> Any:
        """Server-side apply of a status. Raises `Conflict` when the object was made again meanwhile."""
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
        metadata = found["metadata"]
        body = {"preconditions": {"uid": metadata["uid"]}, "propagationPolicy": "Background"}
        try:
            await self.call("DELETE", kind.path(metadata["namespace"], metadata["name"]), body=body)
        except (Gone, Conflict):
            return
        self._measures.writes.labels(kind.name, "delete").inc()

    async def call(
        self,
        method: str,
        path: str,
        *,
        query: Mapping[str, str] | None = None,
        body: Object | None = None,
        content_type: str = "application/json",
    ) -> Any:
        """One request, tried again when nobody answered: all of ours may be repeated. Raises `KubeError`."""
        for pause in (*RETRY_AFTER, None):
            try:
                return await self._once(method, path, query or {}, body, content_type)
            except Unavailable:
                if pause is None:
                    raise
                await asyncio.sleep(pause)
        raise AssertionError("unreachable: the last try returns or raises")

    async def _once(
        self, method: str, path: str, query: Mapping[str, str], body: Object | None, content_type: str
    ) -> Any:
        headers = {"Accept": "application/json", "Content-Type": content_type}
        try:
            request = await self._client.param_serialize(
                method,
                path,
                query_params=list(query.items()),
                header_params=headers,
                body=body,
                auth_settings=["BearerToken"],
            )
            response = await self._client.call_api(*request, _request_timeout=aiohttp.ClientTimeout(total=TIMEOUT))
            data = await response.read()
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise Unavailable(f"{method} {path}: {str(error) or type(error).__name__}") from error
        if response.status >= 400:
            raise _error(method, path, response.status, data)
        return json.loads(data)


def _error(method: str, path: str, code: int, data: bytes) -> KubeError:
    """The API server's answer as one of our errors, with its own sentence."""
    answer = _status_object(data)
    text = f"{answer.get('message') or data[:200].decode(errors='replace')} ({method} {path}: {code})"
    match code:
        case 404 if answer.get("reason") == "NotFound" and (answer.get("details") or {}).get("name"):
            return Gone(text)
        case 409:
            return Conflict(text)
        case 500 if _WRONG_CONTENT.search(text):
            # A wrong content may come back as a server's error: permanent all the same.
            return Refused(text)
        case 401 | 404 | 408 | 429:
            return Unavailable(text)
        case _ if code >= 500:
            return Unavailable(text)
        case _:
            return Refused(text)


def _status_object(data: bytes) -> dict[str, Any]:
    try:
        answer = json.loads(data)
    except ValueError:
        return {}
    return answer if isinstance(answer, dict) and answer.get("kind") == "Status" else {}
