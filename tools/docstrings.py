"""The texts that stand under the names they are about: members of an enum, fields of a class, names of a module."""

from __future__ import annotations

import ast
import inspect
import textwrap
from collections.abc import Mapping
from types import ModuleType


def under(place: type | ModuleType) -> Mapping[str, str]:
    """Each name that is assigned in a class or a module, with the text under it, on one line; empty without any."""
    tree = ast.parse(textwrap.dedent(inspect.getsource(place)))
    body = tree.body
    if isinstance(place, type) and isinstance(body[0], ast.ClassDef):
        body = body[0].body
    found: dict[str, str] = {}
    last = ""
    for statement in body:
        match statement:
            case ast.Assign(targets=[ast.Name(id=name)]) | ast.AnnAssign(target=ast.Name(id=name)):
                last, found[name] = name, ""
            case ast.Expr(value=ast.Constant(value=str(text))) if last:
                found[last], last = " ".join(text.split()), ""
            case _:
                last = ""
    return found
