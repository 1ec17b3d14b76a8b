"""`python -m tests.support.skews …`: a worker whose clock is wrong by `BEMA_TEST_SKEW` seconds.

The product has no hook for it: the clock is replaced before anything of the runtime is imported.
"""

from __future__ import annotations

import os
import runpy
import time

VARIABLE = "BEMA_TEST_SKEW"


def main() -> None:
    skew, right = float(os.environ[VARIABLE]), time.time
    time.time = lambda: right() + skew
    runpy.run_module("bema_runtime", run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
