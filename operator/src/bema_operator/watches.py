"""How kopf reaches the API server, and how we notice that it has gone deaf. Uses kopf as a transport only.

kopf stayed alive and deaf once. Its watch requests end after `WATCH_SECONDS` and begin again, so a kind of which
neither an event nor the answer to a new request was heard for `DEAF_SECONDS` has a watch that is dead.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterator

import aiohttp
import kopf

from bema.contract import names
from bema_operator import kinds, kube

log = logging.getLogger(__name__)

WATCH_SECONDS = 100
DEAF_SECONDS = 180.0
LOGIN_PAUSE = 2.0
"""Between two logins, or a token that is refused would be presented without end."""

WATCHED = (kinds.STEP, kinds.APP, *kinds.CHILDREN)


class Endless:
    """Pauses between tries, for ever: a list would end, and with it the process after a minute of errors."""

    def __iter__(self) -> Iterator[float]:
        yield from (0.2, 0.5, 1.0, 2.0, 5.0)
        while True:
            yield 10.0


class Ear:
    """When each kind was last heard of."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._heard = {kind.plural: clock() for kind in WATCHED}

    def hear(self, plural: str) -> None:
        if plural in self._heard:
            self._heard[plural] = self._clock()

    def ignore(self, plural: str) -> None:
        """A kind that is not watched."""
        self._heard.pop(plural, None)

    def deaf(self) -> list[str]:
        """Kinds that were not heard of for too long."""
        now = self._clock()
        return [plural for plural, when in self._heard.items() if now - when > DEAF_SECONDS]


class Entrance:
    """Sessions for kopf, with the same credentials as our own client's."""

    def __init__(self, found: kube.Access, ear: Ear) -> None:
        self._found = found
        self._ear = ear
        self._used = False

    async def log_in(self) -> kopf.AiohttpSession:
        """A new session: also when the old one was refused, as a token may have been replaced in its file."""
        if self._used:
            await asyncio.sleep(LOGIN_PAUSE)
        self._used = True
        connector = aiohttp.TCPConnector(limit=0, ssl=kube.ssl_context(self._found))
        session = aiohttp.ClientSession(
            connector=connector,
            headers={"User-Agent": f"{names.FIELD_MANAGER}-watch"},
            trust_env=False,
            middlewares=[self._attend],
        )
        return kopf.AiohttpSession(server=str(self._found.host), aiohttp_session=session)

    async def _attend(
        self, request: aiohttp.ClientRequest, handler: aiohttp.ClientHandlerType
    ) -> aiohttp.ClientResponse:
        """Present the current token, and note the answers to watch requests."""
        settings = await self._found.auth_settings()
        if "BearerToken" in settings:
            request.headers["Authorization"] = str(settings["BearerToken"]["value"])
        response = await handler(request)
        if response.status == 200 and request.url.query.get("watch") == "true":
            self._ear.hear(request.url.path.rsplit("/", 1)[-1])
        return response
