"""The loss of an app's stream is said and counted once for each new stream, however many Steps tell of it."""

from __future__ import annotations

from typing import Any

import pytest

from bema_operator import metrics
from bema_operator.facts import Facts, Key, Subject, Subscription
from bema_operator.settings import Settings
from tests.support import operator_parts


class Api:
    """Keeps what Events it is asked to make."""

    def __init__(self) -> None:
        self.told: list[tuple[str, str]] = []

    async def create(self, kind: object, manifest: dict[str, Any]) -> None:
        self.told.append((manifest["involvedObject"]["name"], manifest["reason"]))


def seen(step: str, *, known: str = "2026-01-01T00:00:00.1Z", created: str) -> Facts:
    subject = Subject(
        key=Key("shop", step), uid="u", generation=1, created="", deleting=False, status={"streamCreated": known}
    )
    return Facts(subject=subject, spec=None, subscription=Subscription(created=created))


async def test_once_for_each_stream(caplog: pytest.LogCaptureFixture) -> None:
    nobody: Any = None
    api: Any = Api()
    measures = metrics.Metrics()
    reconciler = operator_parts.reconciler(Settings(), nobody, api, nobody, measures)
    for created in ("2026-02-01T12:00:00.5Z", "2026-02-01T13:00:00.5Z"):
        for step in ("a", "b", "a"):
            await reconciler._note_loss(seen(step, created=created))
    await reconciler._note_loss(seen("c", created="2026-01-01T00:00:00.1Z"))
    await reconciler._note_loss(seen("d", created="2026-01-20T00:00:00.1Z"))
    assert measures.registry.get_sample_value("bema_operator_streams_lost_total", {"app": "shop"}) == 2
    assert api.told == [("a", "BrokerDataLost")], "the second within ten minutes"
    assert [record.levelname for record in caplog.records] == ["ERROR", "ERROR"]
