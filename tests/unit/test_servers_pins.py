"""The newest server that our facts are tested against is the one that is pinned, the minimum is among them, and
docs/broker.md says of each fact where it is tested."""

from pathlib import Path

from bema.ports import admin
from tools import servers

ROOT = Path(__file__).resolve().parents[2]
DOCS = (ROOT / "docs/broker.md").read_text("utf-8")


def test_the_newest_is_the_pinned_one() -> None:
    assert f"{servers.WHEEL}=={servers.NEWEST}" in (ROOT / "constraints.txt").read_text("utf-8").splitlines()


def test_the_minimum_is_tested_and_so_is_one_before() -> None:
    versions = [tuple(map(int, version.split("."))) for version in servers.VERSIONS]
    assert admin.MINIMUM_SERVER in versions
    assert min(versions) < admin.MINIMUM_SERVER


def test_the_docs_name_each_version_and_each_file_of_facts() -> None:
    files = sorted((ROOT / "tests/facts").glob("test_*.py"))
    assert [name for name in (*servers.VERSIONS, *(file.name for file in files)) if name not in DOCS] == []
