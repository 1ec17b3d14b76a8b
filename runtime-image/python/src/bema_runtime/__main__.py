"""`python -m bema_runtime --binding FILE…`: execute Steps. Reads its Bindings and nothing else."""

from __future__ import annotations

import argparse
import logging
import os
import sys
from pathlib import Path

import uvloop

from bema.contract import bindings, errors
from bema_runtime import logs
from bema_runtime.processes import Process

log = logging.getLogger("bema_runtime")


def main() -> int:
    """The exit code: 0 after a clean stop, 1 when a Binding, a handler or a port cannot be used, 70 when a handler
    could not be stopped or has left its loop, 75 when a cron run was stopped before its end, 76 when the app's stream
    was made anew."""
    parser = argparse.ArgumentParser(prog="bema-runtime", description="Executes Steps as their Bindings say.")
    parser.add_argument("--binding", action="append", required=True, type=Path, metavar="FILE", help="a Binding, JSON")
    parser.add_argument("--once", action="store_true", help="make one run of a cron Step, then exit")
    arguments = parser.parse_args()
    # A handler that computes must not keep the engine, which only needs moments, waiting for 5 ms each time
    sys.setswitchinterval(0.0005)
    logs.configure()
    try:
        return uvloop.run(_run(arguments.binding, once=arguments.once))
    except (errors.Invalid, OSError) as error:
        log.error("%s", error)
        return 1


async def _run(files: list[Path], *, once: bool) -> int:
    process = Process([bindings.read(file.read_bytes(), where=str(file)) for file in files])
    return await (process.once() if once else process.serve())


if __name__ == "__main__":
    code = main()
    sys.stdout.flush()
    # A plain handler that still runs in its thread would keep the interpreter from leaving
    os._exit(code)
