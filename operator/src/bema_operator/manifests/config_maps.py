"""The ConfigMap that holds a Step's Binding and its inline code: immutable, and named by its content, so that a change
of either rolls the pods atomically, and a rollback finds the old one."""

from __future__ import annotations

import hashlib
import json
from pathlib import PurePosixPath

from bema.contract import names
from bema_operator import kinds
from bema_operator.manifests import parts
from bema_operator.manifests.parts import Manifest, Order

KEY_BINDING = "_binding.json"
"""No path's key: `names.code_key` writes `_` only around hexadecimal digits."""

FILE_BINDING = PurePosixPath(names.PATH_BINDING).name
FOLDER_BINDING = str(PurePosixPath(names.PATH_BINDING).parent)


def config_map(order: Order) -> Manifest:
    data = _data(order)
    return {**parts.head(kinds.CONFIG_MAP, name(order), order.binding), "immutable": True, "data": data}


def name(order: Order) -> str:
    text = json.dumps(_data(order), sort_keys=True)
    return names.config_map(order.step.name, hashlib.sha256(text.encode()).hexdigest())


def _data(order: Order) -> dict[str, str]:
    return {KEY_BINDING: order.binding.to_json(), **{names.code_key(path): text for path, text in inline(order)}}


def inline(order: Order) -> list[tuple[str, str]]:
    """The inline files as path and text, in order of path."""
    code = order.step.spec.code
    return sorted((code.inline or {}).items()) if code else []


def binding_items() -> list[Manifest]:
    return [{"key": KEY_BINDING, "path": FILE_BINDING}]


def code_items(order: Order) -> list[Manifest]:
    return [{"key": names.code_key(path), "path": path} for path, _ in inline(order)]
