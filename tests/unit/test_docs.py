"""Docs that name tests name tests that there are, and links between pages lead somewhere."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGES = [*sorted((ROOT / "docs").glob("*.md")), *sorted(ROOT.glob("*.md")), ROOT / "deploy/README.md"]
TESTS = re.compile(r"\]\(([^)#]*\btests/[^)#]+\.py)(?:#([^)]+))?\)")
"""A link to a test: its file and its name."""


def _tests(page: Path) -> set[tuple[Path, str]]:
    return {(page.parent / file, name) for file, name in TESTS.findall(page.read_text("utf-8"))}


LINKS = sorted(set().union(*map(_tests, PAGES)))


def test_the_guarantees_are_linked_to_tests() -> None:
    assert len(_tests(ROOT / "docs/guarantees.md")) > 20


@pytest.mark.parametrize(("file", "name"), [pytest.param(*link, id=f"{link[0].name}-{link[1]}") for link in LINKS])
def test_a_linked_test_exists(file: Path, name: str) -> None:
    assert re.search(rf"^(async )?def {name}\(", file.read_text("utf-8"), re.MULTILINE)


@pytest.mark.parametrize("page", [pytest.param(page, id=str(page.relative_to(ROOT))) for page in PAGES])
def test_links_between_pages_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\((?!https?:)([^)#]+)", page.read_text("utf-8")):
        assert (page.parent / target).exists(), target
