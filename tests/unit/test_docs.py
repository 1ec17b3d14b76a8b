"""Docs that name tests name tests that there are, and links between pages lead somewhere."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

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


def _manifests() -> list[dict[str, Any]]:
    """What docs/gitops.md gives to Argo CD and Flux."""
    text = (ROOT / "docs/gitops.md").read_text("utf-8")
    found = [item for block in re.findall(r"```yaml\n(.*?)```", text, re.DOTALL) for item in yaml.safe_load_all(block)]
    return [item for item in found if "spec" in item]


def _path(manifest: dict[str, Any]) -> str:
    spec = manifest["spec"]
    return str(spec.get("path") or spec["source"]["path"]).removeprefix("./")


def test_gitops_leads_to_the_folders_that_it_shows() -> None:
    [shown] = re.findall(r"## Folders\n\n```\n(.*?)```", (ROOT / "docs/gitops.md").read_text("utf-8"), re.DOTALL)
    folders = {line.split()[0].rstrip("/") for line in shown.splitlines()}
    assert [_path(item) for item in _manifests() if _path(item) not in folders] == []


def test_gitops_never_prunes_the_crd_and_always_applies_server_side() -> None:
    kinds = []
    for item in _manifests():
        spec, kind = item["spec"], item["kind"]
        kinds.append(kind)
        has_crd = _path(item) in ("platform", "platform/crds")
        if kind == "Application":
            assert spec["syncPolicy"]["automated"].get("prune", False) is not has_crd
            assert "ServerSideApply=true" in spec["syncPolicy"]["syncOptions"]
        else:
            assert spec["prune"] is not has_crd
            assert spec["wait"] is True
    assert kinds == ["Application"] * 2 + ["Kustomization"] * 3
