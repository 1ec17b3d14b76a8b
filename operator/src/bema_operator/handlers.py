"""The doors: what Kubernetes tells us goes into the cache, and the Step or App concerned into its queue. Nothing else
happens here, and with handlers of raw events only, kopf itself writes nothing on any object."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import kopf

from bema.contract import names
from bema_operator import caches, kinds, watches
from bema_operator.facts import Key
from bema_operator.watches import WATCHED


@dataclass(frozen=True, slots=True)
class Doors:
    """Where the handlers lead."""

    cache: caches.Cache
    entrance: watches.Entrance
    ear: watches.Ear
    news: Callable[[kinds.Kind, Key], None]
    """Something is new about an object of that kind, which concerns this Step or App."""
    relisted: Callable[[kinds.Kind], None]
    """kopf has listed a kind again: it does not say what was deleted meanwhile."""


def registry(doors: Doors, watched: Sequence[kinds.Kind] = WATCHED) -> kopf.OperatorRegistry:
    """kopf's handlers: how to log in, what to set, and one door for every kind that is watched."""
    found = kopf.OperatorRegistry()
    kopf.on.login(registry=found, id="login")(_login(doors))
    kopf.on.startup(registry=found, id="configure")(configure)
    for kind in watched:
        kopf.on.event(kind.group, kind.version, kind.plural, registry=found, id=kind.plural)(_door(doors, kind))
    return found


def _login(doors: Doors) -> Any:
    async def login(**_: Any) -> kopf.AiohttpSession:
        return await doors.entrance.log_in()

    return login


def _door(doors: Doors, kind: kinds.Kind) -> Any:
    async def door(event: kopf.RawEvent, **_: Any) -> None:
        doors.ear.hear(kind.plural)
        found: Any = event["object"]
        key = doors.cache.drop(kind, found) if event["type"] == "DELETED" else doors.cache.put(kind, found)
        if event["type"] is None:
            doors.relisted(kind)
        if key is not None:
            doors.news(kind, key)

    return door


async def configure(settings: kopf.OperatorSettings, **_: Any) -> None:
    """No events on objects, no peers, no look at CRDs or namespaces; children selected by the server; never give up."""
    settings.posting.enabled = False
    settings.peering.standalone = True
    settings.scanning.disabled = True
    settings.queueing.idle_timeout = 0.5
    settings.watching.server_timeout = watches.WATCH_SECONDS
    settings.watching.connect_timeout = 10
    settings.networking.request_timeout = 60
    settings.networking.connect_timeout = 10
    settings.networking.error_backoffs = watches.Endless()
    for kind in kinds.CHILDREN:
        settings.watching.label_selectors[kind.group, kind.version, kind.plural] = names.LABEL_STEP
