"""The Kubernetes API: one generic call over `kubernetes.aio`'s client. The only module that imports `kubernetes`.

Not the typed API (it loads 150 MiB of models, and sends dicts as strategic merges), nor the dynamic one (it discovers).
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import re
import ssl
from collections.abc import AsyncGenerator, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import aiohttp
from kubernetes.aio.client import ApiClient, Configuration
from kubernetes.aio.config import ConfigException, incluster_config, kube_config

from bema.clusters.errors import Conflict, Expired, Gone, KubeError, NoAccess, Refused, Unavailable
from bema.clusters.kinds import Kind

Object = Mapping[str, Any]

Access = Configuration
"""Where the API server is, and what to present to it."""

# The package says that it is typed, but these are not.
_load_in_cluster: Any = incluster_config.load_incluster_config
_load_file: Any = kube_config.load_kube_config
_load_config: Any = kube_config.load_kube_config_from_dict

TIMEOUT = 20.0
"""How long one answer may take, in seconds."""
PAGE = 500
RETRY_AFTER = (0.2, 1.0)
"""Pauses before the second and third try of a request that nobody answered, in seconds."""

_ANYTHING = "application/json, */*"
_METADATA = "application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1"
_WRONG_CONTENT = re.compile(r"failed to (?:create typed patch object|convert new object|convert merged object)")


@dataclass(frozen=True, slots=True)
class Answer:
    """What the API server, or a pod behind it, answered."""

    data: bytes
    date: str
    """The server's clock as its `Date` header has it; empty when it has none."""


@dataclass(frozen=True, slots=True)
class Listed:
    """All objects of a kind at one moment."""

    items: list[dict[str, Any]]
    version: str
    """Where a watch goes on from."""


async def from_file(kubeconfig: str) -> Access:
    """The current context of a kubeconfig file."""
    found = Configuration()
    await _load_file(config_file=kubeconfig, client_configuration=found, persist_config=False)
    return found


async def from_config(config: Object) -> Access:
    """The current context of a kubeconfig that was read already, its paths absolute. Raises `NoAccess`."""
    found = Configuration()
    with _complaints() as complaints, _presentable("what the kubeconfig presents"):
        await _load_config(config, client_configuration=found)
        ssl_context(found)
    if complaints:
        raise NoAccess("; ".join(complaints))
    return found


def in_cluster() -> Access:
    """The pod's ServiceAccount. Its token is read again by itself. Raises `NoAccess`."""
    found = Configuration()
    with _presentable("the pod's ServiceAccount"):
        _load_in_cluster(client_configuration=found)
    return found


@contextlib.contextmanager
def _presentable(what: str) -> Iterator[None]:
    """The package raises whatever went wrong while it read a file, ran a program or decoded what that said."""
    try:
        yield
    except (ConfigException, OSError, ValueError, KeyError, TypeError) as error:
        raise NoAccess(f"{what} cannot be used: {error}") from error


@contextlib.contextmanager
def _complaints() -> Iterator[list[str]]:
    """What the package only logs, such as a program for credentials that failed: it would go on without any."""
    said: list[str] = []
    handler = logging.Handler(logging.ERROR)
    handler.emit = lambda record: said.append(record.getMessage())  # type: ignore[method-assign]
    logger = logging.getLogger("kubernetes.aio.config.kube_config")
    logger.addHandler(handler)
    before, logger.propagate = logger.propagate, False
    try:
        yield said
    finally:
        logger.removeHandler(handler)
        logger.propagate = before


def ssl_context(found: Access) -> ssl.SSLContext:
    """As the API client makes it, for sessions beside it."""
    context = ssl.create_default_context(cafile=found.ssl_ca_cert, cadata=found.ca_cert_data)
    if found.cert_file:
        context.load_cert_chain(found.cert_file, keyfile=found.key_file)
    if not found.verify_ssl:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return context


class Client:
    """Requests to one API server as one user."""

    def __init__(
        self,
        found: Access,
        *,
        agent: str,
        timeout: float = TIMEOUT,
        pauses: Sequence[float] = RETRY_AFTER,
    ) -> None:
        """`timeout`: seconds for each try; `pauses`: seconds before each further one."""
        self._client: Any = ApiClient(configuration=found)
        self._client.user_agent = agent
        self._timeout = timeout
        self._pauses = pauses

    async def close(self) -> None:
        await self._client.close()

    async def list(self, kind: Kind, namespace: str | None = None, **query: str) -> list[dict[str, Any]]:
        """All objects of a kind, in pages. `query` may hold `labelSelector` and `fieldSelector`."""
        return (await self.listed(kind, namespace, **query)).items

    async def listed(self, kind: Kind, namespace: str | None = None, **query: str) -> Listed:
        """`list`, with where a watch goes on."""
        items: list[dict[str, Any]] = []
        version = ""
        async for page in self.pages(kind, namespace, **query):
            items.extend(page.items)
            version = page.version
        return Listed(items, version)

    async def pages(self, kind: Kind, namespace: str | None = None, **query: str) -> AsyncGenerator[Listed]:
        """`listed`, page by page: for what is not to be in memory all at once."""
        more = ""
        while True:
            paging = {"limit": str(PAGE), **({"continue": more} if more else {})}
            page = await self.call("GET", kind.path(namespace), query={**query, **paging})
            more = page["metadata"].get("continue", "")
            yield Listed(page["items"], page["metadata"].get("resourceVersion", ""))
            if not more:
                return

    async def version(self, kind: Kind, namespace: str | None = None) -> str:
        """Where a watch of a kind begins that shall tell what changes from now on."""
        page = await self.call("GET", kind.path(namespace), query={"limit": "1"})
        return str(page["metadata"]["resourceVersion"])

    async def get(self, kind: Kind, name: str, namespace: str | None = None) -> dict[str, Any]:
        """One object. Raises `Gone` when it does not exist."""
        found: dict[str, Any] = await self.call("GET", kind.path(namespace, name))
        return found

    async def call(
        self,
        method: str,
        path: str,
        *,
        query: Mapping[str, str] | None = None,
        body: Object | None = None,
        content_type: str = "application/json",
    ) -> Any:
        """One request, its answer read as JSON; tried again when nobody answered, so it must be one that may be
        repeated. Raises `KubeError`."""
        answer = await self.ask(method, path, query=query, body=body, content_type=content_type)
        try:
            return json.loads(answer.data)
        except ValueError as error:
            raise Unavailable(f"{method} {path}: expected JSON, found {answer.data[:80]!r}") from error

    async def ask(
        self,
        method: str,
        path: str,
        *,
        query: Mapping[str, str] | None = None,
        body: Object | None = None,
        content_type: str = "application/json",
    ) -> Answer:
        """`call`, with the answer as it came."""
        for pause in (*self._pauses, None):
            try:
                return await self._once(method, path, query or {}, body, content_type)
            except Unavailable:
                if pause is None:
                    raise
                await asyncio.sleep(pause)
        raise AssertionError("unreachable: the last try returns or raises")

    async def _once(
        self, method: str, path: str, query: Mapping[str, str], body: Object | None, content_type: str
    ) -> Answer:
        timeout = aiohttp.ClientTimeout(total=self._timeout)
        try:
            response = await self._send(method, path, query, body, content_type, timeout)
            data = await response.read()
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise Unavailable(f"{method} {path}: {str(error) or type(error).__name__}") from error
        if response.status >= 400:
            raise error_of(method, path, response.status, data)
        return Answer(data, response.headers.get("Date", ""))

    async def _send(
        self,
        method: str,
        path: str,
        query: Mapping[str, str],
        body: Object | None,
        content_type: str,
        timeout: aiohttp.ClientTimeout,
        accept: str = _ANYTHING,
    ) -> Any:
        headers = {"Accept": accept, "Content-Type": content_type}
        request = await self._client.param_serialize(
            method,
            path,
            query_params=list(query.items()),
            header_params=headers,
            body=body,
            auth_settings=["BearerToken"],
        )
        return await self._client.call_api(*request, _request_timeout=timeout)

    async def lines(
        self, path: str, query: Mapping[str, str], *, silence: float | None, only_metadata: bool = False
    ) -> AsyncGenerator[bytes]:
        """The lines of an answer that goes on, as they come, until the server ends it. Raises `Unavailable` when the
        connection is lost, or when nothing came for `silence` seconds. `only_metadata`: of objects, no more than
        that."""
        accept = _METADATA if only_metadata else _ANYTHING
        timeout = aiohttp.ClientTimeout(sock_connect=self._timeout, sock_read=silence)
        try:
            response = await self._send("GET", path, query, None, "application/json", timeout, accept)
            async with contextlib.aclosing(_lines(response, path)) as found:
                async for line in found:
                    yield line
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise Unavailable(f"GET {path}: {str(error) or type(error).__name__}") from error


async def _lines(response: Any, path: str) -> AsyncGenerator[bytes]:
    """Not the stream's own reader of lines, which refuses long ones."""
    try:
        if response.status >= 400:
            raise error_of("GET", path, response.status, await response.read())
        rest = b""
        async for piece in response.response.content.iter_any():
            *whole, rest = (rest + piece).split(b"\n")
            for line in whole:
                yield line
        if rest:
            yield rest
    finally:
        response.response.close()


def error_of(method: str, path: str, code: int, data: bytes) -> KubeError:
    """The API server's answer as one of our errors, with its own sentence."""
    answer = _status_object(data)
    text = f"{answer.get('message') or data[:200].decode(errors='replace')} ({method} {path}: {code})"
    match code:
        case 404 if answer.get("reason") == "NotFound" and (answer.get("details") or {}).get("name"):
            return Gone(text, code)
        case 409:
            return Conflict(text, code)
        case Expired.CODE:
            return Expired(text, code)
        case 500 if _WRONG_CONTENT.search(text):
            # A wrong content may come back as a server's error: permanent all the same.
            return Refused(text, code)
        case 401 | 404 | 408 | 429:
            return Unavailable(text, code)
        case _ if code >= 500:
            return Unavailable(text, code)
        case _:
            return Refused(text, code)


def _status_object(data: bytes) -> dict[str, Any]:
    try:
        answer = json.loads(data)
    except ValueError:
        return {}
    return answer if isinstance(answer, dict) and answer.get("kind") == "Status" else {}
