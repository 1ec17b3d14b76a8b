"""The journal: what was written is read back, whenever its writer died; and what is read may be undone safely."""

import os
from pathlib import Path

import pytest

from tools.cluster import errors, journals, paths, removals

HEADER = journals.Header(name="dev", identity="ab" * 16, block="10.160.0.0/16", nodes=1)
ENTRIES: list[journals.Entry] = [
    journals.Folder("/var/tmp/x"),
    journals.Link("bm-dev", "02:00:00:00:00:01"),
    journals.Cgroup("bema-dev-abababab"),
    journals.Box("BEMA_BOX=1.1"),
    journals.Route("10.160.64.0/18", "10.160.0.2", "bm-dev"),
]


def filled(path: Path) -> journals.Journal:
    journal = journals.Journal.create(path, HEADER)
    for entry in ENTRIES:
        journal.record(entry)
    return journal


def test_a_journal_is_read_back_newest_first(tmp_path: Path) -> None:
    filled(tmp_path / "dev.journal")
    journal = journals.Journal.read(tmp_path / "dev.journal")
    assert journal is not None
    assert journal.header == HEADER
    assert list(journal.newest_first()) == ENTRIES[::-1]


def test_whatever_is_cut_off_is_one_entry_at_most(tmp_path: Path) -> None:
    path = tmp_path / "dev.journal"
    filled(path)
    whole = path.read_bytes()
    first_line = whole.index(b"\n") + 1
    for length in range(first_line, len(whole)):
        path.write_bytes(whole[:length])
        journal = journals.Journal.read(path)
        assert journal is not None
        complete = whole[first_line:length].count(b"\n")
        assert list(journal.newest_first()) == ENTRIES[:complete][::-1]


def test_there_is_no_journal_before_the_first_up_nor_after_down(tmp_path: Path) -> None:
    path = tmp_path / "clusters" / "dev.journal"
    assert journals.Journal.read(path) is None
    filled(path).remove()
    assert journals.Journal.read(path) is None
    assert os.listdir(path.parent) == []


def test_a_second_journal_for_a_cluster_is_refused_and_the_first_one_stays(tmp_path: Path) -> None:
    path = tmp_path / "dev.journal"
    filled(path)
    before = path.read_bytes()
    with pytest.raises(errors.Refused, match="cluster dev was not taken down"):
        journals.Journal.create(path, HEADER)
    assert path.read_bytes() == before


def test_down_does_not_follow_a_journal_to_another_folder(tmp_path: Path) -> None:
    precious = tmp_path / "precious"
    precious.mkdir()
    layout = paths.Layout(tmp_path / "clusters", "dev")
    journals.Journal.create(layout.journal, HEADER).record(journals.Folder(str(precious)))
    with pytest.raises(errors.Refused, match="nothing was removed there"):
        removals.remove(layout)
    assert precious.is_dir()


def test_down_of_a_journal_whose_folder_was_never_made_removes_the_journal(tmp_path: Path) -> None:
    layout = paths.Layout(tmp_path / "clusters", "dev")
    journals.Journal.create(layout.journal, HEADER).record(journals.Folder(str(layout.folder)))
    removals.remove(layout)
    assert not layout.journal.exists()
