"""Discovery in a process of its own: `python -m bema_cli.discovery FOLDER` loads the Steps and writes what it found.

Each line of the answer is a JSON object: `{"loading": FILE}` before a file is executed, so that whoever waits knows
which one ended the process or keeps it busy, and `{"discovery": …}` at the end. Whatever the files print goes to
standard error.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from bema import discoveries
from bema.discoveries import Discovery, Problem
from bema_cli import manifests, processes

SECONDS = 15.0
"""How long all files of a folder may take to load."""


async def discover(folder: Path, env: Mapping[str, str], *, seconds: float = SECONDS) -> Discovery:
    """What is in an app's folder. A file that ends the process or takes too long is a problem of that file; the others
    are then loaded without it."""
    without: list[str] = []
    failures: list[Problem] = []
    while True:
        found = await _attempt(folder, env, without, seconds=seconds)
        if isinstance(found, Discovery):
            return discoveries.merge(found.steps, [*found.problems, *failures], found.app)
        failures.append(found)
        if not found.step_file or found.step_file in without:
            return discoveries.merge([], failures)
        without.append(found.step_file)


async def _attempt(
    folder: Path, env: Mapping[str, str], without: Sequence[str], *, seconds: float
) -> Discovery | Problem:
    """What one process finds; the problem of the file that kept it from telling."""
    command = [sys.executable, "-P", "-m", __name__, str(folder), *without]
    # With one seed, a set in a config is written in the same order each time.
    own = {"PYTHONDONTWRITEBYTECODE": "1", "PYTHONUNBUFFERED": "1", "PYTHONHASHSEED": "0"}
    fresh = {**env, **own}
    child = await processes.start(command, env=fresh, cwd=folder, capture_errors=True)
    reading = asyncio.ensure_future(child.communicate())
    try:
        await asyncio.wait([reading], timeout=seconds)
        timed_out = not reading.done()
        if timed_out:
            child.kill()
        output, noise = await reading
    finally:
        child.kill()
    loading, discovery = _parse(output)
    return discovery or _failure(loading, child.returncode, noise, seconds if timed_out else None)


def _parse(output: bytes) -> tuple[str, Discovery | None]:
    loading = ""
    for line in output.splitlines():
        try:
            message: Any = json.loads(line)
        except ValueError:
            # It was ended in the middle of a line.
            break
        if "discovery" in message:
            return "", Discovery.model_validate(message["discovery"])
        loading = message["loading"]
    return loading, None


def _failure(loading: str, returncode: int | None, noise: bytes, seconds: float | None) -> Problem:
    if seconds is not None:
        what = f"expected its modules to load within {seconds:g} s, found them still running"
    else:
        what = f"expected its modules to load, found the process ended by them ({processes.ending(returncode)})"
    lines = noise.decode("utf-8", "replace").strip().splitlines()
    last = f": {lines[-1]}" if lines else ""
    return Problem(file=loading or ".", message=what + last, step_file=loading)


def main() -> None:
    """Load the Steps of the folder named by the first argument, but for the files named by the others."""
    folder = Path(sys.argv[1])
    answer = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)

    def tell(message: Mapping[str, Any]) -> None:
        answer.write(json.dumps(message) + "\n")
        answer.flush()

    found = discoveries.discover(folder, loading=lambda file: tell({"loading": file}), without=frozenset(sys.argv[2:]))
    more, problems = manifests.read_all(folder)
    app, amiss = manifests.read_app(folder)
    merged = discoveries.merge([*found.steps, *more], [*found.problems, *problems, *amiss], app)
    tell({"discovery": merged.model_dump(mode="json", by_alias=True, exclude_unset=True)})
    sys.stderr.flush()
    # Threads that a module started at import would keep the process.
    os._exit(0)


if __name__ == "__main__":
    main()
