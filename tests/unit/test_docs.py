"""Docs that name tests name tests that there are."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
LINKS = sorted(set(re.findall(r"\]\((\.\./tests/[^)#]+)#([^)]+)\)", (ROOT / "docs/guarantees.md").read_text())))


def test_the_guarantees_are_linked_to_tests() -> None:
    assert len(LINKS) > 20


@pytest.mark.parametrize(("file", "name"), LINKS)
def test_a_linked_test_exists(file: str, name: str) -> None:
    assert re.search(rf"^(async )?def {name}\(", (ROOT / "docs" / file).read_text(), re.MULTILINE)


@pytest.mark.parametrize("file", sorted(path.name for path in (ROOT / "docs").glob("*.md")))
def test_links_between_pages_lead_somewhere(file: str) -> None:
    for target in re.findall(r"\]\((?!https?:)([^)#]+)", (ROOT / "docs" / file).read_text()):
        assert (ROOT / "docs" / target).exists(), target
