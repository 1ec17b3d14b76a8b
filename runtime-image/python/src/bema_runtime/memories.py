"""The garbage collector of a process that has loaded what it needs."""

from __future__ import annotations

import gc


def settle() -> None:
    """What was imported stays: keep the garbage collector from walking it again and again, and let it come after tens
    of thousands of new objects instead of hundreds, of which each run makes dozens."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 20, 50)
