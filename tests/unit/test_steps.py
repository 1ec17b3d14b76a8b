"""Steps: what is accepted, what is refused and with which words, and what this version does not act on."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given, settings
from pydantic.alias_generators import to_snake

from bema.contract import crds, errors, steps
from bema.contract.steps import MAX_INLINE_BYTES, Step, StepSpec
from tests.support import strategies

CODE = {"entrypoint": "steps/a_step.py", "image": "shop:1"}
EVENT = {"event": {"topics": ["order.created"]}}
API = {"api": {"path": "/orders"}}
CRON = {"cron": {"schedule": "@daily"}}


def config(*triggers: Any, **fields: Any) -> dict[str, Any]:
    return {"triggers": list(triggers) or [EVENT], "code": CODE, **fields}


def inline(**code: Any) -> dict[str, Any]:
    return config(code={"entrypoint": "a.py", **code})


def cron(schedule: str, **fields: Any) -> dict[str, Any]:
    return config({"cron": {"schedule": schedule, **fields}})


def pod(**fields: Any) -> dict[str, Any]:
    return config(pod=fields)


ONE_MEMBER = "a trigger has exactly one of api, event, cron, state, stream; found"
DELIVER = "expected Creation, Beginning, Now or a time such as 2026-01-31T12:00:00Z, found"
VOLUME = "a volume has exactly one of configMap, secret, emptyDir, projected, persistentVolumeClaim; found"


@pytest.mark.parametrize(
    ("spec", "lines"),
    [
        pytest.param({"trigers": []}, ["unknown key 'trigers'; did you mean 'triggers'?"], id="a key with a slip"),
        pytest.param({"time_out": 5}, ["unknown key 'time_out'; did you mean 'timeoutSeconds'?"], id="half a key"),
        pytest.param(
            config({"api": {"path": "/a", "verb": "GET"}}),
            [
                "unknown key 'triggers[0].api.verb'; valid keys are method, path, body, query, responses, "
                "maxBodyBytes, auth, condition"
            ],
            id="a key like no other lists the valid ones",
        ),
        pytest.param(
            config(retry={"max_atempts": 3}),
            ["unknown key 'retry.max_atempts'; did you mean 'maxAttempts'?"],
            id="a key with a slip in an object",
        ),
        pytest.param(
            pod(env=[{"name": "A", "valueForm": {}}]),
            ["unknown key 'pod.env[0].valueForm'; did you mean 'valueFrom'?"],
            id="a key with a slip in a list",
        ),
        pytest.param(
            {"concurency": 1, "flow": ["a"]},
            ["unknown key 'concurency'; did you mean 'concurrency'?", "unknown key 'flow'; did you mean 'flows'?"],
            id="two problems are two lines",
        ),
        pytest.param(
            config({**EVENT, **CRON}), [f"triggers[0]: {ONE_MEMBER} event and cron"], id="two members in a trigger"
        ),
        pytest.param(config({}), [f"triggers[0]: {ONE_MEMBER} none"], id="no member in a trigger"),
        pytest.param(config({"event": None}), [f"triggers[0]: {ONE_MEMBER} none"], id="a null member is none"),
        pytest.param(config({"api": {}}), ["triggers[0].api.path is required"], id="an api trigger without a path"),
        pytest.param(
            config({"api": {"path": "orders"}}),
            ["triggers[0].api.path: expected a path such as /orders/{id}, found 'orders'"],
            id="a path without its slash",
        ),
        pytest.param(
            config({"api": {"path": "/orders/{id"}}),
            ["triggers[0].api.path: expected a path such as /orders/{id}, found '/orders/{id'"],
            id="a path with an open brace",
        ),
        pytest.param(
            config({"api": {"path": "/{id}/:id"}}),
            ["triggers[0].api.path: expected each path parameter once, found '/{id}/:id'"],
            id="a path with one parameter twice",
        ),
        pytest.param(
            config({"api": {"path": "/a", "method": "get"}}),
            [
                "triggers[0].api.method: input should be 'GET', 'POST', 'PUT', 'PATCH', 'DELETE', 'HEAD' or "
                "'OPTIONS', found 'get'"
            ],
            id="a method in lower case",
        ),
        pytest.param(
            config({"api": {"path": "/a", "maxBodyBytes": "1MB"}}),
            [
                "triggers[0].api.maxBodyBytes: expected a number of bytes such as 65536, 512Ki or 1Mi, found '1MB'",
            ],
            id="an unknown unit",
        ),
        pytest.param(
            config({"api": {"path": "/a", "maxBodyBytes": [1]}}),
            ["triggers[0].api.maxBodyBytes: expected a number of bytes such as 65536, 512Ki or 1Mi, found [1]"],
            id="a quantity that is a list",
        ),
        pytest.param(
            config({"api": {"path": "/a", "maxBodyBytes": True}}),
            ["triggers[0].api.maxBodyBytes: expected a number of bytes such as 65536, 512Ki or 1Mi, found True"],
            id="a quantity that is a boolean",
        ),
        pytest.param(
            config({"event": {"topics": []}}),
            [
                "triggers[0].event.topics: list should have at least 1 item after validation, not 0, found []",
            ],
            id="an event trigger without topics",
        ),
        pytest.param(
            config({"event": {"topics": ["a", "b", "a"]}}),
            ["triggers[0].event: topics: expected each topic once, found a twice"],
            id="a topic twice in a trigger",
        ),
        pytest.param(
            config(EVENT, {"event": {"topics": ["b", "order.created"]}}),
            ["expected each topic in one trigger, found order.created in several"],
            id="a topic in two triggers",
        ),
        pytest.param(
            config({"event": {"topics": ["é" * 172]}}),
            [
                "triggers[0].event.topics[0]: topic is too long: expected at most 1024 characters once encoded for a "
                "subject (a character outside A-Z a-z 0-9 _ - / : @ counts three for each of its bytes), found 1032: "
                f"'{'é' * 40}'…"
            ],
            id="a topic that is too long once encoded",
        ),
        pytest.param(
            config(emits=["a", {"topic": "a"}]),
            ["emits: expected each topic once, found a twice"],
            id="a topic emitted twice",
        ),
        pytest.param(config(emits={"a"}), ["emits: expected a list of topics, found {'a'}"], id="emits as a set"),
        pytest.param(config(emits="a"), ["emits: expected a list of topics, found 'a'"], id="emits as a text"),
        pytest.param(
            config(emits={"topic": "a"}), ["emits: expected a list of topics, found {'topic': 'a'}"], id="emits alone"
        ),
        pytest.param(
            config(emits=["a", 5]),
            ["emits[1]: expected a topic, or an object with `topic` and `schema`, found 5"],
            id="a number for a topic",
        ),
        pytest.param(
            cron("0 2 * *"),
            [
                "triggers[0].cron.schedule: expected 5 fields (minute hour day-of-month month day-of-week), "
                "found 4 in '0 2 * *'"
            ],
            id="a schedule of four fields",
        ),
        pytest.param(
            cron("@daily", condition={"type": "null"}),
            [
                "triggers[0].cron: condition: expected a function in the Step's code, found a JSON Schema; a tick has "
                "no data that could fit one"
            ],
            id="a schema for a tick",
        ),
        pytest.param(
            cron("60 * * * *"), ["triggers[0].cron.schedule: minute: expected 0 to 59, found '60'"], id="a bad minute"
        ),
        pytest.param(
            cron("@daily", timeZone="Mars/Olympus"),
            [
                "triggers[0].cron.timeZone: expected an IANA time zone such as Europe/Paris, found 'Mars/Olympus'",
            ],
            id="a time zone that is none",
        ),
        pytest.param(
            {"triggers": [EVENT]}, ["a Step with triggers has code; found triggers without code"], id="no code"
        ),
        pytest.param({"code": CODE}, ["a Step with code has triggers; found code without triggers"], id="no triggers"),
        pytest.param(
            config(virtualEmits=["a"]),
            ["virtualEmits and virtualSubscribes belong to a noop; found triggers too"],
            id="virtual emits beside triggers",
        ),
        pytest.param(inline(), ["code: code has exactly one of inline, image; found neither"], id="no source of code"),
        pytest.param(
            inline(image="a", inline={"a.py": ""}),
            ["code: code has exactly one of inline, image; found both"],
            id="two sources of code",
        ),
        pytest.param(
            inline(inline={"b.py": "", "c.py": ""}),
            ["code: inline code: expected the entrypoint 'a.py', found b.py, c.py"],
            id="an entrypoint that is not among the files",
        ),
        *(
            pytest.param(
                inline(inline={"a.py": "", path: ""}),
                [f"code: expected a path below the app's folder, found {path!r}"],
                id=f"a file at {path}",
            )
            for path in ("/etc/passwd", "../a", "lib/../../a", "lib/", "lib//a", "./a", "")
        ),
        pytest.param(
            inline(inline={"a.py": "x" * MAX_INLINE_BYTES, "b.py": "é"}),
            ["code: inline code: expected at most 98304 bytes together, found 98306"],
            id="code that is too large",
        ),
        pytest.param(
            config(retry={"initialSeconds": 20, "maxSeconds": 1.5}),
            ["retry: expected initialSeconds ≤ maxSeconds, found 20 > 1.5"],
            id="a first delay above the longest",
        ),
        pytest.param(
            config(scaling={"minReplicas": 20}),
            ["scaling: expected minReplicas ≤ maxReplicas, found 20 > 10"],
            id="more pods at least than at most",
        ),
        pytest.param(
            config(concurrency=0),
            ["concurrency: input should be greater than or equal to 1, found 0"],
            id="a number below its bound",
        ),
        pytest.param(
            config(deliverFrom="Yesterday"), [f"deliverFrom: {DELIVER} 'Yesterday'"], id="a start that is none"
        ),
        pytest.param(
            config(deliverFrom="2026-02-30T00:00:00Z"),
            [f"deliverFrom: {DELIVER} '2026-02-30T00:00:00Z'"],
            id="a start on a day that never comes",
        ),
        pytest.param(
            config(deliverFrom="2026-01-31T12:00:00"),
            [f"deliverFrom: {DELIVER} '2026-01-31T12:00:00'"],
            id="a start without an offset",
        ),
        pytest.param(
            {"description": "a\0b"}, ["description: expected text without NUL characters"], id="a NUL in a description"
        ),
        pytest.param(
            {"description": ["x" * 90]},
            [f"description: input should be a valid string, found ['{'x' * 77}…"],
            id="a long value is cut in the message",
        ),
        pytest.param(
            pod(env=[{"name": "BEMA_X"}]),
            ["pod.env[0]: names that begin with BEMA_ belong to Bema, found 'BEMA_X'"],
            id="a variable with Bema's prefix",
        ),
        pytest.param(
            pod(env=[{"name": "A", "value": "", "valueFrom": {}}]),
            ["pod.env[0]: an environment variable has at most one of value, valueFrom; found both"],
            id="a variable with two values",
        ),
        pytest.param(
            pod(envFrom=[{"prefix": "A_"}]),
            ["pod.envFrom[0]: an entry of envFrom has exactly one of configMapRef, secretRef; found neither"],
            id="variables from nowhere",
        ),
        pytest.param(pod(volumes=[{"name": "v"}]), [f"pod.volumes[0]: {VOLUME} none"], id="a volume without a source"),
        pytest.param(
            pod(volumes=[{"name": "v", "secret": {}, "emptyDir": {}}]),
            [f"pod.volumes[0]: {VOLUME} secret and emptyDir"],
            id="a volume with two sources",
        ),
        pytest.param(
            pod(labels={"app.kubernetes.io/name": "x", "x.bema.dev/y": "z"}),
            [
                "pod: labels below bema.dev/ and app.kubernetes.io/ belong to Bema, found app.kubernetes.io/name, "
                "x.bema.dev/y"
            ],
            id="labels that are Bema's",
        ),
    ],
)
def test_what_is_no_step_is_refused_with_these_words(spec: dict[str, Any], lines: list[str]) -> None:
    with pytest.raises(errors.StepInvalid) as caught:
        steps.parse_spec(spec, where="a_step.py")
    assert str(caught.value).splitlines() == [f"a_step.py: {line}" for line in lines]


@pytest.mark.parametrize(
    "spec",
    [
        pytest.param({}, id="a noop of nothing"),
        pytest.param({"virtualEmits": ["a", "a"], "virtualSubscribes": ["b"]}, id="a noop with pictures"),
        pytest.param({"emits": ["a"]}, id="a noop that emits"),
        pytest.param(config(API, EVENT, API), id="two api triggers and an event"),
        pytest.param(inline(inline={"a.py": "é" * (MAX_INLINE_BYTES // 2)}), id="code as large as can be"),
        pytest.param(config({"api": {"path": "/"}}), id="the root path"),
        pytest.param(config({"event": {"topics": ["é" * 170]}}), id="a topic as long as can be"),
    ],
)
def test_what_is_a_step_is_accepted(spec: dict[str, Any]) -> None:
    assert steps.parse_spec(spec, where="a_step.py").dump()


def test_topics_by_name_alone_are_objects_once_parsed() -> None:
    spec = steps.parse_spec(config(emits=["a", {"topic": "b", "description": "c"}]), where="a_step.py")
    assert spec.dump()["emits"] == [{"topic": "a"}, {"topic": "b", "description": "c"}]


def test_a_batch_is_the_only_trigger_of_its_step() -> None:
    batch = {"event": {"topics": ["clicks"], "batch": {}}}
    assert steps.parse_spec(config(batch), where="a_step.py").events[0].batch is not None
    with pytest.raises(errors.StepInvalid, match="maxInFlight to be at least the size of a batch"):
        steps.parse_spec(config(batch, maxInFlight=99), where="a_step.py")
    with pytest.raises(errors.StepInvalid, match="expected a trigger with a batch to be the only one of its Step"):
        steps.parse_spec(config(batch, EVENT), where="a_step.py")


@pytest.mark.parametrize("former", ["pay", "Old", "a_b"])
def test_a_step_takes_over_the_place_of_another(former: str) -> None:
    spec = steps.parse_spec(config(adoptFrom=former), where="pay_step.py")
    with pytest.raises(errors.StepInvalid, match=f"adoptFrom: expected the name of another Step .*, found '{former}'"):
        steps.named("pay", spec, where="pay_step.py")


def test_who_hears_nothing_takes_over_no_place() -> None:
    for spec in (config({"api": {"path": "/a"}}, adoptFrom="old"), {"adoptFrom": "old"}):
        with pytest.raises(errors.StepInvalid, match="expected adoptFrom with event or state triggers"):
            steps.parse_spec(spec, where="a_step.py")


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        pytest.param(config(CRON, restartOn={"configMaps": ["a"]}), "found only a schedule", id="a schedule"),
        pytest.param({"restartOn": {"configMaps": ["a"]}}, "found a noop", id="a noop"),
        pytest.param(config(restartOn={"configMaps": ["A"]}), "such as shop-settings, found 'A'", id="no name"),
        pytest.param(config(restartOn={"configMaps": ["a", "a"]}), "found a twice", id="a name twice"),
        pytest.param(config(restartOn={"configMaps": []}), "at least 1 item", id="none"),
        pytest.param(config(restartOn={"configMaps": [*"abcdefghi"]}), "at most 8 items", id="nine"),
    ],
)
def test_what_restarts_no_pods_is_refused(spec: dict[str, Any], message: str) -> None:
    with pytest.raises(errors.StepInvalid, match=message):
        steps.parse_spec(spec, where="a_step.py")


def test_a_step_that_answers_requests_has_a_services_name() -> None:
    spec = steps.parse_spec(config({"api": {"path": "/a"}}), where="2fa_step.py")
    with pytest.raises(
        errors.StepInvalid,
        match=r"^2fa_step.py: expected a name that begins with a letter, because a Service is named .*, found '2fa'$",
    ):
        steps.named("2fa", spec, where="2fa_step.py")
    assert steps.named("2fa", StepSpec(), where="2fa_step.py").name == "2fa"


@pytest.mark.parametrize(
    "name", [pytest.param(name, id=name) for name in ("Charge", "a_b", "-a", "a-", "a.b", "", "a" * 48, "é")]
)
def test_a_step_has_a_dns_label_for_a_name(name: str) -> None:
    with pytest.raises(ValueError, match=r"DNS label of at most 47|at least 1 character|at most 47 characters"):
        Step(name=name, spec=StepSpec())


@settings(max_examples=50)
@given(strategies.specs())
def test_a_spec_is_what_its_dump_says(spec: dict[str, Any]) -> None:
    parsed = StepSpec.model_validate(spec)
    assert StepSpec.model_validate(parsed.dump()) == parsed


@settings(max_examples=50)
@given(strategies.specs())
def test_camel_case_and_snake_case_say_the_same(spec: dict[str, Any]) -> None:
    assert StepSpec.model_validate(_snake(spec, crds.structural(StepSpec))) == StepSpec.model_validate(spec)


def _snake(value: Any, schema: dict[str, Any]) -> Any:
    """The value with the keys that the schema names, and no others, in snake_case."""
    if isinstance(value, list):
        return [_snake(item, schema.get("items", {})) for item in value]
    if not isinstance(value, dict):
        return value
    known = schema.get("properties", {})
    return {to_snake(key) if key in known else key: _snake(item, known.get(key, {})) for key, item in value.items()}


NOT_SUPPORTED: dict[str, tuple[dict[str, Any], str]] = {
    "triggers[].api.auth": (
        config({"api": {"path": "/a", "auth": {}}}),
        "triggers[0].api.auth is not supported by this version",
    ),
    "triggers[].stream": (
        config({"stream": {"stream": "a"}}),
        "triggers[0].stream: a stream trigger is not supported by this version",
    ),
    "code.language": (
        config(code={**CODE, "language": "node"}),
        "code.language: node is not supported by this version; use python",
    ),
    "scaling.minReplicas": (
        config(scaling={"minReplicas": 0}),
        "scaling.minReplicas: 0 is not supported by this version; use 1 or more",
    ),
    "scaling.engine": (
        config(scaling={"engine": "HPA"}),
        "scaling.engine is not supported by this version; leave it out",
    ),
    "scaling.targetDrainSeconds": (
        config(scaling={"targetDrainSeconds": 61}),
        "scaling.targetDrainSeconds is not supported by this version; leave it out",
    ),
    "scaling.idleSeconds": (
        config(scaling={"idleSeconds": 301}),
        "scaling.idleSeconds is not supported by this version; leave it out",
    ),
    "deletionPolicy": (
        config(deletionPolicy="Drain"),
        "deletionPolicy: Drain is not supported by this version; use Delete",
    ),
    "capture": (config(capture="Off"), "capture is not supported by this version"),
    "pod.serviceAccountName": (
        pod(serviceAccountName="a"),
        "pod.serviceAccountName is not supported by this version",
    ),
}
"""For each field that says so in its description: a config that asks for it, and what is answered."""


@pytest.mark.parametrize(("spec", "sentence"), [pytest.param(*case, id=path) for path, case in NOT_SUPPORTED.items()])
def test_what_this_version_does_not_act_on_is_refused_by_name(spec: dict[str, Any], sentence: str) -> None:
    assert steps.not_supported(StepSpec.model_validate(spec)) == [sentence]


def test_a_cron_trigger_beside_others_is_refused_by_name() -> None:
    assert steps.not_supported(StepSpec.model_validate(config(CRON, EVENT))) == [
        "triggers: a cron trigger beside other triggers is not supported by this version; "
        "give the schedule a Step of its own"
    ]


@pytest.mark.parametrize(
    ("event", "more", "sentence"),
    [
        pytest.param(
            {"batch": {}},
            {},
            "triggers[0].event.ordering beside batch is not supported by this version: events in order come one at a "
            "time; leave one of them out",
            id="batch",
        ),
        pytest.param(
            {},
            {"maxInFlight": 4},
            "triggers[0].event.ordering beside maxInFlight is not supported by this version: each partition has one "
            "event in flight; leave maxInFlight out, and say concurrency",
            id="maxInFlight",
        ),
    ],
)
def test_what_makes_no_sense_beside_an_order_is_refused_by_name(
    event: dict[str, Any], more: dict[str, Any], sentence: str
) -> None:
    spec = StepSpec.model_validate(config({"event": {"topics": ["a"], "ordering": {}, **event}}, **more))
    assert sentence in steps.not_supported(spec)


def test_an_order_goes_with_a_start_and_with_other_triggers() -> None:
    ordered = {"event": {"topics": ["b"], "ordering": {}}}
    assert steps.not_supported(StepSpec.model_validate(config(ordered, EVENT, API, deliverFrom="Beginning"))) == []


def test_what_is_acted_on_is_not_refused() -> None:
    assert steps.not_supported(StepSpec.model_validate(config(API, EVENT))) == []


ACTED_ON = """
    displayName description flows[] emits[].topic emits[].schema emits[].description virtualEmits[] virtualSubscribes[]
    triggers[].api.method triggers[].api.path triggers[].api.body triggers[].api.query triggers[].api.responses{}
    triggers[].api.maxBodyBytes triggers[].event.topics[] triggers[].event.input triggers[].event.ordering
    triggers[].cron.schedule triggers[].cron.timeZone triggers[].cron.overlap triggers[].cron.startingDeadlineSeconds
    triggers[].api.condition triggers[].event.condition triggers[].cron.condition
    triggers[].event.batch.size triggers[].event.batch.timeoutSeconds
    triggers[].state.group triggers[].state.key triggers[].state.condition
    code.entrypoint code.inline{} code.image
    retry.maxAttempts retry.backoff retry.initialSeconds retry.maxSeconds retry.jitter
    timeoutSeconds concurrency maxInFlight isolation scaling.maxReplicas replicas deliverFrom suspend
    restartOn.configMaps[] adoptFrom
    pod.env[].name pod.env[].value pod.env[].valueFrom
    pod.envFrom[].prefix pod.envFrom[].configMapRef pod.envFrom[].secretRef pod.resources pod.nodeSelector{}
    pod.tolerations[] pod.affinity pod.topologySpreadConstraints[]
    pod.volumes[].name pod.volumes[].configMap pod.volumes[].secret pod.volumes[].emptyDir pod.volumes[].projected
    pod.volumes[].persistentVolumeClaim
    pod.volumeMounts[].name pod.volumeMounts[].mountPath pod.volumeMounts[].subPath pod.volumeMounts[].readOnly
    pod.initContainers[] pod.sidecars[] pod.imagePullSecrets[] pod.priorityClassName pod.labels{} pod.annotations{}
"""


def test_every_field_is_either_acted_on_or_refused() -> None:
    """A new field goes into one of the two lists here, and its description says which."""
    acted: set[str] = set()
    refused: set[str] = set()
    for path, description in _fields(crds.structural(StepSpec)):
        (refused if re.search(r"acted on by this version", description) else acted).add(path)
    assert refused == set(NOT_SUPPORTED)
    assert {_short(path) for path in acted} == set(ACTED_ON.split())


def _short(path: str) -> str:
    """A container's fields are those of the handler's own."""
    return re.sub(r"^(pod\.(initContainers|sidecars)\[\]).*", r"\1", path)


def _fields(schema: dict[str, Any], path: str = "") -> Iterator[tuple[str, str]]:
    """Each leaf, or the object whose description already says that it is not acted on."""
    if path and "acted on by this version" in schema.get("description", ""):
        yield path, schema["description"]
    elif "properties" in schema:
        for key, child in schema["properties"].items():
            yield from _fields(child, f"{path}.{key}" if path else key)
    elif "items" in schema:
        yield from _fields(schema["items"], f"{path}[]")
    else:
        yield path + ("{}" if "additionalProperties" in schema else ""), schema.get("description", "")
