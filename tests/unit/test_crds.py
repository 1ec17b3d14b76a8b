"""The CRD: structural, described, small. That a real API server takes it and refuses with its words is an e2e test."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from bema.contract import crds, rules, versions
from bema.contract.models import Model
from bema.contract.pods import Volume
from bema.contract.statuses import Condition

Schema = dict[str, Any]

CRD = crds.crd(crds.STEP)
VERSION = CRD["spec"]["versions"][0]
ROOT: Schema = VERSION["schema"]["openAPIV3Schema"]
SPEC: Schema = ROOT["properties"]["spec"]
STATUS: Schema = ROOT["properties"]["status"]

REPOSITORY = Path(__file__).parents[2]
FILES = {kind: REPOSITORY / f"crds/{kind.plural}.yaml" for kind in crds.ALL}
KINDS = [pytest.param(kind, id=kind.kind) for kind in crds.ALL]
PROJECTS = [
    REPOSITORY / path / "pyproject.toml" for path in ("sdk/python", "sdk/cli", "operator", "runtime-image/python")
]

ALLOWED = {
    *("type", "description", "format", "enum", "pattern", "default", "required", "properties", "items"),
    *(
        "additionalProperties",
        "minimum",
        "exclusiveMinimum",
        "maximum",
        "minLength",
        "maxLength",
        "minItems",
        "maxItems",
    ),
    *("maxProperties", "x-kubernetes-int-or-string", "x-kubernetes-list-type", "x-kubernetes-list-map-keys"),
    *("x-kubernetes-preserve-unknown-fields", "x-kubernetes-validations"),
}


def walk(schema: Schema, path: str = "") -> Iterator[tuple[str, Schema]]:
    """Each schema inside a schema, with where it is."""
    yield path, schema
    for key, child in schema.get("properties", {}).items():
        yield from walk(child, f"{path}.{key}")
    for key in ("items", "additionalProperties"):
        if key in schema:
            yield from walk(schema[key], f"{path}[]" if key == "items" else f"{path}{{}}")


ALL = dict(walk(ROOT))
"""The schemas of a Step."""
APP: dict[str, Schema] = dict(walk(crds.crd(crds.APP)["spec"]["versions"][0]["schema"]["openAPIV3Schema"]))
EVERY = {f"{kind}{path}": schema for kind, found in (("Step", ALL), ("App", APP)) for path, schema in found.items()}
"""Those of every kind."""


@pytest.mark.parametrize("kind", KINDS)
def test_both_forms_stay_far_below_what_kubectl_apply_takes(kind: crds.Resource) -> None:
    """Client-side apply keeps the object as JSON in an annotation of at most 256 KiB."""
    assert len(FILES[kind].read_bytes()) < 200_000
    assert len(json.dumps(crds.crd(kind))) < 200_000


@pytest.mark.parametrize("kind", KINDS)
def test_the_file_says_what_the_function_says(kind: crds.Resource) -> None:
    assert yaml.safe_load(FILES[kind].read_text(encoding="utf-8")) == crds.crd(kind)


@pytest.mark.parametrize("kind", KINDS)
def test_the_file_says_where_it_comes_from(kind: crds.Resource) -> None:
    first = FILES[kind].read_text(encoding="utf-8").partition("\n")[0]
    assert first == "# Generated from bema.contract; change the models and run `make gen`."


def test_every_field_has_a_description() -> None:
    fields = [path for path in EVERY if "." in path and path[-1] not in "]}" and ".metadata" not in path]
    assert len(fields) > 200
    assert [path for path in fields if not EVERY[path].get("description", "").endswith(".")] == []


def test_descriptions_are_one_line() -> None:
    assert [path for path, schema in EVERY.items() if "\n" in schema.get("description", "")] == []


def test_there_are_only_keys_that_a_structural_schema_may_have() -> None:
    assert {path: schema.keys() - ALLOWED for path, schema in EVERY.items() if schema.keys() - ALLOWED} == {}


def test_every_schema_has_a_type_or_is_int_or_string() -> None:
    wrong = [path for path, schema in EVERY.items() if ("type" in schema) == ("x-kubernetes-int-or-string" in schema)]
    assert wrong == []


@pytest.mark.parametrize("path", [pytest.param(path, id=path) for path in EVERY if EVERY[path].get("type") == "object"])
def test_an_object_says_what_it_holds(path: str) -> None:
    """Or everything in it would be pruned."""
    schema = EVERY[path]
    holds = {"properties", "additionalProperties", "x-kubernetes-preserve-unknown-fields"} & schema.keys()
    assert len(holds) == (0 if path.endswith(".ordering") else 1)


def test_a_list_says_what_it_holds_and_map_lists_require_their_keys() -> None:
    for path, schema in EVERY.items():
        assert ("items" in schema) == (schema.get("type") == "array"), path
        if schema.get("x-kubernetes-list-type") == "map":
            assert set(schema["x-kubernetes-list-map-keys"]) <= set(schema["items"]["required"]), path


def test_required_fields_exist_and_have_no_default() -> None:
    for path, schema in EVERY.items():
        for name in schema.get("required", []):
            assert "default" not in schema["properties"][name], f"{path}.{name}"


def test_a_default_of_an_object_is_what_its_fields_say() -> None:
    for path in (".spec.scaling",):
        fields = ALL[path]["properties"]
        assert ALL[path]["default"] == {name: field["default"] for name, field in fields.items()}


def test_these_fields_have_defaults() -> None:
    assert {path.removeprefix(".spec."): schema["default"] for path, schema in ALL.items() if "default" in schema} == {
        "code.language": "python",
        "deletionPolicy": "Delete",
        "deliverFrom": "Creation",
        "isolation": "Thread",
        "scaling": {
            "minReplicas": 1,
            "maxReplicas": 10,
            "engine": "Native",
            "targetDrainSeconds": 60,
            "idleSeconds": 300,
        },
        "scaling.engine": "Native",
        "scaling.idleSeconds": 300,
        "scaling.maxReplicas": 10,
        "scaling.minReplicas": 1,
        "scaling.targetDrainSeconds": 60,
        "suspend": False,
        ".status": {"observedGeneration": -1},
    }


def test_what_an_app_may_say_has_no_default_from_the_server() -> None:
    """Or nobody could tell what the user has said. The description names it."""
    below = {path.removeprefix(".spec.defaults"): path for path in APP if path.startswith(".spec.defaults.")}
    assert {".retry.maxAttempts", ".concurrency", ".timeoutSeconds", ".pod.env"} <= below.keys()
    assert [path for path in below if "default" in ALL[f".spec{path}"]] == []
    assert ALL[".spec.concurrency"]["description"] == "Attempts at once in one pod. Default: the App's, else 16."
    assert [path for path in APP if "default" in APP[path]] == [".status"]


def test_what_is_replaced_as_a_whole_gets_no_defaults_from_the_server() -> None:
    """They would make the very same manifest of another field manager a conflict. The description names them."""
    assert ALL[".spec.triggers[].cron.timeZone"]["description"].endswith(" Default: Etc/UTC.")
    assert ALL[".spec.triggers[].stream.on"]["description"] == "Which changes. Default: Create, Update, Delete."


@pytest.mark.parametrize(
    ("path", "schema"),
    [
        pytest.param(
            ".spec.timeoutSeconds",
            {
                "type": "number",
                "description": "Longest time of one attempt, in seconds. Default: the App's, else 30 for api and 900 "
                "for anything else.",
                "minimum": 0,
                "exclusiveMinimum": True,
                "maximum": 86400,
            },
            id="an optional number above 0 has its bound in the old spelling and no null",
        ),
        pytest.param(
            ".spec.triggers[].api.maxBodyBytes",
            {
                "description": "Largest request body that is read, as a quantity such as 1Mi. Default: 1Mi.",
                "x-kubernetes-int-or-string": True,
                "minimum": 1,
                "maxLength": 18,
            },
            id="a quantity is an integer or a string",
        ),
        pytest.param(
            ".spec.triggers[].api.body",
            {
                "type": "object",
                "description": "JSON Schema of the request body.",
                "x-kubernetes-preserve-unknown-fields": True,
            },
            id="a JSON Schema keeps what is in it",
        ),
        pytest.param(
            ".spec.triggers[].event.topics",
            {
                "type": "array",
                "description": "Exact names of topics.",
                "minItems": 1,
                "maxItems": 32,
                "items": {"type": "string", "minLength": 1, "maxLength": 1024},
                "x-kubernetes-list-type": "set",
            },
            id="topics are a set",
        ),
        pytest.param(
            ".spec.isolation",
            {
                "type": "string",
                "description": "Where handlers run: in the runtime (Thread), or in a process of their own beside it "
                "(Process).",
                "enum": ["Thread", "Process"],
                "default": "Thread",
            },
            id="an enum keeps the field's own description",
        ),
        pytest.param(
            ".spec.code.inline",
            {
                "type": "object",
                "description": "Source files by path, at most 96 KiB together.",
                "maxProperties": 64,
                "additionalProperties": {"type": "string", "maxLength": 98304},
            },
            id="a map has bounds",
        ),
        pytest.param(
            ".spec.pod.env[]",
            {
                "type": "object",
                "description": "An environment variable.",
                "required": ["name"],
                "properties": {
                    "name": {
                        "type": "string",
                        "description": "Name of the variable.",
                        "minLength": 1,
                        "maxLength": 253,
                    },
                    "value": {"type": "string", "description": "Its value."},
                    "valueFrom": {
                        "type": "object",
                        "description": "Where its value comes from, as in a pod.",
                        "x-kubernetes-preserve-unknown-fields": True,
                    },
                },
                "x-kubernetes-validations": [
                    {
                        "rule": "!self.name.startsWith('BEMA_')",
                        "message": "names that begin with BEMA_ belong to Bema",
                        "fieldPath": ".name",
                        "reason": "FieldValueForbidden",
                    },
                    {
                        "rule": "!(has(self.value) && has(self.valueFrom))",
                        "message": "an environment variable has at most one of value, valueFrom",
                    },
                ],
            },
            id="a model carries its rules",
        ),
        pytest.param(
            ".status.conditions[].reason",
            {"type": "string", "description": "Why, in one word.", "minLength": 1, "maxLength": 316},
            id="the reasons of a later version are not refused",
        ),
    ],
)
def test_a_field_has_this_schema(path: str, schema: Schema) -> None:
    assert ALL[path] == schema


def test_conditions_have_the_fields_of_the_apis_own() -> None:
    conditions = STATUS["properties"]["conditions"]
    assert (conditions["x-kubernetes-list-type"], conditions["x-kubernetes-list-map-keys"]) == ("map", ["type"])
    assert set(conditions["items"]["required"]) == {"type", "status", "reason", "message", "lastTransitionTime"}
    assert set(conditions["items"]["properties"]) == {str(field.alias) for field in Condition.model_fields.values()}
    assert conditions["items"]["properties"]["lastTransitionTime"]["format"] == "date-time"


def test_how_the_kind_is_named_and_shown() -> None:
    spec = CRD["spec"]
    assert CRD["metadata"]["name"] == "steps.bema.dev"
    assert (spec["group"], VERSION["name"], spec["scope"]) == ("bema.dev", "v1alpha1", "Namespaced")
    assert spec["names"] == {
        "kind": "Step",
        "listKind": "StepList",
        "plural": "steps",
        "singular": "step",
        "shortNames": ["stp"],
        "categories": ["bema"],
    }
    shown = [column["name"] for column in VERSION["additionalPrinterColumns"] if "priority" not in column]
    wide = [column["name"] for column in VERSION["additionalPrinterColumns"] if column.get("priority") == 1]
    assert shown == ["Type", "Trigger", "Ready", "Replicas", "Backlog", "Age"]
    assert wide == ["Reason", "URL", "Image"]


def test_how_an_app_is_named_and_shown() -> None:
    spec = crds.crd(crds.APP)["spec"]
    version = spec["versions"][0]
    assert spec["names"] == {
        "kind": "App",
        "listKind": "AppList",
        "plural": "apps",
        "singular": "app",
        "categories": ["bema"],
    }
    assert [column["name"] for column in version["additionalPrinterColumns"]] == [
        *("Ready", "Storage", "Steps", "Age", "Reason")
    ]
    paths = [column["jsonPath"].replace('[?(@.type=="Ready")]', "[]") for column in version["additionalPrinterColumns"]]
    assert set(paths) - APP.keys() == {".metadata.creationTimestamp"}
    assert version["subresources"] == {"status": {}}
    assert APP[".status"]["default"] == {"observedGeneration": -1}


@pytest.mark.parametrize(
    "path",
    [
        pytest.param(path, id=path)
        for path in (
            *(column["jsonPath"] for column in VERSION["additionalPrinterColumns"]),
            *VERSION["subresources"]["scale"].values(),
        )
    ],
)
def test_a_path_of_a_column_or_of_the_scale_leads_to_a_field(path: str) -> None:
    plain = path.replace('[?(@.type=="Ready")]', "[]")
    assert plain in ALL or plain == ".metadata.creationTimestamp"


def _models(model: type[Model] = Model) -> Iterator[type[Model]]:
    for child in model.__subclasses__():
        yield child
        yield from _models(child)


def test_rules_belong_to_models_that_exist() -> None:
    assert set(rules.RULES) - {model.__name__ for model in _models()} == set()


def _validations(path: str) -> list[Schema]:
    return list(EVERY[path].get("x-kubernetes-validations", []))


@pytest.mark.parametrize("path", [pytest.param(path, id=path) for path in EVERY if _validations(path)])
def test_a_rule_blames_a_field_that_exists_in_words_of_one_line(path: str) -> None:
    for rule in _validations(path):
        assert f"{path}{rule.get('fieldPath', '')}" in EVERY
        assert 0 < len(rule["message"]) <= 2048
        assert "\n" not in rule["message"] + rule["rule"]


def test_a_rule_with_a_value_ends_its_message_with_it() -> None:
    rule = rules.Rule("self.a == 'it\\'s'", "expected it's", field=".a", show=True)
    assert rule.dump() == {
        "rule": "self.a == 'it\\'s'",
        "message": "expected it's",
        "messageExpression": "'expected it\\'s, found ' + \"'\" + self.a + \"'\"",
        "fieldPath": ".a",
    }


def test_one_of_rules_name_every_member() -> None:
    [rule] = rules.RULES["Volume"]
    assert all(str(field.alias) in rule.message for name, field in Volume.model_fields.items() if name != "name")


def test_a_field_with_a_rule_in_words_has_no_pattern_beside_it() -> None:
    assert [path for path, schema in EVERY.items() if "pattern" in schema] == []


def test_a_union_that_no_structural_schema_can_say_is_refused() -> None:
    class Undecided(Model):
        value: int | str
        """Either."""

    with pytest.raises(TypeError, match="no structural schema for a union"):
        crds.structural(Undecided)


@pytest.mark.parametrize("kind", KINDS)
def test_the_crd_says_which_version_it_is_of(kind: crds.Resource) -> None:
    annotations = crds.crd(kind)["metadata"]["annotations"]
    assert annotations == {"bema.dev/version": versions.VERSION, "bema.dev/schema": crds.digest(kind)}


@pytest.mark.parametrize("path", PROJECTS, ids=lambda path: path.parent.name)
def test_all_distributions_are_of_one_version(path: Path) -> None:
    project = tomllib.loads(path.read_text())["project"]
    assert project["version"] == versions.VERSION
