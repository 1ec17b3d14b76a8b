"""The CustomResourceDefinition of a Step, made from the models, so that there is one schema and not two.

A structural schema is less than what pydantic writes: no references, no `anyOf` for what may be absent, numbers'
bounds in the old spelling. Unknown keys are not forbidden but pruned, or refused by `kubectl --validate=strict`.
"""

from __future__ import annotations

import copy
import hashlib
import json
from collections.abc import Mapping
from typing import Any

from bema.contract import names, rules, statuses, versions
from bema.contract.models import Model
from bema.contract.statuses import StepStatus
from bema.contract.steps import StepSpec

Schema = dict[str, Any]

KIND = "Step"
PLURAL = "steps"

_KEPT = (
    "type",
    "format",
    "enum",
    "pattern",
    "minimum",
    "maximum",
    "minLength",
    "maxLength",
    "minItems",
    "maxItems",
    "maxProperties",
    "required",
    "x-kubernetes-int-or-string",
    "x-kubernetes-list-map-keys",
    "x-kubernetes-list-type",
    "x-kubernetes-preserve-unknown-fields",
)

_COLUMNS: tuple[tuple[str, str, str, int], ...] = (
    ("Type", "string", ".status.type", 0),
    ("Trigger", "string", ".status.trigger", 0),
    ("Ready", "string", '.status.conditions[?(@.type=="Ready")].status', 0),
    ("Replicas", "integer", ".status.replicas", 0),
    ("Backlog", "integer", ".status.backlog", 0),
    ("Age", "date", ".metadata.creationTimestamp", 0),
    ("Reason", "string", '.status.conditions[?(@.type=="Ready")].reason', 1),
    ("URL", "string", ".status.url", 1),
    ("Image", "string", ".spec.code.image", 1),
)


def step() -> dict[str, Any]:
    """The CRD of kind Step, as an object for the API server."""
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {
            "name": f"{PLURAL}.{names.API_GROUP}",
            "annotations": {names.ANNOTATION_VERSION: versions.VERSION, names.ANNOTATION_SCHEMA: digest()},
        },
        "spec": _spec(),
    }


def digest() -> str:
    """Tells this CRD from one of another version of Bema. The API server keeps a schema in a form of its own, so that
    what it has cannot be compared with ours; an annotation can."""
    return hashlib.sha256(json.dumps(_spec(), sort_keys=True).encode()).hexdigest()[:16]


def _spec() -> dict[str, Any]:
    return {
        "group": names.API_GROUP,
        "names": {
            "kind": KIND,
            "listKind": f"{KIND}List",
            "plural": PLURAL,
            "singular": KIND.lower(),
            "shortNames": ["stp"],
            "categories": ["bema"],
        },
        "scope": "Namespaced",
        "versions": [_version()],
    }


def _version() -> dict[str, Any]:
    return {
        "name": names.API_VERSION,
        "served": True,
        "storage": True,
        "additionalPrinterColumns": [_column(*column) for column in _COLUMNS],
        "subresources": {
            "status": {},
            "scale": {
                "specReplicasPath": ".spec.replicas",
                "statusReplicasPath": ".status.replicas",
                "labelSelectorPath": ".status.selector",
            },
        },
        "schema": {"openAPIV3Schema": _root()},
    }


def _column(name: str, type_: str, path: str, priority: int) -> dict[str, Any]:
    column = {"name": name, "type": type_, "jsonPath": path}
    return column | {"priority": priority} if priority else column


def _root() -> Schema:
    return {
        "type": "object",
        "description": "A unit of work of an app: what triggers it, what it emits, and the code that runs.",
        "required": ["spec"],
        "properties": {
            "apiVersion": {"type": "string", "description": "Version of the schema of this object."},
            "kind": {"type": "string", "description": "Kind of the object: Step."},
            "metadata": {"type": "object", "properties": {"name": {"type": "string"}}},
            "spec": structural(StepSpec),
            "status": _status(),
        },
        "x-kubernetes-validations": [rule.dump() for rule in rules.ROOT],
    }


def _status() -> Schema:
    """Without the enums of types and reasons: the next operator may bring another reason before this CRD is replaced.
    Its one default is what everybody reads of a Step before an operator writes about it."""
    schema = structural(StepStatus)
    condition = schema["properties"]["conditions"]["items"]["properties"]
    for name in ("type", "reason"):
        del condition[name]["enum"]
        condition[name] |= {"minLength": 1, "maxLength": 316}
    return {**schema, "default": {"observedGeneration": statuses.UNSEEN_GENERATION}}


def structural(model: type[Model]) -> Schema:
    """A structural schema, with its validation rules, of everything that a model accepts in camelCase."""
    schema = model.model_json_schema(by_alias=True, mode="validation")
    return _structural({"$ref": f"#/$defs/{model.__name__}"}, {**schema.get("$defs", {}), model.__name__: schema})


def _structural(node: Mapping[str, Any], definitions: Mapping[str, Any], *, is_atomic: bool = False) -> Schema:
    """`is_atomic`: inside a list that is replaced as a whole. A default that the server filled in there would make the
    very same manifest of another field manager a conflict; the models know the defaults."""
    node, validations = _resolve(node, definitions)
    schema: Schema = {key: copy.deepcopy(node[key]) for key in _KEPT if key in node}
    if "description" in node:
        schema["description"] = " ".join(node["description"].split())
    if "exclusiveMinimum" in node:
        schema |= {"minimum": node["exclusiveMinimum"], "exclusiveMinimum": True}
    default = _default(node.get("default"))
    if default not in (None, [], {}):
        if is_atomic:
            said = ", ".join(map(str, default)) if isinstance(default, list) else default
            schema["description"] = f"{schema['description']} Default: {said}."
        else:
            schema["default"] = default
    if node.get("properties"):
        schema["properties"] = {
            key: _structural(value, definitions, is_atomic=is_atomic) for key, value in node["properties"].items()
        }
    if "items" in node:
        whole = node.get("x-kubernetes-list-type", "atomic") == "atomic"
        schema["items"] = _structural(node["items"], definitions, is_atomic=is_atomic or whole)
    if isinstance(node.get("additionalProperties"), dict):
        schema["additionalProperties"] = _structural(node["additionalProperties"], definitions, is_atomic=is_atomic)
    if validations:
        schema["x-kubernetes-validations"] = [rule.dump() for rule in validations]
        for rule in validations:
            # The rule says in words what the pattern would say beside it.
            schema["properties"].get((rule.field or "").lstrip("."), {}).pop("pattern", None)
    return schema


def _resolve(
    node: Mapping[str, Any], definitions: Mapping[str, Any]
) -> tuple[Mapping[str, Any], tuple[rules.Rule, ...]]:
    """A node without `$ref` and `anyOf`, and the rules of the model that it is."""
    if "anyOf" in node:
        members = [member for member in node["anyOf"] if member.get("type") != "null"]
        if node.get("x-kubernetes-int-or-string"):
            members = [{}]
        if len(members) != 1:
            raise TypeError(f"no structural schema for a union: {node}")
        return _resolve({**members[0], **{key: value for key, value in node.items() if key != "anyOf"}}, definitions)
    if "$ref" in node:
        name = node["$ref"].rpartition("/")[2]
        definition = {key: value for key, value in definitions[name].items() if key != "$defs"}
        own = {key: value for key, value in node.items() if key != "$ref"}
        return {**definition, **own}, rules.RULES.get(name, ())
    return node, ()


def _default(value: Any) -> Any:
    """A default as the API server stores it: without nulls, whole numbers without a fraction."""
    if isinstance(value, dict):
        return {key: _default(item) for key, item in value.items() if item is not None}
    if isinstance(value, float) and value.is_integer():
        return int(value)
    return value
