"""Whether a live object is still what we applied, without comparing values.

The server normalises values (`1000m` becomes `1`), so desired and live are never compared. Instead: the annotation
`bema.dev/hash` says which desired object was applied last, and `metadata.managedFields` says which of its fields are
still ours. Whoever changes one of our values takes that field out of our entry. Needs no memory, and after a restart
costs no write.

The format of `fieldsV1`: sigs.k8s.io/structured-merge-diff, `f:<name>` for a field, `k:<json>` for a list item by its
keys, `v:<json>` for a set's item, `i:<n>` for an index, `.` for the thing itself; `{}` is a leaf and stands for all
that is below it.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

from bema.contract import names
from bema_operator.objects import Object


def digest(manifest: Object) -> str:
    """Which desired object this is."""
    text = json.dumps(manifest, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:16]


def stamp(manifest: Object) -> dict[str, Any]:
    """The manifest with its own digest as an annotation."""
    metadata = manifest["metadata"]
    annotations = {**metadata.get("annotations", {}), names.ANNOTATION_HASH: digest(manifest)}
    return {**manifest, "metadata": {**metadata, "annotations": annotations}}


def in_step(wanted: Object, found: Object) -> bool:
    """Whether `found` was applied from `wanted` (a stamped manifest) and all of its fields are still ours."""
    return was_applied(wanted, found) and owns(our_fields(found), wanted)


def was_applied(wanted: Object, found: Object) -> bool:
    """Whether `found` was applied from `wanted` (a stamped manifest), whatever somebody has made of it since."""
    wanted_hash: str = wanted["metadata"]["annotations"][names.ANNOTATION_HASH]
    found_hash: str | None = found["metadata"].get("annotations", {}).get(names.ANNOTATION_HASH)
    return wanted_hash == found_hash


def our_fields(found: Object) -> Object:
    """The `fieldsV1` of what our manager applied; empty when there is none."""
    for entry in found["metadata"].get("managedFields", ()):
        if is_ours(entry):
            fields: Object = entry.get("fieldsV1", {})
            return fields
    return {}


def is_ours(entry: Object) -> bool:
    """Whether an entry of `managedFields` is about what we applied to the object itself."""
    return (
        entry.get("manager") == names.FIELD_MANAGER
        and entry.get("operation") == "Apply"
        and not entry.get("subresource")
    )


def scaler(found: Object) -> str:
    """Who has set the number of an object's pods by its `scale` subresource, as autoscalers and `kubectl scale` do, and
    owns it still; empty where nobody does."""
    return next((str(entry["manager"]) for entry in found["metadata"].get("managedFields", ()) if is_scale(entry)), "")


def is_scale(entry: Object) -> bool:
    """Whether an entry of `managedFields` is about a number of pods that was set by the `scale` subresource."""
    return entry.get("subresource") == "scale" and "f:replicas" in entry.get("fieldsV1", {}).get("f:spec", {})


def owns(fields: Object, wanted: Object) -> bool:
    """Whether every leaf of a manifest is among `fields`. What identifies an object is owned by nobody."""
    body = {key: value for key, value in wanted.items() if key not in ("apiVersion", "kind", "metadata")}
    metadata = {key: value for key, value in wanted["metadata"].items() if key not in ("name", "namespace")}
    return all(
        _covers(fields.get(f"f:{key}"), value) for key, value in (*body.items(), ("metadata", metadata)) if value != {}
    )


def _covers(fields: Object | None, value: Any) -> bool:
    if fields is None:
        return False
    if not fields:
        return True
    if isinstance(value, Mapping):
        return all(_covers(fields.get(f"f:{key}"), inner) for key, inner in value.items())
    if isinstance(value, list):
        return all(_covers(_item_fields(fields, item, index), item) for index, item in enumerate(value))
    return True


def _item_fields(fields: Object, item: Any, index: int) -> Object | None:
    for key, inner in fields.items():
        kind, _, text = key.partition(":")
        if (
            (kind == "k" and _has_keys(item, json.loads(text)))
            or (kind == "v" and json.loads(text) == item)
            or (kind == "i" and int(text) == index)
        ):
            found: Object = inner
            return found
    return None


def _has_keys(item: Any, keys: Mapping[str, Any]) -> bool:
    """A key that the item leaves out was filled in by the server, so it does not tell items apart."""
    return isinstance(item, Mapping) and all(item[key] == value for key, value in keys.items() if key in item)
