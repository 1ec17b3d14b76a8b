"""Manifests of Steps and of the App as YAML: read from files of the app's folder, written for `kubectl apply`.
Deterministic."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Iterable, Sequence
from enum import StrEnum
from pathlib import Path
from typing import Any, TypeVar, assert_never

import pydantic
import yaml

from bema import discoveries
from bema.clusters import kinds
from bema.clusters.kinds import Kind
from bema.contract import apps, errors
from bema.contract.models import Model
from bema.contract.steps import Step, named, parse_spec
from bema.discoveries import Found, FoundApp, Problem

T = TypeVar("T")

_SUFFIXES = (".step.yaml", ".step.yml")


class Reader(StrEnum):
    """Programs that read a manifest as more than YAML."""

    HELM = "helm"


class _Metadata(Model):
    name: str
    namespace: str | None = None
    labels: dict[str, str] = {}
    annotations: dict[str, str] = {}

    @property
    def extra(self) -> dict[str, Any]:
        """What is kept beside the name."""
        return {key: value for key, value in (("labels", self.labels), ("annotations", self.annotations)) if value}


class _Loader(yaml.SafeLoader):
    """Reads times as text, and 1e9 as a number, as the API server does."""


_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag != "tag:yaml.org,2002:timestamp"]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"[-+]?[0-9]+[eE][-+]?[0-9]+\Z"), list("-+0123456789")
)


class _Dumper(yaml.SafeDumper):
    """Writes text of several lines as a block, without aliases."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


def _text(dumper: yaml.SafeDumper, value: str) -> yaml.ScalarNode:
    return dumper.represent_scalar("tag:yaml.org,2002:str", value, style="|" if "\n" in value else None)


_Dumper.add_representer(str, _text)


def is_manifest(path: Path) -> bool:
    return path.name.endswith(_SUFFIXES)


def read_all(folder: Path) -> tuple[list[Found], list[Problem]]:
    """The Steps that YAML files below steps/ and src/ declare, and what is wrong with the others."""
    found: list[Found] = []
    problems: list[Problem] = []
    for file in discoveries.step_files(folder, is_manifest):
        step, amiss = _attempt(read, folder, file, step_file=file)
        found += [step] if step is not None else []
        problems += amiss
    return found, problems


def read_app(folder: Path) -> tuple[FoundApp | None, list[Problem]]:
    """The App of a folder, if there is one, and what is wrong with it."""
    return _attempt(_app, folder, apps.FILE, step_file="") if (folder / apps.FILE).is_file() else (None, [])


def _attempt(
    act: Callable[[Path, str], T], folder: Path, file: str, *, step_file: str
) -> tuple[T | None, list[Problem]]:
    """What reading a file gives, or its problems."""
    try:
        return act(folder, file), []
    except (errors.Invalid, OSError, ValueError) as error:
        found = discoveries.problems_of(error, folder, file)
        return None, [problem.model_copy(update={"step_file": step_file}) for problem in found]
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else None
        return None, [Problem(file=file, line=line, message=f"invalid YAML: {error.problem}", step_file=step_file)]
    except yaml.YAMLError as error:
        return None, [Problem(file=file, message=f"invalid YAML: {error}", step_file=step_file)]


def read(folder: Path, file: str) -> Found:
    """The Step of one YAML file. Raises `StepInvalid`, or what reading raises."""
    content, metadata = _object(folder, file, kinds.STEP, errors.StepInvalid)
    spec = parse_spec(content.get("spec") or {}, where=file)
    named(metadata.name, spec, where=file)
    return Found(file=file, name=metadata.name, spec=discoveries.said(spec), metadata=metadata.extra)


def _app(folder: Path, file: str) -> FoundApp:
    """The App of a YAML file. Raises `AppInvalid`, or what reading raises."""
    content, metadata = _object(folder, file, kinds.APP, errors.AppInvalid)
    if metadata.name != apps.NAME:
        raise errors.AppInvalid(f"{file}: metadata.name: expected {apps.NAME!r}, found {metadata.name!r}")
    spec = apps.parse(content.get("spec") or {}, where=file)
    return FoundApp(spec=discoveries.said(spec), metadata=metadata.extra)


def _object(folder: Path, file: str, kind: Kind, invalid: type[errors.Invalid]) -> tuple[dict[str, Any], _Metadata]:
    """The one object of a file, of this kind. Raises `invalid`, or what reading raises."""
    documents = [item for item in yaml.load_all((folder / file).read_text("utf-8"), _Loader) if item is not None]
    if len(documents) != 1 or not isinstance(documents[0], dict):
        raise invalid(f"{file}: expected one object of kind {kind.name}, found {len(documents)} documents")
    content = documents[0]
    for key, expected in (("apiVersion", kind.api_version), ("kind", kind.name)):
        if content.get(key) != expected:
            raise invalid(f"{file}: {key}: expected {expected!r}, found {content.get(key)!r}")
    unknown = sorted(map(str, content.keys() - {"apiVersion", "kind", "metadata", "spec"}))
    if unknown:
        raise invalid(f"{file}: unknown key {unknown[0]!r}; valid keys are apiVersion, kind, metadata, spec")
    try:
        return content, _Metadata.model_validate(content.get("metadata") or {})
    except pydantic.ValidationError as error:
        lines = [f"{file}: metadata.{'.'.join(map(str, item['loc']))}: {item['msg']}" for item in error.errors()]
        raise invalid("\n".join(lines)) from error


def manifest(step: Step, *, metadata: dict[str, Any], namespace: str | None) -> dict[str, Any]:
    """A Step as the API server takes it: what its author said, and its code."""
    spec = step.spec.model_dump(mode="json", by_alias=True, exclude_unset=True, exclude_none=True)
    return _manifest(kinds.STEP, step.name, metadata, spec, namespace)


def app_manifest(app: FoundApp, *, namespace: str | None) -> dict[str, Any]:
    """An App as the API server takes it."""
    return _manifest(kinds.APP, apps.NAME, app.metadata, app.spec, namespace)


def _manifest(
    kind: Kind, name: str, metadata: dict[str, Any], spec: dict[str, Any], namespace: str | None
) -> dict[str, Any]:
    return {
        "apiVersion": kind.api_version,
        "kind": kind.name,
        "metadata": {"name": name, **({"namespace": namespace} if namespace else {}), **metadata},
        "spec": spec,
    }


def write(objects: Iterable[dict[str, Any]]) -> str:
    """Objects as one YAML text, `---` between them."""
    return yaml.dump_all(
        list(objects), Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=10**9, explicit_start=True
    )


def write_list(objects: Sequence[dict[str, Any]]) -> str:
    """Objects as one object in JSON, on one line."""
    return json.dumps({"apiVersion": "v1", "kind": "List", "items": objects}, ensure_ascii=False) + "\n"


def escaped(text: str, reader: Reader | None) -> str:
    """A text that a reader turns into the given one."""
    match reader:
        case None:
            return text
        case Reader.HELM:
            # Nothing else begins an action of a Go template, and `}}` outside of one is text.
            return text.replace("{{", '{{"{{"}}')
        case _:
            assert_never(reader)


def save(text: str, file: Path) -> None:
    """Write a file whole or not at all: with half of it in git, the other half's Steps would be deleted."""
    fresh = file.with_name(f".{file.name}.{os.getpid()}")
    try:
        fresh.write_bytes(text.encode("utf-8"))
        fresh.replace(file)
    finally:
        fresh.unlink(missing_ok=True)
