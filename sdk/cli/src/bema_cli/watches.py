"""Changes of files that may matter to an app, as they happen."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path

import watchfiles

from bema import discoveries

_SUFFIXES = (".py", ".step.yaml", ".step.yml", ".step.ts", ".step.js", ".stream.ts", ".stream.js")
_NAMES = frozenset({".env", "app.yaml", "app.yml"})


def matters(change: watchfiles.Change, path: str) -> bool:
    """Whether a changed path may change what an app is: its sources, `.env`, or a folder that came or went."""
    file = Path(path)
    if file.name in _NAMES or file.name.endswith(_SUFFIXES):
        return True
    if file.name.startswith((".", "__pycache__")):
        return False
    return file.is_dir() or (change is watchfiles.Change.deleted and not file.suffix)


class Watch:
    """Watches an app's folder, each folder in it by itself: a recursive watch would take in virtual environments."""

    def __init__(self, folder: Path, changed: Callable[[], None]) -> None:
        self._folder = folder
        self._changed = changed
        self._polling = False
        self._watching = asyncio.Event()
        self._task = asyncio.create_task(self._run(), name="watch")

    async def wait_watching(self) -> bool:
        """Return once no change can be missed any more: whether the system tells of them, instead of being asked."""
        await self._watching.wait()
        return not self._polling

    async def stop(self) -> None:
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)

    async def _run(self) -> None:
        while True:
            try:
                await self._until_folders_change(list(discoveries.folders(self._folder)))
            except FileNotFoundError:
                # A folder went while its watch was made.
                continue
            except (OSError, RuntimeError):
                if self._polling:
                    raise
                # The system's limit of watches, for one.
                self._polling = True

    async def _until_folders_change(self, folders: list[Path]) -> None:
        changes = watchfiles.awatch(
            *folders,
            watch_filter=matters,
            recursive=False,
            debounce=400,
            step=50,
            force_polling=self._polling or None,
            ignore_permission_denied=True,
        )
        coming = asyncio.ensure_future(anext(changes))
        try:
            # One turn of the loop: the watches are in place, or refused, before it waits for the first change.
            await asyncio.sleep(0)
            if coming.done():
                coming.result()
            if self._watching.is_set():
                # What happened in a new folder before it was watched.
                self._changed()
            self._watching.set()
            while True:
                await coming
                self._changed()
                if set(discoveries.folders(self._folder)) != set(folders):
                    return
                coming = asyncio.ensure_future(anext(changes))
        finally:
            coming.cancel()
            await asyncio.gather(coming, return_exceptions=True)
            await changes.aclose()
