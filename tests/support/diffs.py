"""`kubectl diff`, where an operator may write a status between its two reads."""

from __future__ import annotations

from collections.abc import Callable

from tests.support import waits
from tools.cluster import errors


def until_nothing_differs(kubectl: Callable[..., str], *arguments: str, input: str | None = None) -> None:
    """Until the diff shows nothing; what belongs to the manifests differs each time, and fails."""
    shown = [""]

    def shows_nothing() -> bool:
        try:
            shown[0] = kubectl("diff", *arguments, input=input)
        except errors.CommandFailed as error:
            shown[0] = str(error)
        return not shown[0]

    waits.until_sync(shows_nothing, "a diff that shows nothing", timeout=60, explain=lambda: shown[0])
