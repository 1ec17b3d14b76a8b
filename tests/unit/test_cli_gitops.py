"""What `bema render` writes belongs in git: the same bytes each time, whole or not at all, and readable for Helm."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from bema_cli import manifests
from bema_cli.application import app
from bema_cli.manifests import Reader

ORDERS = Path(__file__).parents[2] / "examples/orders"
TEMPLATED = """\
config = {"triggers": [{"event": {"topics": {"d.e", "a.b", "c.d", "b.c"}}}]}

def handler(event):
    return "{{ .Values.name }} {{- x }}} ${HOME} ☃"
"""

WORLDS = {
    "another hash seed and no locale": {
        "PYTHONHASHSEED": "1",
        "LC_ALL": "C",
        "PYTHONUTF8": "0",
        "PYTHONCOERCECLOCALE": "0",
    },
    "a third hash seed, another encoding, zone and width": {
        "PYTHONHASHSEED": "2",
        "PYTHONIOENCODING": "latin-1",
        "TZ": "Asia/Kolkata",
        "COLUMNS": "40",
    },
}


def rendered(folder: Path, *options: str, **env: str) -> bytes:
    command = [sys.executable, "-m", "bema_cli", "render", str(folder), *options]
    return subprocess.run(command, capture_output=True, env={**os.environ, **env}, check=True).stdout


@pytest.fixture(scope="module")
def orders() -> bytes:
    return rendered(ORDERS)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "steps").mkdir()
    (tmp_path / "steps/a_step.py").write_text(TEMPLATED, "utf-8")
    return tmp_path


@pytest.mark.parametrize("world", WORLDS.values(), ids=WORLDS)
def test_orders_are_the_same_bytes(orders: bytes, world: dict[str, str]) -> None:
    assert rendered(ORDERS, **world) == orders


def test_orders_are_in_the_order_of_their_names(orders: bytes) -> None:
    names = [item["metadata"]["name"] for item in yaml.safe_load_all(orders)]
    assert names == sorted(names)
    assert len(names) == 7


def test_a_set_in_a_config_and_text_outside_ascii_are_the_same_bytes(folder: Path) -> None:
    first = rendered(folder)
    assert "☃".encode() in first
    assert [name for name, world in WORLDS.items() if rendered(folder, **world) != first] == []


def test_json_is_utf_8_whatever_the_encoding(folder: Path) -> None:
    [step] = json.loads(rendered(folder, "--json", PYTHONIOENCODING="latin-1"))["items"]
    assert step["spec"]["code"]["inline"] == {"steps/a_step.py": TEMPLATED}


def test_a_manifest_has_nothing_that_only_a_cluster_knows(orders: bytes) -> None:
    for item in yaml.safe_load_all(orders):
        assert item.keys() == {"apiVersion", "kind", "metadata", "spec"}
        assert item["metadata"].keys() == {"name"}


def test_a_file_is_written_whole_or_left_as_it_was(folder: Path) -> None:
    file = folder / "steps.yaml"
    arguments = ["render", str(folder), "--output", str(file)]
    assert CliRunner().invoke(app, arguments).exit_code == 0
    before = file.read_bytes()
    assert before == rendered(folder)
    (folder / "steps/b_step.py").write_text("import no_such_package\n", "utf-8")
    assert CliRunner().invoke(app, arguments).exit_code == 1
    assert file.read_bytes() == before
    assert sorted(path.name for path in folder.iterdir()) == ["steps", "steps.yaml"]


def test_a_file_that_cannot_be_written_is_said(folder: Path) -> None:
    result = CliRunner().invoke(app, ["render", str(folder), "--output", str(folder / "none/steps.yaml")])
    assert result.exit_code == 1
    assert "No such file or directory" in result.stderr


def executed(template: str) -> str:
    """A Go template as its engine would write it, of those whose only actions are texts in quotes. That the engine
    itself agrees is a test with a real kubectl, in e2e."""

    def action(found: re.Match[str]) -> str:
        text = re.fullmatch(r'"([^"\\]*)"', found[1])
        assert text, f"expected an action that is a text, found {found[0]!r}"
        return text[1]

    written = re.sub(r"{{(.*?)}}", action, template, flags=re.DOTALL)
    # Where an action begins and does not end, the engine refuses the template.
    assert template.count("{{") == len(re.findall(r"{{.*?}}", template, flags=re.DOTALL)) * 2
    return written


def test_helm_finds_the_code_as_it_was(folder: Path) -> None:
    plain, template = rendered(folder).decode(), rendered(folder, "--for", "helm").decode()
    assert "{{ .Values.name }} {{- x }}} ${HOME}" in plain
    assert '{{"{{"}} .Values.name }} {{"{{"}}- x }}} ${HOME}' in template
    assert executed(template) == plain


@given(st.text(alphabet='{}-"% a\n', max_size=40))
def test_whatever_the_code_helm_finds_it_as_it_was(text: str) -> None:
    assert executed(manifests.escaped(text, Reader.HELM)) == text


def test_without_braces_a_manifest_is_a_template_as_it_is(orders: bytes) -> None:
    assert manifests.escaped(orders.decode(), Reader.HELM).encode() == orders
