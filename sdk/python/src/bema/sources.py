"""What a Step file is made of: itself, and the modules of the app's folder that it imports, found by reading.

Nothing is executed in here. A module that is imported by a computed name cannot be found this way.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from importlib.machinery import NamespaceLoader, PathFinder
from pathlib import Path

from bema.contract.models import Model

_GUARDS = frozenset({"ImportError", "ModuleNotFoundError", "Exception", "BaseException"})
_STANDARD = frozenset(sys.stdlib_module_names)


class Import(Model):
    """An import of something that neither the app's folder nor the standard library has."""

    module: str
    """Its top-level name."""
    file: str
    """The file that imports it, below the app's folder."""
    line: int


@dataclass(slots=True)
class Sources:
    """The source files of one Step."""

    files: dict[str, str] = field(default_factory=dict)
    """Text by path below the app's folder."""
    imports: list[Import] = field(default_factory=list)
    """In order of file and line. An import that is guarded by `except ImportError` is not among them."""


@dataclass(frozen=True, slots=True)
class _Statement:
    """One import statement: `from <dots><module> import <names>`, or `import <module>` with no names."""

    module: str
    names: tuple[str, ...]
    dots: int
    line: int
    optional: bool


def read(folder: Path, file: str) -> Sources:
    """The sources of a Step file below an app's folder, what it imports included, and so on.

    Raises `SyntaxError`, `UnicodeDecodeError` or `OSError` of the file that cannot be read.
    """
    sources = Sources()
    waiting = [file]
    while waiting:
        path = waiting.pop()
        if path in sources.files:
            continue
        text = (folder / path).read_text(encoding="utf-8-sig")
        sources.files[path] = text
        for statement in _statements(ast.parse(text, filename=str(folder / path))):
            local = _local_files(folder, path, statement)
            if local is not None:
                waiting += local
                continue
            top = statement.module.split(".")[0]
            if not statement.optional and top not in _STANDARD:
                sources.imports.append(Import(module=top, file=path, line=statement.line))
    sources.files = dict(sorted(sources.files.items()))
    sources.imports.sort(key=lambda found: (found.file, found.line, found.module))
    return sources


def _local_files(folder: Path, file: str, statement: _Statement) -> list[str] | None:
    """The files of the folder that an import statement runs; None when it leads out of the folder."""
    module = tuple(part for part in statement.module.split(".") if part)
    if statement.dots:
        package = Path(file).parent.parts
        up = statement.dots - 1
        if up > len(package):
            return []
        module = (*package[: len(package) - up], *module)
    elif not _is_local(folder, module[0]):
        return None
    found = _chain(folder, module)
    for name in statement.names:
        found += [path for path in _chain(folder, (*module, name)) if path not in found]
    return found


def _is_local(folder: Path, top: str) -> bool:
    if (folder / top / "__init__.py").is_file() or (folder / f"{top}.py").is_file():
        return True
    if not (folder / top).is_dir() or top in _STANDARD:
        return False
    # A folder without __init__.py gives way to any real module of that name, wherever on the path it is.
    spec = PathFinder.find_spec(top, [entry for entry in sys.path if Path(entry or ".").resolve() != folder.resolve()])
    return spec is None or spec.loader is None or isinstance(spec.loader, NamespaceLoader)


def _chain(folder: Path, module: tuple[str, ...]) -> list[str]:
    """The files that importing a dotted name runs: each package's __init__.py on the way, and the module's own."""
    found: list[str] = []
    at = folder
    for part in module:
        package, plain = at / part / "__init__.py", at / f"{part}.py"
        if package.is_file():
            found.append(package.relative_to(folder).as_posix())
        elif plain.is_file():
            return [*found, plain.relative_to(folder).as_posix()]
        at = at / part
        if not at.is_dir():
            break
    return found


def _statements(tree: ast.AST, optional: bool = False) -> Iterator[_Statement]:
    for node in ast.iter_child_nodes(tree):
        match node:
            case ast.Import():
                for alias in node.names:
                    yield _Statement(alias.name, (), 0, node.lineno, optional)
            case ast.ImportFrom():
                names = tuple(alias.name for alias in node.names if alias.name != "*")
                yield _Statement(node.module or "", names, node.level, node.lineno, optional)
            case ast.Try() | ast.TryStar():
                yield from _statements(node, optional or any(map(_guards, node.handlers)))
            case ast.If():
                yield from _statements(node, optional or _is_type_checking(node.test))
            case _:
                yield from _statements(node, optional)


def _guards(handler: ast.ExceptHandler) -> bool:
    """Whether an `except` catches a failed import."""
    types = handler.type.elts if isinstance(handler.type, ast.Tuple) else [handler.type]
    return any(item is None or (isinstance(item, ast.Name) and item.id in _GUARDS) for item in types)


def _is_type_checking(test: ast.expr) -> bool:
    name = test.attr if isinstance(test, ast.Attribute) else test.id if isinstance(test, ast.Name) else ""
    return name == "TYPE_CHECKING"
