"""What the doctor makes of facts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from bema.clusters import errors
from bema.contract import crds, versions
from bema_cli import diagnoses, examinations, measures
from bema_cli.diagnoses import OPERATOR_RIGHTS, USER_RIGHTS, Check, Right, Server, Verdict
from bema_cli.kubeconfigs import Place

PLACE = Place(context="blue", namespace="shop", server="https://blue", config={})
FORBIDDEN = errors.Refused(
    'pods "a" is forbidden: User "ann" cannot get resource "pods/proxy" in API group "" in the namespace "bema-system"',
    403,
)
AWAY = errors.Unavailable("nobody answers")
OK, WARNING, PROBLEM, UNKNOWN = Verdict.OK, Verdict.WARNING, Verdict.PROBLEM, Verdict.UNKNOWN
SERVED = {"resources": [{"name": "steps"}, {"name": "steps/status"}, {"name": "apps"}]}
PROXY_RIGHT = "not known: expected the right to get pods/proxy in namespace bema-system, found none"


def says(check: Check, verdict: Verdict, found: str, advice: str = "") -> None:
    assert (check.verdict, found in check.found, advice in check.advice) == (verdict, True, True), check


def test_the_cluster() -> None:
    says(diagnoses.cluster({"gitVersion": "v1.35.4"}, PLACE), OK, "Kubernetes v1.35.4 at https://blue (context blue)")
    says(diagnoses.cluster({"gitVersion": "v1.29.0-gke.1"}, PLACE), OK, "v1.29.0-gke.1")
    says(diagnoses.cluster({"gitVersion": "v1.28.9"}, PLACE), PROBLEM, "v1.28.9", "needs 1.29 or later")
    says(diagnoses.cluster(AWAY, PLACE), PROBLEM, "expected an API server at https://blue")


def crd(**annotations: str) -> dict[str, Any]:
    return {"metadata": {"annotations": {f"bema.dev/{key}": value for key, value in annotations.items()}}}


def test_the_crd() -> None:
    of = crds.STEP
    current = crd(version=versions.VERSION, schema=crds.digest(of))
    says(diagnoses.crd(of, SERVED, current), OK, f"of Bema {versions.VERSION}")
    says(diagnoses.crd(of, SERVED, crd(version="0.0.9", schema="x")), WARNING, "found that of Bema 0.0.9", "crds/")
    says(diagnoses.crd(of, SERVED, crd(version=versions.VERSION, schema="x")), WARNING, "found another one of Bema")
    says(diagnoses.crd(of, SERVED, crd()), WARNING, "found one without a version")
    says(diagnoses.crd(of, SERVED, FORBIDDEN), UNKNOWN, "is served; its version is not known: expected the right")
    no_group = errors.Unavailable("404 page not found", 404)
    says(diagnoses.crd(of, no_group, AWAY), PROBLEM, "found none", "kubectl apply")
    says(diagnoses.crd(of, {"resources": []}, current), PROBLEM, "found none", "kubectl apply")
    says(diagnoses.crd(of, AWAY, AWAY), UNKNOWN, "not known: nobody answers")


def test_without_the_crd_of_apps_steps_work() -> None:
    steps_alone = {"resources": [{"name": "steps"}]}
    missing = "expected apps.bema.dev v1alpha1, found none"
    says(diagnoses.crd(crds.APP, steps_alone, errors.Gone("", 404)), WARNING, missing, "kubectl apply")


@pytest.mark.parametrize("kind", [pytest.param(kind, id=kind.kind) for kind in crds.ALL])
def test_what_the_generator_writes_is_what_the_doctor_expects(kind: crds.Resource) -> None:
    says(diagnoses.crd(kind, SERVED, crds.crd(kind)), OK, f"of Bema {versions.VERSION}")


def answers(rights: tuple[Right, ...], *missing: str) -> dict[Right, bool | errors.KubeError]:
    return {right: right.words not in missing for right in rights}


def test_rights_of_the_user() -> None:
    says(diagnoses.user_rights(answers(USER_RIGHTS), "here"), OK, "all 12 that it takes here")
    few = answers(USER_RIGHTS, "delete steps.bema.dev", "get pods/log")
    says(diagnoses.user_rights(few, "here"), WARNING, "missing here: delete steps.bema.dev, get pods/log", "ask for")
    says(diagnoses.user_rights(answers(USER_RIGHTS, "list steps.bema.dev"), "here"), PROBLEM, "list steps.bema.dev")
    says(diagnoses.user_rights({USER_RIGHTS[0]: AWAY}, "here"), UNKNOWN, "not known: nobody answers")


def test_rights_of_the_operator() -> None:
    says(diagnoses.operator_rights(answers(OPERATOR_RIGHTS), "here"), OK, f"all {len(OPERATOR_RIGHTS)}")
    lacking = answers(OPERATOR_RIGHTS, "patch deployments.apps")
    says(diagnoses.operator_rights(lacking, "here"), PROBLEM, "missing here: patch deployments.apps", "rbac.yaml")


def test_the_operators_rights_are_those_of_the_manifest() -> None:
    text = (Path(__file__).parents[2] / "deploy/rbac.yaml").read_text()
    [role] = [
        item
        for item in yaml.safe_load_all(text)
        if item["kind"] == "ClusterRole" and item["metadata"]["name"] == "bema-operator"
    ]
    given = {
        Right(verb, resource, group)
        for rule in role["rules"]
        for group in rule["apiGroups"]
        for resource in rule["resources"]
        for verb in rule["verbs"]
    }
    assert given == set(OPERATOR_RIGHTS)


def deployment(*, replicas: int = 1, available: int = 1, **env: str) -> dict[str, Any]:
    container = {"image": "bema-operator:1", "env": [{"name": key, "value": value} for key, value in env.items()]}
    pod = {"serviceAccountName": "bema-operator", "containers": [container]}
    return {
        "metadata": {"namespace": "bema-system"},
        "spec": {"replicas": replicas, "template": {"spec": pod}},
        "status": {"availableReplicas": available},
    }


def test_the_operator() -> None:
    says(diagnoses.operator([deployment()], "bema-system"), OK, "1 of 1 available in namespace bema-system, image bema")
    says(diagnoses.operator([deployment(BEMA_NAMESPACE="shop")], "s"), OK, "for namespace shop only")
    says(diagnoses.operator([deployment(available=0)], "s"), PROBLEM, "0 of 1 available", "describe pod")
    says(diagnoses.operator([deployment(replicas=0, available=0)], "s"), PROBLEM, "scaled to 0", "--replicas=1")
    says(
        diagnoses.operator([], "s"), PROBLEM, "expected Deployment bema-operator in namespace s, found none", "deploy/"
    )
    says(diagnoses.operator(FORBIDDEN, "s"), UNKNOWN, PROXY_RIGHT)
    assert diagnoses.account(deployment()) == "system:serviceaccount:bema-system:bema-operator"


METRICS = """
# HELP bema_operator_info 1, with the operator's version
# TYPE bema_operator_info gauge
bema_operator_info{version="%s"} 1.0
bema_operator_broker_connected %s
bema_operator_broker_info{version="%s"} 1.0
bema_operator_broker_clock_skew_seconds %s
bema_operator_orphans{kind="consumers"} %s
bema_operator_orphans{kind="streams"} 0.0
bema_operator_app_storage_ratio{app="shop"} %s
bema_operator_app_storage_ratio{app="a \\"b\\""} 0.1
"""


def measured(
    *,
    version: str = versions.VERSION,
    connected: int = 1,
    nats: str = "2.15.1",
    skew: str = "0.01",
    orphans: int = 0,
    storage: float = 0.25,
) -> measures.Measures:
    return measures.parse(METRICS % (version, connected, nats, skew, orphans, storage))


def test_measures_are_read() -> None:
    found = measured(skew="NaN", storage=1e-05)
    assert found.value("bema_operator_orphans", kind="consumers") == 0
    assert found.value("bema_operator_broker_clock_skew_seconds") is None
    assert found.value("bema_operator_none") is None
    assert found.by("bema_operator_app_storage_ratio", "app") == {"shop": 1e-05, 'a "b"': 0.1}
    assert measures.parse("<html>\nno sample at all here\n").samples == ()


def test_the_operators_version() -> None:
    says(diagnoses.operator_version(measured()), OK, f"Bema {versions.VERSION}")
    says(diagnoses.operator_version(measured(version="0.0.9")), WARNING, "found 0.0.9", "one version")
    says(diagnoses.operator_version(measures.parse("")), WARNING, "does not tell")
    says(diagnoses.operator_version(FORBIDDEN), UNKNOWN, PROXY_RIGHT)


def test_nats() -> None:
    says(diagnoses.nats(measured()), OK, "connected to nats-server 2.15.1")
    away = "the operator has no connection to NATS; it was nats-server 2.15.1"
    says(diagnoses.nats(measured(connected=0)), PROBLEM, away, "check that NATS is up")
    says(diagnoses.nats(measured(nats="2.12.8")), PROBLEM, "nats-server 2.12.8", "needs 2.14.0 or later")
    says(diagnoses.nats(measures.parse("")), PROBLEM, "the operator has no connection to NATS")
    says(diagnoses.nats(FORBIDDEN), UNKNOWN, PROXY_RIGHT)


def server(used: float = 100, *, health: Any = None) -> Server:
    return Server("nats-0", health or {"status": "ok"}, {"storage": used, "config": {"max_storage": 1024}})


def test_the_health_of_nats() -> None:
    says(diagnoses.nats_health([server()], "s"), OK, "pod nats-0: ok")
    says(diagnoses.nats_health([server(health=AWAY)], "s"), PROBLEM, "pod nats-0: nobody answers", "logs nats-0")
    says(diagnoses.nats_health([server(health=FORBIDDEN)], "s"), UNKNOWN, PROXY_RIGHT)
    says(diagnoses.nats_health([], "s"), UNKNOWN, "expected a pod of NATS (app.kubernetes.io/name=nats) in namespace s")
    says(diagnoses.nats_health(FORBIDDEN, "s"), UNKNOWN, PROXY_RIGHT)


def test_the_storage_of_nats() -> None:
    little = measured()
    says(
        diagnoses.nats_storage([server()], little, "s"), OK, "uses 100 B of 1 KiB; the fullest of 2 apps is shop: 25 %"
    )
    says(diagnoses.nats_storage([server(900)], little, "s"), WARNING, "900 B", "pod nats-0 88 %")
    says(diagnoses.nats_storage([server(1000)], little, "s"), PROBLEM, "1000 B", "pod nats-0 98 %")
    says(diagnoses.nats_storage([server()], measured(storage=0.99), "s"), PROBLEM, "shop: 99 %", "app shop 99 %")
    says(diagnoses.nats_storage(FORBIDDEN, FORBIDDEN, "s"), UNKNOWN, PROXY_RIGHT)
    says(diagnoses.nats_storage([Server("nats-0", AWAY, FORBIDDEN)], AWAY, "s"), UNKNOWN, PROXY_RIGHT)
    says(diagnoses.nats_storage([], measures.parse(""), "s"), UNKNOWN, "expected a pod of NATS")


@pytest.mark.parametrize(
    ("skew", "verdict", "found"),
    [
        (0.4, OK, "A and B differ by 0.4 s"),
        (-4.9, OK, "A and B differ by 4.9 s"),
        (5.0, WARNING, "A is 5 s ahead of B"),
        (-59.0, WARNING, "B is 59 s ahead of A"),
        (60.0, PROBLEM, "A is 60 s ahead of B"),
        (None, UNKNOWN, "not known: they were not compared yet"),
        (FORBIDDEN, UNKNOWN, PROXY_RIGHT),
    ],
)
def test_clocks(skew: Any, verdict: Verdict, found: str) -> None:
    says(diagnoses.clock("clock", skew, "A", "B"), verdict, found)


DATE = "Sat, 31 Jan 2026 12:00:00 GMT"
NOON = 1769860800.0


@pytest.mark.parametrize(
    ("begun", "expected"),
    [(NOON, 0), (NOON + 0.9, 0), (NOON - 100.5, 100), (NOON + 101, -100)],
)
def test_a_date_without_fractions_is_given_the_benefit_of_its_second(begun: float, expected: float) -> None:
    assert examinations.ahead(DATE, begun, begun + 0.5) == pytest.approx(expected)
    assert examinations.ahead("", begun, begun) is None


def test_orphans() -> None:
    says(diagnoses.orphans(measured()), OK, "none")
    says(diagnoses.orphans(measured(orphans=3)), WARNING, "3 consumers of Steps", "apply it again")
    says(diagnoses.orphans(measures.parse("")), UNKNOWN, "has not looked for any yet")
    says(diagnoses.orphans(FORBIDDEN), UNKNOWN, PROXY_RIGHT)


def step(name: str, status: str, reason: str) -> dict[str, Any]:
    ready = {"type": "Ready", "status": status, "reason": reason, "message": "why", "observedGeneration": 1}
    return {"metadata": {"name": name, "namespace": "shop", "generation": 1}, "status": {"conditions": [ready]}}


def test_steps() -> None:
    good, slow = step("a", "True", "Available"), step("b", "False", "RollingOut")
    bad = step("c", "False", "CrashLoop")

    def judged(*found: dict[str, Any], everywhere: bool = False) -> Check:
        return diagnoses.steps(found, PLACE, all_namespaces=everywhere)

    says(judged(), OK, "none in namespace shop")
    says(judged(good), OK, "all 1 ready in namespace shop")
    says(judged(slow, good), WARNING, "1 of 2 not ready in namespace shop: b (RollingOut): why")
    says(judged(bad, slow), PROBLEM, "b (RollingOut): why; c (CrashLoop): why", "bema logs")
    says(judged(bad, everywhere=True), PROBLEM, "in all namespaces: shop/c (CrashLoop)")
    away = step("d", "False", "BrokerUnavailable")
    by_nats, by_logs = "see NATS above, and the operator's BEMA_NATS_URL", "`bema logs STEP` shows what they say"
    assert [judged(*found).advice for found in ((away,), (bad,), (away, bad))] == [
        by_nats,
        by_logs,
        f"{by_nats}; {by_logs}",
    ]
    missing = diagnoses.steps(errors.Unavailable("404 page not found", 404), PLACE, all_namespaces=False)
    says(missing, UNKNOWN, "not known: no CRD")
