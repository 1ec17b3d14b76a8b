"""Taking a cluster down by its journal: everything that it made, and nothing else. Works after any crash."""

import shutil
from pathlib import Path
from typing import assert_never

from tools.cluster import cgroups, errors, journals, links, locks, names, paths, processes, stages


def down(name: str) -> bool:
    """Take the cluster down; whether there was one. A second call finishes what a first one left undone."""
    layout = paths.layout(names.checked(name))
    if not layout.root.is_dir():
        return False
    with locks.cluster(layout):
        journals.discard_draft(layout.journal)
        if not layout.journal.exists():
            return False
        with stages.stage(f"cluster {name} down"):
            remove(layout)
    return True


def remove(layout: paths.Layout) -> None:
    """Undo the journal, newest entry first, and remove it in the end. The caller holds the cluster's lock."""
    journal = journals.Journal.read(layout.journal)
    if journal is None:
        return
    entries = list(journal.newest_first())
    # First of all the processes, all boxes at once: they hold the rest.
    processes.kill(entry.mark for entry in entries if isinstance(entry, journals.Box))
    for entry in entries:
        _undo(entry, layout)
    journal.remove()


def _undo(entry: journals.Entry, layout: paths.Layout) -> None:
    match entry:
        case journals.Route():
            links.remove_route(entry)
        case journals.Link():
            links.remove(entry)
        case journals.Cgroup(name):
            cgroups.remove(name)
        case journals.Box():
            pass  # ended already
        case journals.Folder(path):
            _remove_folder(Path(path), layout)
        case _:
            assert_never(entry)


def _remove_folder(folder: Path, layout: paths.Layout) -> None:
    if folder != layout.folder:
        raise errors.Refused(
            f"the journal {layout.journal} names {folder}, not {layout.folder}; nothing was removed there"
        )
    if not folder.exists():
        return
    mounted = [line.split()[4] for line in Path("/proc/self/mountinfo").read_text().splitlines()]
    inside = [point for point in mounted if point == str(folder) or point.startswith(f"{folder}/")]
    if inside:
        raise errors.Refused(f"something is mounted on {inside[0]} that this cluster did not mount; unmount it first")
    shutil.rmtree(folder)
