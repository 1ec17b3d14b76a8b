"""Reading a Step file's sources, and finding the Steps of a folder."""

from pathlib import Path

import pytest

from bema import discoveries, sources
from bema.contract import errors
from bema.discoveries import Found, Problem

MINIMAL = 'config = {"triggers": [{"event": {"topics": ["a"]}}]}\ndef handler(data, ctx): ...\n'


def write(folder: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, "utf-8")
    return folder


LIBRARY = {
    "lib/__init__.py": "",
    "lib/money.py": "from . import rates\n",
    "lib/rates.py": "from .deep import table\n",
    "lib/deep/__init__.py": "",
    "lib/deep/table.py": "from ..units import cents\n",
    "lib/units.py": "cents = 100\n",
    "lib/unused.py": "import nothing\n",
    "spaces/names/here.py": "",
    "plain.py": "",
    "steps/other_step.py": MINIMAL,
}


@pytest.mark.parametrize(
    ("code", "carried"),
    [
        pytest.param("import plain", ["plain.py"], id="a module beside the Steps"),
        pytest.param(
            "import lib.money",
            [
                "lib/__init__.py",
                "lib/deep/__init__.py",
                "lib/deep/table.py",
                "lib/money.py",
                "lib/rates.py",
                "lib/units.py",
            ],
            id="a module of a package, and what that imports relatively",
        ),
        pytest.param("from lib import units", ["lib/__init__.py", "lib/units.py"], id="a module named after `import`"),
        pytest.param("from lib.units import cents", ["lib/__init__.py", "lib/units.py"], id="a name in a module"),
        pytest.param("from lib.units import *", ["lib/__init__.py", "lib/units.py"], id="a star"),
        pytest.param("import lib", ["lib/__init__.py"], id="a package alone"),
        pytest.param("import spaces.names.here as h", ["spaces/names/here.py"], id="folders without __init__.py"),
        pytest.param("from steps.other_step import handler", ["steps/other_step.py"], id="another Step's file"),
        pytest.param("def f():\n    import plain", ["plain.py"], id="an import in a function"),
        pytest.param("try:\n    import plain\nexcept ImportError: ...", ["plain.py"], id="a guarded import"),
        pytest.param("import json, asyncio, os.path", [], id="the standard library"),
        pytest.param("import lib.nowhere", ["lib/__init__.py"], id="a module that is not there"),
    ],
)
def test_a_step_carries_the_local_modules_that_it_imports(tmp_path: Path, code: str, carried: list[str]) -> None:
    write(tmp_path, {**LIBRARY, "steps/a_step.py": code})
    read = sources.read(tmp_path, "steps/a_step.py")
    assert sorted(read.files) == sorted([*carried, "steps/a_step.py"])
    assert read.files["steps/a_step.py"] == code
    assert read.imports == []


@pytest.mark.parametrize(
    ("code", "found"),
    [
        pytest.param("import stripe", [("stripe", 1)], id="a plain import"),
        pytest.param("import stripe.api as s", [("stripe", 1)], id="a module of a package"),
        pytest.param("\nfrom stripe.api import charge", [("stripe", 2)], id="a name of a package"),
        pytest.param("def f():\n    import stripe", [("stripe", 2)], id="an import in a function"),
        pytest.param("try:\n    import stripe\nexcept ImportError: ...", [], id="guarded by ImportError"),
        pytest.param(
            "try:\n    import a\nexcept (KeyError, ModuleNotFoundError):\n    import b", [], id="with a fallback"
        ),
        pytest.param("try:\n    import a\nexcept: ...", [], id="guarded by a bare except"),
        pytest.param("try:\n    import stripe\nexcept KeyError: ...", [("stripe", 2)], id="guarded by something else"),
        pytest.param("if TYPE_CHECKING:\n    import stripe", [], id="for type checkers only"),
        pytest.param("import typing\nif typing.TYPE_CHECKING:\n    import stripe", [], id="the same, with its module"),
        pytest.param("if 1 > 2:\n    import stripe", [("stripe", 2)], id="in an ordinary if"),
        pytest.param("import pydantic", [("pydantic", 1)], id="a folder of that name that is no package is not it"),
    ],
)
def test_imports_from_elsewhere_are_found(tmp_path: Path, code: str, found: list[tuple[str, int]]) -> None:
    write(tmp_path, {"steps/a_step.py": code, "pydantic/readme.txt": ""})
    read = sources.read(tmp_path, "steps/a_step.py")
    assert [(item.module, item.line) for item in read.imports] == found


def test_windows_line_ends_and_a_byte_order_mark_do_not_travel(tmp_path: Path) -> None:
    (tmp_path / "steps").mkdir()
    (tmp_path / "steps/a_step.py").write_bytes("\ufeffa = 1\r\nb = 2\r\n".encode())
    assert sources.read(tmp_path, "steps/a_step.py").files == {"steps/a_step.py": "a = 1\nb = 2\n"}


def test_steps_are_found_below_steps_and_src_by_file_name(tmp_path: Path) -> None:
    write(
        tmp_path,
        {
            "steps/one_step.py": MINIMAL,
            "steps/deep/two.step.py": MINIMAL,
            "src/three_step.py": MINIMAL,
            "steps/_step.py": "raise SystemExit",
            "steps/helper.py": "raise SystemExit",
            "other/four_step.py": "raise SystemExit",
            "steps/.hidden/five_step.py": "raise SystemExit",
            "steps/node_modules/six_step.py": "raise SystemExit",
            "steps/env/pyvenv.cfg": "",
            "steps/env/seven_step.py": "raise SystemExit",
        },
    )
    loading: list[str] = []
    found = discoveries.discover(tmp_path, loading=loading.append)
    assert [(step.name, step.file) for step in found.steps] == [
        ("one", "steps/one_step.py"),
        ("three", "src/three_step.py"),
        ("two", "steps/deep/two.step.py"),
    ]
    assert loading == ["src/three_step.py", "steps/deep/two.step.py", "steps/one_step.py"]
    assert found.problems == []


def test_what_is_found_is_what_the_user_said(tmp_path: Path) -> None:
    code = (
        "from dataclasses import dataclass\n"
        "@dataclass\n"
        "class Paid:\n"
        "    cents: int\n"
        'config = {"name": "Charge It", "triggers": [{"event": {"topics": ["a"]}}], "emits": ["b"],'
        ' "timeout_seconds": 900, "capture": None}\n'
        "def handler(paid: Paid, ctx): ...\n"
    )
    write(tmp_path, {"steps/charge_step.py": code})
    (step,) = discoveries.discover(tmp_path).steps
    schema = {
        "properties": {"cents": {"title": "Cents", "type": "integer"}},
        "required": ["cents"],
        "title": "Paid",
        "type": "object",
    }
    assert step == Found(
        file="steps/charge_step.py",
        name="charge-it",
        spec={
            "triggers": [{"event": {"topics": ["a"], "input": schema}}],
            "emits": [{"topic": "b"}],
            "timeoutSeconds": 900.0,
            "displayName": "Charge It",
        },
        entrypoint="steps/charge_step.py",
        files={"steps/charge_step.py": code},
    )
    assert Found.model_validate(step.model_dump(mode="json", by_alias=True, exclude_unset=True)) == step


def test_a_module_that_is_imported_by_a_computed_name_is_told(tmp_path: Path) -> None:
    text = f"import importlib\nimportlib.import_module('computed_by_name_for_a_test')\n{MINIMAL}"
    write(tmp_path, {"computed_by_name_for_a_test.py": "", "steps/a_step.py": text})
    (step,) = discoveries.discover(tmp_path).steps
    assert step.computed == ["computed_by_name_for_a_test.py"]


def test_a_step_too_large_to_travel_is_refused_when_it_shall(tmp_path: Path) -> None:
    write(tmp_path, {"steps/a_step.py": MINIMAL + "#" * 100_000})
    (step,) = discoveries.discover(tmp_path).steps
    assert step.step().spec.code is not None
    with pytest.raises(errors.StepInvalid, match="inline code: expected at most 98304 bytes together, found 100082"):
        step.inline()


def test_two_steps_of_one_name_are_refused_with_both_files() -> None:
    same = [Found(file=file, name="pay", spec={}) for file in ("steps/pay_step.py", "src/Pay_step.py")]
    other = Found(file="steps/x_step.py", name="x", spec={})
    merged = discoveries.merge([*same, other], [])
    message = "expected one Step named 'pay', found src/Pay_step.py and steps/pay_step.py; rename one"
    assert merged.steps == [other]
    assert merged.problems == [
        Problem(file="src/Pay_step.py", message=message, step_file="src/Pay_step.py"),
        Problem(file="steps/pay_step.py", message=message, step_file="steps/pay_step.py"),
    ]
