"""The CustomResourceDefinitions, made from the models, so that there is one schema and not two.

A structural schema is less than what pydantic writes: no references, no `anyOf` for what may be absent, numbers'
bounds in the old spelling. Unknown keys are not forbidden but pruned, or refused by `kubectl --validate=strict`.
"""

from __future__ import annotations

import copy
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from bema.contract import names, rules, statuses, versions
from bema.contract.apps import AppSpec
from bema.contract.models import Model
from bema.contract.rules import Rule
from bema.contract.statuses import AppStatus, StepStatus
from bema.contract.steps import StepSpec

Schema = dict[str, Any]

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


_SCALE = {
    "specReplicasPath": ".spec.replicas",
    "statusReplicasPath": ".status.replicas",
    "labelSelectorPath": ".status.selector",
}


@dataclass(frozen=True, slots=True)
class Resource:
    """A kind of ours, as its CRD says it."""

    kind: str
    plural: str
    description: str
    spec: type[Model]
    status: type[Model]
    rules: tuple[Rule, ...]
    """About the object as a whole."""
    columns: tuple[tuple[str, str, str, int], ...]
    """Of `kubectl get`: name, type, path, and 1 for what is shown with `-o wide` only."""
    short_names: tuple[str, ...] = ()
    scale: bool = False
    """Whether `kubectl scale` takes it."""

    @property
    def full_name(self) -> str:
        """As rights and `kubectl` name it, such as `steps.bema.dev`."""
        return f"{self.plural}.{names.API_GROUP}"


STEP = Resource(
    kind="Step",
    plural="steps",
    description="A unit of work of an app: what triggers it, what it emits, and the code that runs.",
    spec=StepSpec,
    status=StepStatus,
    rules=rules.STEP,
    columns=(
        ("Type", "string", ".status.type", 0),
        ("Trigger", "string", ".status.trigger", 0),
        ("Ready", "string", '.status.conditions[?(@.type=="Ready")].status', 0),
        ("Replicas", "integer", ".status.replicas", 0),
        ("Backlog", "integer", ".status.backlog", 0),
        ("Age", "date", ".metadata.creationTimestamp", 0),
        ("Reason", "string", '.status.conditions[?(@.type=="Ready")].reason', 1),
        ("URL", "string", ".status.url", 1),
        ("Image", "string", ".spec.code.image", 1),
    ),
    short_names=("stp",),
    scale=True,
)

APP = Resource(
    kind="App",
    plural="apps",
    description="What holds for all Steps of a namespace. Optional; its name is app.",
    spec=AppSpec,
    status=AppStatus,
    rules=rules.APP,
    columns=(
        ("Ready", "string", '.status.conditions[?(@.type=="Ready")].status', 0),
        ("Storage", "string", ".status.storage", 0),
        ("Steps", "integer", ".status.steps", 0),
        ("Age", "date", ".metadata.creationTimestamp", 0),
        ("Reason", "string", '.status.conditions[?(@.type=="Ready")].reason', 1),
    ),
)

ALL = (STEP, APP)


def crd(of: Resource) -> dict[str, Any]:
    """The CRD of a kind, as an object for the API server."""
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {
            "name": of.full_name,
            "annotations": {names.ANNOTATION_VERSION: versions.VERSION, names.ANNOTATION_SCHEMA: digest(of)},
        },
        "spec": _spec(of),
    }


def digest(of: Resource) -> str:
    """Tells this CRD from one of another version of Bema. The API server keeps a schema in a form of its own, so that
    what it has cannot be compared with ours; an annotation can."""
    return hashlib.sha256(json.dumps(_spec(of), sort_keys=True).encode()).hexdigest()[:16]


def _spec(of: Resource) -> dict[str, Any]:
    spellings: dict[str, Any] = {
        "kind": of.kind,
        "listKind": f"{of.kind}List",
        "plural": of.plural,
        "singular": of.kind.lower(),
    }
    if of.short_names:
        spellings["shortNames"] = list(of.short_names)
    return {
        "group": names.API_GROUP,
        "names": {**spellings, "categories": ["bema"]},
        "scope": "Namespaced",
        "versions": [_version(of)],
    }


def _version(of: Resource) -> dict[str, Any]:
    return {
        "name": names.API_VERSION,
        "served": True,
        "storage": True,
        "additionalPrinterColumns": [_column(*column) for column in of.columns],
        "subresources": {"status": {}, **({"scale": _SCALE} if of.scale else {})},
        "schema": {"openAPIV3Schema": _root(of)},
    }


def _column(name: str, type_: str, path: str, priority: int) -> dict[str, Any]:
    column = {"name": name, "type": type_, "jsonPath": path}
    return column | {"priority": priority} if priority else column


def _root(of: Resource) -> Schema:
    return {
        "type": "object",
        "description": of.description,
        "required": ["spec"],
        "properties": {
            "apiVersion": {"type": "string", "description": "Version of the schema of this object."},
            "kind": {"type": "string", "description": f"Kind of the object: {of.kind}."},
            "metadata": {"type": "object", "properties": {"name": {"type": "string"}}},
            "spec": structural(of.spec),
            "status": _status(of.status),
        },
        "x-kubernetes-validations": [rule.dump() for rule in of.rules],
    }


def _status(model: type[Model]) -> Schema:
    """Without the enums of types and reasons: the next operator may bring another reason before this CRD is replaced.
    Its one default is what everybody reads of an object before an operator writes about it."""
    schema = structural(model)
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
    """A default as the API server stores it: without nulls and what is empty, whole numbers without a fraction."""
    if isinstance(value, dict):
        found = {key: _default(item) for key, item in value.items()}
        return {key: item for key, item in found.items() if item not in (None, {})}
    if isinstance(value, float) and value.is_integer():
        return int(value)
    return value
