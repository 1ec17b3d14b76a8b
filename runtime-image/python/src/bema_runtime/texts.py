"""Text of what user code made: its `__str__` may raise, and what that gives may be no Unicode."""

from __future__ import annotations

from collections.abc import Callable


def made(make: Callable[[object], str], of: object) -> str:
    """What `str` or `repr` makes of a thing. Never raises: who asks for it has to go on."""
    try:
        return unicode(make(of))
    except BaseException:  # noqa: BLE001 - of any kind
        return "(its text cannot be made)"


def unicode(text: str) -> str:
    """Text that UTF-8 can carry: a lone surrogate is written out."""
    return text.encode("utf-8", "backslashreplace").decode()
