"""`python -m tests.support.skews …`: a worker whose clock is wrong by `BEMA_TEST_SKEW` seconds, and from the moment on
at which there is a file `BEMA_TEST_JUMP`, by as many more as it says. From `BEMA_TEST_SLEEP` on, its machine has slept
for so long: the clock that nobody sets has lost that time.

The product has no hook for it: the clock is replaced before anything of the runtime is imported.
"""

from __future__ import annotations

import os
import runpy
import time
import types
from collections.abc import Callable
from pathlib import Path

VARIABLE = "BEMA_TEST_SKEW"
JUMP = "BEMA_TEST_JUMP"
SLEEP = "BEMA_TEST_SLEEP"


def main() -> None:
    skew, right = float(os.environ.get(VARIABLE, "0")), time.time
    jump, sleep = _seconds(JUMP), _seconds(SLEEP)
    time.time = lambda: right() + skew + jump()
    from bema.ports import clocks

    # Not for everybody: the event loop, too, would be asleep
    monotonic = time.monotonic
    slept = types.SimpleNamespace(time=time.time, monotonic=lambda: monotonic() - sleep())
    vars(clocks)["time"] = slept
    runpy.run_module("bema_runtime", run_name="__main__", alter_sys=True)


def _seconds(variable: str) -> Callable[[], float]:
    """What the file says that a variable names; 0 while there is none."""
    file = Path(os.environ.get(variable, "/nowhere"))
    return lambda: float(file.read_text()) if file.exists() else 0.0


if __name__ == "__main__":
    main()
