"""The CRD in a real API server: taken as structural, and every rule refuses with its own words.

Objects are sent with `--dry-run=server` where that is enough. Those that stay ask for something that this version does
not support, so that an operator in the same cluster starts nothing for them.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Protocol

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from bema.contract.steps import MAX_INLINE_BYTES, StepSpec
from tests.support import strategies
from tools.cluster import errors

pytestmark = pytest.mark.e2e

FILE = Path(__file__).parents[2] / "crds/steps.yaml"
NAMESPACE = "crd-test"
CODE = {"entrypoint": "steps/a_step.py", "image": "shop:1"}
EVENT = {"event": {"topics": ["order.created"]}}


class Cluster(Protocol):
    def kubectl(self, *arguments: str, input: str | None = None, seconds: float = 60) -> str: ...


class Steps:
    """kubectl in the namespace of these tests."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster

    def kubectl(self, *arguments: str, input: str | None = None) -> str:
        return self._cluster.kubectl("--namespace", NAMESPACE, *arguments, input=input)

    def refusal(self, *arguments: str, input: str | None = None) -> str:
        """What kubectl says when the API server refuses."""
        with pytest.raises(errors.CommandFailed) as caught:
            self.kubectl(*arguments, input=input)
        return str(caught.value).partition("ended with code 1: ")[2]

    def tried(self, *manifests: dict[str, Any]) -> list[dict[str, Any]]:
        """The objects as the API server would store them. Not by apply: that of the client loses nulls in a schema,
        that of the server takes no control characters."""
        listed = json.dumps({"apiVersion": "v1", "kind": "List", "items": manifests})
        answer = self.kubectl("create", *TRY, "-o", "jsonpath-as-json={@}", "-f", "-", input=listed)
        return list(_documents(answer))


def _documents(text: str) -> Iterator[dict[str, Any]]:
    """kubectl prints one document after the other, each in a list."""
    decoder, rest = json.JSONDecoder(), text.strip()
    while rest:
        [found], end = decoder.raw_decode(rest)
        yield found
        rest = rest[end:].lstrip()


VERSION = "jsonpath={.metadata.generation}"
TRY = ("--dry-run=server", "--validate=strict")


@pytest.fixture(scope="module")
def kept(cluster: Cluster) -> Iterator[Steps]:
    """The CRD as it is in the repository, and a namespace for this module."""
    cluster.kubectl("apply", "-f", str(FILE))
    cluster.kubectl("wait", "--for=condition=Established", "crd/steps.bema.dev", "--timeout=30s")
    cluster.kubectl("create", "namespace", NAMESPACE)
    try:
        yield Steps(cluster)
    finally:
        cluster.kubectl("delete", "namespace", NAMESPACE, "--wait=true", seconds=90)


def step(name: str = "refused", **spec: Any) -> dict[str, Any]:
    return {"apiVersion": "bema.dev/v1alpha1", "kind": "Step", "metadata": {"name": name}, "spec": spec}


def triggered(*triggers: Any, **fields: Any) -> dict[str, Any]:
    return step(**{"triggers": list(triggers) or [EVENT], "code": CODE, **fields})


def coded(**code: Any) -> dict[str, Any]:
    return triggered(code={"entrypoint": "a.py", **code})


ONE_MEMBER = "Invalid value: a trigger has exactly one of api, event, cron, state, stream"
ONE_SOURCE = "Invalid value: code has exactly one of inline, image"
OUTSIDE = "Invalid value: expected a path below the app's folder"
FIVE_FIELDS = (
    "Invalid value: expected 5 fields (minute hour day-of-month month day-of-week) such as 0 2 * * *, "
    "or one of @hourly, @daily, @midnight, @weekly, @monthly, @yearly, @annually, found"
)
TIME_ZONE = "Invalid value: expected an IANA time zone such as Europe/Paris, found"
DNS_LABEL = "Invalid value: expected a DNS label such as charge-payment: lower-case letters, digits and hyphens"
TOO_LONG = "Invalid value: expected a name of at most 47 characters, because Jobs and pods are named after it"

REFUSED = [
    pytest.param(
        triggered({**EVENT, "cron": {"schedule": "@daily"}}), [f"spec.triggers[0]: {ONE_MEMBER}"], id="two members"
    ),
    pytest.param(triggered(EVENT, {}), [f"spec.triggers[1]: {ONE_MEMBER}"], id="no member"),
    pytest.param(
        {**triggered({"api": {"path": "/a"}}), "metadata": {"name": "2fa"}},
        [
            "metadata.name: Invalid value: expected a name that begins with a letter, because a Service is named after "
            "a Step with an api trigger"
        ],
        id="a name that no Service can have",
    ),
    pytest.param(
        triggered({"event": {"topics": ["a"], "batch": {}}}, {"event": {"topics": ["b"]}}),
        [
            "spec.triggers: Invalid value: expected a trigger with a batch to be the only one of its Step, because its "
            "handler takes a list"
        ],
        id="a batch beside another trigger",
    ),
    *(
        pytest.param(
            triggered({"event": {"topics": ["a"], "batch": batch}}, maxInFlight=in_flight),
            [
                "spec.maxInFlight: Invalid value: expected maxInFlight to be at least the size of a batch, or none "
                "would ever fill"
            ],
            id=f"fewer in flight than in a batch of {batch.get('size', 'the default size')}",
        )
        for batch, in_flight in (({"size": 8}, 7), ({}, 99))
    ),
    pytest.param(triggered({"event": None}), [f"spec.triggers[0]: {ONE_MEMBER}"], id="a null for a member"),
    *(
        pytest.param(
            triggered({"cron": {"schedule": schedule}}),
            [f"spec.triggers[0].cron.schedule: {FIVE_FIELDS} '{schedule}'"],
            id=f"the schedule {schedule}",
        )
        for schedule in ("0 2 * *", "60 * * * *", "* 24 * * *", "* * 0 * *", "* * * 13 *", "* * * * 7", "@reboot")
    ),
    *(
        pytest.param(
            triggered({"cron": {"schedule": "@daily", "timeZone": zone}}),
            [f"spec.triggers[0].cron.timeZone: {TIME_ZONE} '{zone}'"],
            id=f"the time zone {zone or 'of no name'}",
        )
        for zone in ("", "local", "Europe / Paris", "../UTC")
    ),
    pytest.param(
        triggered({"api": {"path": "orders"}}),
        ["spec.triggers[0].api.path: Invalid value: expected a path such as /orders/{id}, found 'orders'"],
        id="a path without its slash",
    ),
    pytest.param(
        triggered({"api": {"path": "/a", "maxBodyBytes": "1MB"}}),
        [
            "spec.triggers[0].api.maxBodyBytes: Invalid value: expected a number of bytes such as 65536, 512Ki or 1Mi",
        ],
        id="an unknown unit",
    ),
    pytest.param(
        triggered({"event": {"topics": ["a", "a"]}}),
        ['spec.triggers[0].event.topics[1]: Duplicate value: "a"'],
        id="a topic twice in a trigger",
    ),
    pytest.param(
        triggered({"event": {"topics": ["a", "b"]}}, {"event": {"topics": ["b"]}}),
        ["spec.triggers: Invalid value: expected each topic in one trigger, found one in several"],
        id="a topic in two triggers",
    ),
    pytest.param(
        triggered(emits=[{"topic": "a"}, {"topic": "a", "description": "again"}]),
        ['spec.emits[1]: Duplicate value: {"topic":"a"}'],
        id="a topic emitted twice",
    ),
    pytest.param(
        step(triggers=[EVENT]),
        ["spec.code: Required value: a Step with triggers has code; found triggers without code"],
        id="triggers without code",
    ),
    pytest.param(
        step(code=CODE),
        ["spec.triggers: Required value: a Step with code has triggers; found code without triggers"],
        id="code without triggers",
    ),
    pytest.param(
        triggered(virtualEmits=["a"]),
        ["spec.triggers: Invalid value: virtualEmits and virtualSubscribes belong to a noop; found triggers too"],
        id="virtual emits beside triggers",
    ),
    pytest.param(coded(), [f"spec.code: {ONE_SOURCE}"], id="no source of code"),
    pytest.param(coded(image="shop:1", inline={"a.py": "#"}), [f"spec.code: {ONE_SOURCE}"], id="both inline and image"),
    pytest.param(
        coded(inline={"b.py": "#"}),
        ["spec.code.entrypoint: Invalid value: expected the entrypoint among the files of inline"],
        id="an entrypoint that is not among the files",
    ),
    pytest.param(coded(inline={"a.py": "#", "../b.py": "#"}), [f"spec.code.inline: {OUTSIDE}"], id="a file outside"),
    pytest.param(
        triggered(code={"entrypoint": "/a.py", "image": "shop:1"}),
        [f"spec.code.entrypoint: {OUTSIDE}"],
        id="an entrypoint outside",
    ),
    pytest.param(
        coded(inline={"a.py": "x" * (MAX_INLINE_BYTES - 1), "b.py": "é"}),
        ["spec.code.inline: Invalid value: inline code: expected at most 98304 bytes together"],
        id="code that is a byte too large",
    ),
    pytest.param(
        triggered(scaling={"minReplicas": 20}),
        ["spec.scaling.minReplicas: Invalid value: expected minReplicas ≤ maxReplicas"],
        id="more pods at least than at most",
    ),
    pytest.param(
        triggered(retry={"initialSeconds": 2.5, "maxSeconds": 2}),
        ["spec.retry.initialSeconds: Invalid value: expected initialSeconds ≤ maxSeconds"],
        id="a first delay above the longest",
    ),
    pytest.param(
        triggered(deliverFrom="2026-02-29T00:00:00Z"),
        [
            'spec: Invalid value: "object": type conversion error from '
            "'string' to 'google.protobuf.Timestamp' evaluating rule: "
            "expected a day that the calendar has"
        ],
        id="a day that the calendar has not",
    ),
    *(
        pytest.param(
            manifest | {"spec": {**manifest["spec"], "restartOn": {"configMaps": ["a"]}}},
            [
                "spec.restartOn: Invalid value: expected restartOn with pods that run all the time (api, event or "
                "state triggers), because a schedule's Job reads its ConfigMaps as it starts"
            ],
            id=f"restarts of {what}",
        )
        for what, manifest in (("a schedule", triggered({"cron": {"schedule": "@daily"}})), ("a noop", step()))
    ),
    pytest.param(
        triggered({"api": {"path": "/a"}}, adoptFrom="old"),
        [
            "spec.adoptFrom: Invalid value: expected adoptFrom with event or state triggers, because a place in the "
            "stream is what is taken over"
        ],
        id="a place in the stream for requests",
    ),
    *(
        pytest.param(
            triggered(adoptFrom=former),
            ["spec.adoptFrom: Invalid value: expected the name of another Step such as charge-payment"],
            id=f"the place of {former}",
        )
        for former in ("refused", "a_b")
    ),
    pytest.param(
        triggered(restartOn={"configMaps": ["a_b"]}),
        ["spec.restartOn.configMaps: Invalid value: expected the name of a ConfigMap such as shop-settings"],
        id="a name that no ConfigMap can have",
    ),
    pytest.param(
        triggered(restartOn={"configMaps": ["a", "b", "a"]}),
        ['spec.restartOn.configMaps[2]: Duplicate value: "a"'],
        id="a ConfigMap twice",
    ),
    pytest.param(
        triggered(deliverFrom="Yesterday"),
        [
            "spec.deliverFrom: Invalid value: expected Creation, Beginning, Now or a time such as "
            "2026-01-31T12:00:00Z, found 'Yesterday'"
        ],
        id="a start that is none",
    ),
    pytest.param(
        triggered(
            pod={
                "env": [{"name": "BEMA_X"}, {"name": "A", "value": "", "valueFrom": {}}],
                "envFrom": [{"prefix": "A_"}],
                "volumes": [{"name": "v", "secret": {}, "emptyDir": {}}],
                "labels": {"x.bema.dev/y": "z"},
            }
        ),
        [
            "spec.pod.labels: Forbidden: labels below bema.dev/ and app.kubernetes.io/ belong to Bema",
            "spec.pod.env[0].name: Forbidden: names that begin with BEMA_ belong to Bema",
            "spec.pod.env[1]: Invalid value: an environment variable has at most one of value, valueFrom",
            "spec.pod.envFrom[0]: Invalid value: an entry of envFrom has exactly one of configMapRef, secretRef",
            "spec.pod.volumes[0]: Invalid value: a volume has exactly one of configMap, secret, emptyDir, projected, "
            "persistentVolumeClaim",
        ],
        id="a pod with five mistakes",
    ),
    pytest.param(
        triggered(isolation="Fiber"),
        [
            'spec.isolation: Unsupported value: "Fiber": supported values: "Thread", "Process"',
            "<nil>: Invalid value: null: some validation rules were not checked because the object was invalid; "
            "correct the existing errors to complete validation",
        ],
        id="an unknown word",
    ),
    pytest.param(step("a" * 48), [f"metadata.name: {TOO_LONG}"], id="a name that is too long"),
    pytest.param(step("a.b"), [f"metadata.name: {DNS_LABEL}"], id="a name with a dot"),
]


@pytest.mark.parametrize(("manifest", "causes"), REFUSED)
def test_the_api_server_refuses_with_these_words(kept: Steps, manifest: dict[str, Any], causes: list[str]) -> None:
    said = kept.refusal("apply", *TRY, "-f", "-", input=json.dumps(manifest))
    head, _, text = said.partition(" is invalid: ")
    assert head == f'The Step "{manifest["metadata"]["name"]}"'
    assert sorted(line.removeprefix("* ") for line in text.strip().splitlines()) == sorted(causes)


@pytest.mark.parametrize(
    ("manifest", "field"),
    [
        pytest.param(step(trigers=[]), "spec.trigers", id="in the spec"),
        pytest.param(triggered({"api": {"path": "/a", "verb": "GET"}}), "spec.triggers[0].api.verb", id="in a trigger"),
    ],
)
def test_an_unknown_field_is_refused_by_name(kept: Steps, manifest: dict[str, Any], field: str) -> None:
    said = kept.refusal("apply", *TRY, "-f", "-", input=json.dumps(manifest))
    assert said == (
        'Error from server (BadRequest): error when creating "STDIN": Step in version "v1alpha1" cannot be handled as '
        f'a Step: strict decoding error: unknown field "{field}"'
    )


@pytest.mark.parametrize("patch", [pytest.param('"other"', id="another"), pytest.param("null", id="none")])
def test_whose_place_a_step_takes_cannot_change(kept: Steps, patch: str) -> None:
    manifest = triggered(capture="Off", adoptFrom="former") | {"metadata": {"name": "adopts"}}
    kept.kubectl("apply", "-f", "-", input=json.dumps(manifest))
    said = kept.refusal("patch", "step", "adopts", "--type=merge", "--patch", f'{{"spec": {{"adoptFrom": {patch}}}}}')
    assert said == (
        'The Step "adopts" is invalid: spec.adoptFrom: Forbidden: adoptFrom says where a new Step begins and cannot '
        "change afterwards; give the Step another name"
    )


@pytest.mark.parametrize(
    ("name", "trigger"),
    [
        pytest.param("hears-events", EVENT, id="events"),
        pytest.param("hears-state", {"state": {"group": "orders"}}, id="changes of the state"),
    ],
)
def test_where_a_step_begins_cannot_change_once_it_hears_events(
    kept: Steps, name: str, trigger: dict[str, Any]
) -> None:
    manifest = triggered(trigger, capture="Off") | {"metadata": {"name": name}}
    kept.kubectl("apply", "-f", "-", input=json.dumps(manifest))
    said = kept.refusal("patch", "step", name, "--type=merge", "--patch", '{"spec": {"deliverFrom": "Now"}}')
    assert said == (
        f'The Step "{name}" is invalid: spec.deliverFrom: Forbidden: deliverFrom says where a new Step begins and '
        "cannot change afterwards; give the Step another name"
    )
    cron = {"triggers": [{"cron": {"schedule": "@daily"}}], "deliverFrom": "Now"}
    kept.kubectl("patch", "step", name, "--type=merge", "--patch", json.dumps({"spec": cron}))


def test_the_server_takes_the_schema_as_structural(kept: Steps) -> None:
    conditions = json.loads(kept.kubectl("get", "crd", "steps.bema.dev", "-o", "json"))["status"]["conditions"]
    found = {condition["type"]: condition["status"] for condition in conditions}
    assert found == {"NamesAccepted": "True", "Established": "True"}


def test_applying_the_crd_again_changes_nothing(kept: Steps) -> None:
    said = kept.kubectl("apply", "-f", str(FILE))
    assert said.strip() == "customresourcedefinition.apiextensions.k8s.io/steps.bema.dev unchanged"


def test_a_step_comes_back_with_its_defaults_and_a_second_apply_changes_nothing(kept: Steps) -> None:
    triggers = [{"api": {"path": "/a"}}, {"cron": {"schedule": "@daily"}}]
    manifest = step("defaults", triggers=triggers, code=CODE, capture="Off", retry={"maxAttempts": 5})
    kept.kubectl("apply", "-f", "-", input=json.dumps(manifest))
    assert json.loads(kept.kubectl("get", "step", "defaults", "-o", "json"))["spec"] == {
        "triggers": triggers,
        "code": {**CODE, "language": "python"},
        "retry": {"maxAttempts": 5},
        "isolation": "Thread",
        "scaling": {
            "minReplicas": 1,
            "maxReplicas": 10,
            "engine": "Native",
            "targetDrainSeconds": 60,
            "idleSeconds": 300,
        },
        "deliverFrom": "Creation",
        "deletionPolicy": "Delete",
        "suspend": False,
        "capture": "Off",
    }
    before = kept.kubectl("get", "step", "defaults", "-o", VERSION)
    said = kept.kubectl("apply", "-f", "-", input=json.dumps(manifest))
    assert said.strip() == "step.bema.dev/defaults unchanged"
    assert kept.kubectl("get", "step", "defaults", "-o", VERSION) == before
    assert kept.kubectl("diff", "-f", "-", input=json.dumps(manifest)) == ""


def test_the_same_manifest_of_another_manager_is_no_conflict(kept: Steps) -> None:
    triggers = [{"api": {"path": "/a"}}, {"cron": {"schedule": "@daily"}}, {"event": {"topics": ["a"]}}]
    manifest = json.dumps(step("managers", triggers=triggers, code=CODE))
    kept.kubectl("apply", "-f", "-", input=manifest)
    for manager in ("argocd", "flux"):
        kept.kubectl("apply", "--server-side", "--field-manager", manager, "-f", "-", input=manifest)
    assert kept.kubectl("diff", "--server-side", "-f", "-", input=manifest) == ""


@settings(
    max_examples=8,
    phases=[Phase.generate],
    deadline=None,
    derandomize=True,
    suppress_health_check=list(HealthCheck),
)
@given(specs=st.lists(strategies.specs(), min_size=15, max_size=15))
def test_what_the_models_accept_the_server_accepts_and_gives_back(kept: Steps, specs: list[dict[str, Any]]) -> None:
    found = kept.tried(*(step(f"step-{number}", **spec) for number, spec in enumerate(specs)))
    assert [StepSpec.model_validate(item["spec"]) for item in found] == [
        StepSpec.model_validate(item) for item in specs
    ]


def test_as_much_code_as_a_step_may_hold_can_be_applied_by_the_client(kept: Steps) -> None:
    """Client-side apply stores the manifest once more, escaped, in an annotation of at most 256 KiB."""
    line = 'if a < b: print("c")\n'
    source = line * (MAX_INLINE_BYTES // len(line))
    manifest = triggered(code={"entrypoint": "a.py", "inline": {"a.py": source}})
    assert kept.kubectl("apply", *TRY, "-f", "-", input=json.dumps(manifest)).startswith(
        "step.bema.dev/refused created"
    )


def test_scale_sets_the_replicas_of_a_step_that_had_none(kept: Steps) -> None:
    kept.kubectl("apply", "-f", "-", input=json.dumps(triggered(capture="Off") | {"metadata": {"name": "scaled"}}))
    kept.kubectl("scale", "step/scaled", "--replicas=3")
    assert kept.kubectl("get", "step", "scaled", "-o", "jsonpath={.spec.replicas}") == "3"


def test_the_columns_of_kubectl_get(kept: Steps) -> None:
    kept.kubectl("apply", "-f", "-", input=json.dumps(step("columns")))
    assert kept.kubectl("get", "bema").splitlines()[0].split() == [
        *("NAME", "TYPE", "TRIGGER", "READY", "REPLICAS", "BACKLOG", "AGE")
    ]
    assert kept.kubectl("get", "stp", "-o", "wide").splitlines()[0].split() == [
        *("NAME", "TYPE", "TRIGGER", "READY", "REPLICAS", "BACKLOG", "AGE", "REASON", "URL", "IMAGE")
    ]


def test_the_status_takes_reasons_of_a_later_version(kept: Steps) -> None:
    kept.kubectl("apply", "-f", "-", input=json.dumps(step("later")))
    condition = {
        "type": "Novel",
        "status": "Unknown",
        "reason": "NobodyKnows",
        "message": "",
        "lastTransitionTime": "2026-01-02T03:04:05Z",
    }
    patch = json.dumps({"status": {"conditions": [condition]}})
    arguments = ("--subresource=status", "--type=merge", "--patch", patch, "--dry-run=server", "-o", "json")
    found = json.loads(kept.kubectl("patch", "step", "later", *arguments))
    assert found["status"]["conditions"] == [condition]
