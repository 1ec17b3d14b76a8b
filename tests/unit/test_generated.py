"""What is generated is committed, and is what the models say."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jsonschema_rs
import pytest
from hypothesis import given, settings

from bema.contract.steps import StepSpec
from tests.support import strategies
from tools import gen, vectors


def test_generated_files_are_up_to_date() -> None:
    """If not: `make gen`."""
    assert "".join(gen.changes(gen.ROOT)) == ""


def test_a_change_on_disk_is_shown_as_a_diff(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    gen.write(tmp_path)
    target = tmp_path / "crds/steps.yaml"
    target.write_text(target.read_text(encoding="utf-8").replace("kind: Step\n", "kind: Stop\n"), encoding="utf-8")
    [diff] = gen.changes(tmp_path)
    assert diff.splitlines()[:2] == ["--- crds/steps.yaml (on disk)", "+++ crds/steps.yaml (generated)"]
    assert [line for line in diff.splitlines()[2:] if line[0] in "+-"] == [
        "-    kind: Stop",
        "+    kind: Step",
    ]


def test_writing_twice_writes_once(tmp_path: Path) -> None:
    assert sorted(gen.write(tmp_path)) == sorted(gen.files())
    assert gen.write(tmp_path) == []
    assert gen.changes(tmp_path) == []


def test_a_file_that_nobody_generates_is_named(tmp_path: Path) -> None:
    gen.write(tmp_path)
    (tmp_path / "sdk/contract/vectors/old.json").write_text("{}", encoding="utf-8")
    assert gen.changes(tmp_path) == ["sdk/contract/vectors/old.json: nobody generates this file; remove it\n"]


SCHEMAS = {
    name: jsonschema_rs.validator_for(json.loads(gen.files()[f"sdk/contract/schema/{name}.schema.json"]))
    for name in ("step", "binding")
}


@settings(max_examples=50)
@given(strategies.specs())
def test_the_schema_of_a_step_accepts_what_the_model_accepts(spec: dict[str, Any]) -> None:
    SCHEMAS["step"].validate(spec)
    SCHEMAS["step"].validate(StepSpec.model_validate(spec).dump())


@pytest.mark.parametrize(
    "case",
    [
        pytest.param(case["result"], id=case["id"])
        for case in vectors.all_files()["bindings"]["cases"]
        if "result" in case
    ],
)
def test_the_schema_of_a_binding_accepts_a_binding(case: dict[str, Any]) -> None:
    SCHEMAS["binding"].validate(case)


def test_the_schemas_are_closed() -> None:
    assert not SCHEMAS["step"].is_valid({"trigers": []})
    assert not SCHEMAS["binding"].is_valid({})
