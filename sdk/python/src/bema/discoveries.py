"""The Steps in an app's folder, found by file name and loaded.

Loading executes the files, so whoever wants them fresh, or survives what they do, calls this in a process of its own.
Problems are values, not errors: one bad file does not hide the others.
"""

from __future__ import annotations

import os
import sys
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Set
from pathlib import Path
from types import ModuleType
from typing import Any

from bema import handlers, sources
from bema.contract import apps, errors
from bema.contract.apps import AppSpec
from bema.contract.models import Model
from bema.contract.steps import Step, StepSpec, named, parse_spec

ROOTS = ("steps", "src")
"""Where Steps are looked for, below the app's folder."""

LOCAL_IMAGE = "bema.dev/local"
"""Stands for the code of a Step that runs from the folder itself."""

_SKIPPED = frozenset({"venv", "node_modules", "__pycache__", "site-packages"})
_LATER = {
    ".step.ts": "a Step in TypeScript",
    ".step.js": "a Step in JavaScript",
    "_stream.py": "a Stream",
    ".stream.py": "a Stream",
    ".stream.ts": "a Stream",
    ".stream.js": "a Stream",
}


class Problem(Model):
    """Something that keeps a Step from running."""

    file: str
    """Where it is, below the app's folder."""
    line: int | None = None
    message: str
    step_file: str = ""
    """The Step file that it keeps from running; empty for none."""

    def __str__(self) -> str:
        return f"{self.file}:{self.line}: {self.message}" if self.line else f"{self.file}: {self.message}"


class Found(Model):
    """A Step as its file says it."""

    file: str
    name: str
    spec: dict[str, Any]
    """What the user said, without `code` where the tools fill it in."""
    metadata: dict[str, Any] = {}
    """Labels and annotations, of a manifest."""
    entrypoint: str | None = None
    """The file with its handler; None for a noop, and where the spec says itself where the code is."""
    files: dict[str, str] = {}
    """Its file and the modules of the folder that it imports: text by path."""
    imports: list[sources.Import] = []
    """What it imports from elsewhere, without the standard library."""
    computed: list[str] = []
    """Modules of the folder that loading it imported by a computed name: nobody can tell from reading."""

    def step(self, code: Mapping[str, Any] | None = None) -> Step:
        """The Step, with `code` as its source; by default the folder itself."""
        spec = dict(self.spec)
        if self.entrypoint is not None:
            spec["code"] = {"entrypoint": self.entrypoint, **(code or {"image": LOCAL_IMAGE})}
        return Step(name=self.name, spec=parse_spec(spec, where=self.file))

    def inline(self) -> Step:
        """The Step with its sources inside. Raises `StepInvalid` when they are too large."""
        return self.step({"inline": self.files})


class FoundApp(Model):
    """The App as its file says it."""

    spec: dict[str, Any]
    metadata: dict[str, Any] = {}
    """Labels and annotations."""

    def app(self) -> AppSpec:
        return apps.parse(self.spec, where=apps.FILE)


class Discovery(Model):
    """What is in a folder."""

    app: FoundApp | None = None
    """None where there is none, or none that can be read: then a problem says why."""
    steps: list[Found] = []
    """By name; no two of one name."""
    problems: list[Problem] = []


def discover(
    folder: Path, *, loading: Callable[[str], None] = lambda file: None, without: Set[str] = frozenset()
) -> Discovery:
    """Load every Step file of an app's folder, but for those in `without`. `loading` hears each file's name before
    the file is executed."""
    found: list[Found] = []
    problems: list[Problem] = []
    for file in step_files(folder, handlers.is_step_file):
        if file in without:
            continue
        loading(file)
        loaded = _load(folder, file)
        if isinstance(loaded, Found):
            found.append(loaded)
        else:
            problems += loaded
    return merge(found, [*problems, *_later(folder)])


def merge(found: Iterable[Found], problems: Iterable[Problem], app: FoundApp | None = None) -> Discovery:
    """Steps and problems in order. Steps of one name are taken out and become a problem that names their files."""
    by_name: dict[str, list[Found]] = defaultdict(list)
    for step in found:
        by_name[step.name].append(step)
    twice = [_same_name(name, [step.file for step in same]) for name, same in by_name.items() if len(same) > 1]
    return Discovery(
        app=app,
        steps=[same[0] for _, same in sorted(by_name.items()) if len(same) == 1],
        problems=sorted(
            [*problems, *(problem for several in twice for problem in several)],
            key=lambda problem: (problem.file, problem.line or 0, problem.message),
        ),
    )


def _same_name(name: str, files: list[str]) -> list[Problem]:
    ordered = sorted(files)
    return [
        Problem(
            file=file,
            message=f"expected one Step named {name!r}, found {' and '.join(ordered)}; rename one",
            step_file=file,
        )
        for file in ordered
    ]


def folders(folder: Path) -> Iterator[Path]:
    """An app's folder and those below it, without hidden ones, virtual environments and caches."""
    for path, below, files in os.walk(folder):
        if "pyvenv.cfg" in files and Path(path) != folder:
            below.clear()
            continue
        below[:] = sorted(name for name in below if not _is_skipped(name))
        yield Path(path)


def _is_skipped(name: str) -> bool:
    return name.startswith(".") or name in _SKIPPED


def step_files(folder: Path, wanted: Callable[[Path], bool]) -> list[str]:
    """Files below steps/ and src/ that are `wanted`, as paths below the folder, in order."""
    return sorted(
        path.relative_to(folder).as_posix()
        for root in ROOTS
        for below in folders(folder / root)
        for path in below.iterdir()
        if wanted(path) and path.is_file()
    )


def _later(folder: Path) -> Iterator[Problem]:
    for file in step_files(folder, lambda path: path.name.endswith(tuple(_LATER))):
        kind = next(kind for suffix, kind in _LATER.items() if file.endswith(suffix))
        yield Problem(file=file, message=f"{kind} is not supported by this version")
    if (folder / "app.yml").is_file():
        yield Problem(file="app.yml", message=f"expected the App in {apps.FILE}, found it here; rename the file")


def _load(folder: Path, file: str) -> Found | list[Problem]:
    before = set(sys.modules)
    try:
        handler = handlers.load(folder, file)
        spec = handlers.spec_of(handler, {"entrypoint": file, "image": LOCAL_IMAGE})
        named(handler.name, spec, where=file)
        read = sources.read(folder, file)
    except (Exception, SystemExit) as error:  # noqa: BLE001 - whatever a user's file raises is a problem of that file
        return problems_of(error, folder, file)
    loaded = {path for name in set(sys.modules) - before if (path := _app_file(folder, sys.modules[name]))}
    return Found(
        file=file,
        name=handler.name,
        spec=said(spec),
        entrypoint=file if handler.function is not None else None,
        files=read.files,
        imports=read.imports,
        computed=sorted(loaded - set(read.files)),
    )


def said(spec: StepSpec | AppSpec) -> dict[str, Any]:
    """What the user said in a spec: no defaults, and no stand-in for code."""
    plain = spec.model_dump(mode="json", by_alias=True, exclude_unset=True, exclude_none=True)
    if plain.get("code", {}).get("image") == LOCAL_IMAGE:
        del plain["code"]
    return plain


def _app_file(folder: Path, module: ModuleType) -> str | None:
    return _below(folder, getattr(module, "__file__", None) or "")


def _below(folder: Path, path: str) -> str | None:
    """A file of the app as a path below its folder; None for any other."""
    if not path.startswith(f"{folder}{os.sep}"):
        return None
    relative = Path(path).relative_to(folder)
    return None if any(_is_skipped(part) for part in relative.parts) else relative.as_posix()


def problems_of(error: BaseException, folder: Path, file: str) -> list[Problem]:
    """What an error says about a Step file: a problem for each of its lines, or one at the place in the app's own
    files that it came through last."""
    cause = error.__cause__ if isinstance(error, errors.StepInvalid) and error.__cause__ else error
    if isinstance(cause, SyntaxError) and (where := _below(folder, cause.filename or "")):
        return [Problem(file=where, line=cause.lineno, message=f"syntax error: {cause.msg}", step_file=file)]
    if place := _place(cause, folder):
        where, line = place
        text = f"{type(cause).__name__}: {cause}" if str(cause) else type(cause).__name__
        loading = "" if where == file else f" (loading {file})"
        return [Problem(file=where, line=line, message=text + loading, step_file=file)]
    lines = str(error).splitlines() if isinstance(error, errors.Invalid) else [f"{type(error).__name__}: {error}"]
    return [Problem(file=file, message=line.removeprefix(f"{file}: "), step_file=file) for line in lines]


def _place(error: BaseException, folder: Path) -> tuple[str, int] | None:
    place = None
    trace = error.__traceback__
    while trace is not None:
        if where := _below(folder, trace.tb_frame.f_code.co_filename):
            place = where, trace.tb_lineno
        trace = trace.tb_next
    return place
