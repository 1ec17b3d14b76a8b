"""A client for the API server, small enough to stay in a box: JSON in, JSON out, and watches. Standard library only."""

import http.client
import json
import ssl
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

Json = dict[str, Any]


class ApiError(Exception):
    """The server refused, or did not answer. `code` is its HTTP status, 0 when there was no answer."""

    def __init__(self, code: int, message: str) -> None:
        super().__init__(message)
        self.code = code


@dataclass(frozen=True)
class Api:
    """One identity at one server. The certificate authority is the cluster's own, so no other server can answer."""

    server: str
    authority: Path
    certificate: Path
    key: Path

    def get(self, path: str, *, seconds: float = 10) -> Json:
        return self.request("GET", path, seconds=seconds)

    def request(self, method: str, path: str, body: Json | None = None, *, seconds: float = 10) -> Json:
        """One request. Raises `ApiError`; its message is the server's own when there is one."""
        connection = self._connection(seconds)
        try:
            answer = self._send(connection, method, path, body)
            text = answer.read()
        except (OSError, http.client.HTTPException) as broken:
            raise ApiError(0, f"{method} {self.server}{path}: {broken}") from broken
        finally:
            connection.close()
        content: Json = _parsed(text)
        if answer.status >= 400:
            raise ApiError(answer.status, f"{method} {path}: {content.get('message', text[:300])}")
        return content

    def watch(self, path: str, *, seconds: int = 240) -> Iterator[Json]:
        """The events of a watch, beginning with what exists, until the server ends it after `seconds`."""
        connection = self._connection(seconds + 30)
        try:
            answer = self._send(connection, "GET", f"{path}?watch=1&timeoutSeconds={seconds}", None)
            if answer.status >= 400:
                raise ApiError(answer.status, f"watch {path}: {answer.read()[:300]!r}")
            for line in answer:
                yield json.loads(line)
        except (OSError, http.client.HTTPException, ValueError) as broken:
            raise ApiError(0, f"watch {path}: {broken}") from broken
        finally:
            connection.close()

    def _connection(self, seconds: float) -> http.client.HTTPSConnection:
        context = ssl.create_default_context(cafile=str(self.authority))
        context.load_cert_chain(str(self.certificate), str(self.key))
        # Straight to the address: proxies of the environment are not for the cluster.
        return http.client.HTTPSConnection(urlsplit(self.server).netloc, timeout=seconds, context=context)

    def _send(
        self, connection: http.client.HTTPSConnection, method: str, path: str, body: Json | None
    ) -> http.client.HTTPResponse:
        data = json.dumps(body) if body is not None else None
        headers = {"Accept": "application/json", "User-Agent": "bema-test-cluster"}
        if data is not None:
            headers["Content-Type"] = "application/json"
        connection.request(method, path, data, headers)
        return connection.getresponse()


def _parsed(text: bytes) -> Json:
    """JSON as it is; the plain text of health endpoints as `{"text": …}`."""
    try:
        content = json.loads(text)
    except ValueError:
        return {"text": text.decode(errors="replace")}
    return content if isinstance(content, dict) else {"text": text.decode(errors="replace")}
