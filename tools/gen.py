"""Writes what is made from the code: the CRDs, JSON Schemas and golden vectors from `bema.contract`, the reference, and
Argo CD's patch from its script. `--check` only compares.

python -m tools.gen [--check]
"""

from __future__ import annotations

import argparse
import difflib
import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from bema.contract import crds
from bema.contract.apps import AppSpec
from bema.contract.bindings import Binding
from bema.contract.models import Model
from bema.contract.steps import StepSpec
from tools import argocd, references, vectors

ROOT = Path(__file__).resolve().parent.parent
HEADER = "# Generated from bema.contract; change the models and run `make gen`.\n"


def files() -> dict[str, str]:
    """The text of every generated file, by its path below the repository's root."""
    texts = {
        **{f"crds/{kind.plural}.yaml": _manifest(crds.crd(kind)) for kind in crds.ALL},
        "sdk/contract/schema/app.schema.json": _schema("app", AppSpec),
        "sdk/contract/schema/step.schema.json": _schema("step", StepSpec),
        "sdk/contract/schema/binding.schema.json": _schema("binding", Binding),
        "deploy/argocd/argocd-cm.yaml": argocd.config_map(),
        "docs/reference.md": references.page(),
    }
    for name, content in vectors.all_files().items():
        texts[f"sdk/contract/vectors/{name}.json"] = _json(content)
    return texts


def _manifest(crd: Mapping[str, Any]) -> str:
    return HEADER + yaml.safe_dump(crd, sort_keys=False, allow_unicode=True, width=120)


def _schema(name: str, model: type[Model]) -> str:
    schema = model.model_json_schema(by_alias=True, mode="validation")
    return _json(
        {
            "$schema": "https://json-schema.org/draft/2020-12/schema",
            "$id": f"https://bema.dev/schema/{name}.schema.json",
            "$comment": HEADER.strip("# \n"),
            **_plain(schema),
        }
    )


def _plain(node: Any) -> Any:
    """Without what only Kubernetes understands."""
    if isinstance(node, list):
        return [_plain(item) for item in node]
    if not isinstance(node, dict):
        return node
    return {key: _plain(value) for key, value in node.items() if not key.startswith("x-kubernetes-")}


def _json(content: Mapping[str, Any]) -> str:
    """In ASCII, so that a lone surrogate in a vector survives any editor."""
    return json.dumps(content, indent=2) + "\n"


def changes(root: Path) -> list[str]:
    """A unified diff for each file on disk that is not as it would be written."""
    return [diff for path, wanted in files().items() if (diff := _diff(path, _read(root / path), wanted))] + [
        f"{path}: nobody generates this file; remove it\n" for path in _strays(root)
    ]


def _read(path: Path) -> str:
    return path.read_text(encoding="utf-8") if path.exists() else ""


def _diff(path: str, found: str, wanted: str) -> str:
    lines = difflib.unified_diff(
        found.splitlines(keepends=True), wanted.splitlines(keepends=True), f"{path} (on disk)", f"{path} (generated)"
    )
    return "".join(lines)


def _strays(root: Path) -> list[str]:
    known = files()
    found = (
        path.relative_to(root).as_posix()
        for folder in ("sdk/contract/schema", "sdk/contract/vectors")
        for path in sorted((root / folder).glob("*"))
    )
    return [path for path in found if path not in known]


def write(root: Path) -> list[str]:
    """Write what differs; return the paths written."""
    written = []
    for path, text in files().items():
        target = root / path
        if _read(target) != text:
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_text(text, encoding="utf-8")
            written.append(path)
    return written


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m tools.gen", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--check", action="store_true", help="print a diff and fail instead of writing")
    if parser.parse_args(arguments).check:
        found = changes(ROOT)
        print("".join(found), end="")
        return 1 if found else 0
    for path in write(ROOT):
        print(f"wrote {path}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
