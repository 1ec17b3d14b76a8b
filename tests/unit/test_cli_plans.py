"""What a worker runs, when it has to be replaced, and what one shared process cannot give."""

from pathlib import Path
from typing import Any

import pytest

from bema.contract import apps, bindings
from bema.contract.bindings import Installation
from bema.discoveries import Discovery, Found, FoundApp, Problem
from bema_cli import checks, events, plans
from bema_cli.checks import Findings
from bema_cli.plans import Plan

INSTALLATION = Installation(broker=bindings.Broker(urls=["nats://127.0.0.1:4222"]), memory=True, folder="/app")


def step(name: str, *, text: str = "a", **spec: Any) -> Found:
    file = f"steps/{name}_step.py"
    spec.setdefault("triggers", [{"event": {"topics": ["a"]}}])
    return Found(file=file, name=name, spec=spec, entrypoint=file, files={file: text})


NOOP = Found(file="steps/noop_step.py", name="noop", spec={"virtualEmits": ["a"]})


def plan(
    *found: Found,
    broken: tuple[str, ...] = (),
    env: dict[str, str] | None = None,
    fd: int = 7,
    app: dict[str, Any] | None = None,
) -> Plan:
    problems = [Problem(file=f, message="", step_file=f) for f in broken]
    findings = Findings(found, problems, [], [], app_spec=apps.parse(app or {}, where="app.yaml"))
    installation = INSTALLATION.model_copy(update={"http": bindings.Listen(fd=fd), "health": bindings.Listen(fd=fd)})
    return plans.plan(findings, env or {}, folder=Path("/nowhere"), app="shop", installation=installation)


RUNNING = plan(step("one"), step("two"), NOOP)


@pytest.mark.parametrize(
    ("wanted", "changed"),
    [
        pytest.param(RUNNING, [], id="nothing changed"),
        pytest.param(plan(step("one"), step("two")), [], id="a noop went, and nothing runs a noop"),
        pytest.param(plan(step("one"), step("two"), fd=9), [], id="only a socket's number differs"),
        pytest.param(plan(step("one", text="b"), step("two")), ["steps/one_step.py"], id="a file changed"),
        pytest.param(plan(step("one", timeoutSeconds=3), step("two")), ["steps/one_step.py"], id="a config changed"),
        pytest.param(plan(step("one")), ["steps/two_step.py"], id="a Step went"),
        pytest.param(plan(step("one"), step("two"), step("three")), ["steps/three_step.py"], id="a Step came"),
        pytest.param(plan(step("one"), broken=("steps/two_step.py",)), [], id="a Step broke: it goes on as it was"),
        pytest.param(
            plan(step("one", text="b"), broken=("steps/two_step.py",)),
            ["steps/one_step.py"],
            id="a Step broke, another changed",
        ),
        pytest.param(plan(step("one"), step("two"), env={"A": "b"}), [".env"], id="the environment changed"),
    ],
)
def test_a_worker_is_replaced_when_what_it_runs_changed(wanted: Plan, changed: list[str]) -> None:
    assert plans.changes(RUNNING, wanted) == changed


def test_a_step_is_silent_that_hears_no_events() -> None:
    api, watches = (
        step("api", triggers=[{"api": {"path": "/a"}}]),
        step("watches", triggers=[{"state": {"group": "g"}}]),
    )
    assert plans.silent(plan(step("one"), api, watches, NOOP)) == {"api", "noop"}


def test_a_module_that_was_imported_by_a_computed_name_counts(tmp_path: Path) -> None:
    found = step("one").model_copy(update={"computed": ["lib.py"]})

    def planned() -> Plan:
        findings = Findings([found], [], [], [])
        return plans.plan(findings, {}, folder=tmp_path, app="shop", installation=INSTALLATION)

    before = planned()
    (tmp_path / "lib.py").write_text("a = 1")
    assert plans.changes(before, planned()) == ["steps/one_step.py"]


def test_bindings_are_made_of_steps_with_code() -> None:
    assert list(RUNNING.bindings) == ["steps/one_step.py", "steps/two_step.py"]
    binding = RUNNING.bindings["steps/one_step.py"]
    assert (binding.app, binding.step, binding.code.entrypoint, binding.code.folder, binding.stream.memory) == (
        "shop",
        "one",
        "steps/one_step.py",
        "/app",
        True,
    )


def pod(name: str, *variables: dict[str, Any], concurrency: int | None = None, **fields: Any) -> Found:
    more = {} if concurrency is None else {"concurrency": concurrency}
    return step(name, pod={"env": list(variables), **fields}, **more)


def test_variables_of_pods_are_given_where_nobody_else_says_otherwise() -> None:
    planned = plan(
        pod("one", {"name": "MINE", "value": "1"}, {"name": "SHARED", "value": "s"}, {"name": "TORN", "value": "1"}),
        pod("two", {"name": "SHARED", "value": "s"}, {"name": "TORN", "value": "2"}, {"name": "HOME", "value": "/x"}),
        env={"HOME": "/root"},
    )
    assert planned.env == {"MINE": "1", "SHARED": "s", "HOME": "/root"}


def test_what_pods_ask_for_and_a_shared_process_cannot_give_is_a_warning() -> None:
    found = [
        pod("one", {"name": "TORN", "value": "1"}, {"name": "KEY", "valueFrom": {"secretKeyRef": {}}}),
        pod("two", {"name": "TORN", "value": "2"}, envFrom=[{"configMapRef": {"name": "x"}}]),
        step("three", restartOn={"configMaps": ["x"]}),
    ]
    app = {"replicas": 3, "defaults": {"pod": {"envFrom": [{"secretRef": {}}]}}}
    assert plan(*found, app=app).warnings == [
        "app.yaml: replicas: 3 counts on a cluster only; one nats-server runs here",
        "app.yaml: defaults.pod.envFrom works on a cluster only; set its variables in .env",
        "one: pod.env KEY: valueFrom works on a cluster only; set it in .env",
        "two: pod.envFrom works on a cluster only; set its variables in .env",
        "three: restartOn counts on a cluster only; there are no ConfigMaps here",
        "pod.env TORN has different values in one, two, and here they share one process; set it in .env",
    ]


def test_what_an_app_says_counts_where_a_step_says_nothing() -> None:
    variables = [{"name": "HOST", "value": "app"}, {"name": "PORT", "value": "1"}]
    spec = {"eventRetention": "1h", "defaults": {"concurrency": 3, "pod": {"env": variables}}}
    two = pod("two", {"name": "HOST", "value": "two"}, concurrency=5)
    findings = checks.examine(Discovery(steps=[pod("one"), two], app=FoundApp(spec=spec)))
    planned = plans.plan(findings, {}, folder=Path("/nowhere"), app="shop", installation=INSTALLATION)
    assert {binding.step: binding.concurrency for binding in planned.bindings.values()} == {"one": 3, "two": 5}
    assert planned.env == {"PORT": "1"}, "HOST differs, and they share one process"
    assert planned.app.over(INSTALLATION).event_retention_seconds == 3600
    silent = Findings([pod("one"), two], [], [], [])
    before = plans.plan(silent, {}, folder=Path("/nowhere"), app="shop", installation=INSTALLATION)
    assert plans.changes(before, planned) == ["steps/one_step.py", ".env"], "that of two is what it was"


def test_code_in_a_manifest_is_refused_here() -> None:
    spec = {"triggers": [{"event": {"topics": ["a"]}}], "code": {"entrypoint": "a.py", "image": "shop:1"}}
    findings = checks.examine(Discovery(steps=[Found(file="steps/a.step.yaml", name="a", spec=spec), NOOP]))
    assert [str(problem) for problem in plans.refused(findings)] == [
        "steps/a.step.yaml: `bema dev` runs the code of Python Step files, found code in a manifest; "
        "it runs on a cluster only"
    ]


def test_a_step_is_shown_with_what_starts_it() -> None:
    found = step(
        "many",
        triggers=[
            {"api": {"method": "PUT", "path": "/a/:id"}},
            {"event": {"topics": ["x", "y"]}},
            {"cron": {"schedule": "@daily", "timeZone": "Europe/Paris"}},
            {"state": {"group": "orders"}},
        ],
    )
    assert plans.running(found, "http://127.0.0.1:3000") == events.Running(
        name="many",
        file="steps/many_step.py",
        endpoints=[("PUT", "http://127.0.0.1:3000/a/{id}")],
        topics=["x", "y"],
        schedules=["@daily (Europe/Paris)"],
        groups=["orders"],
    )
