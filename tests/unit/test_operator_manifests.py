"""The objects that Steps become, compared whole."""

from typing import Any

import pytest

from bema.contract import bindings, names, steps
from bema_operator import ownership, plans
from bema_operator.manifests import children
from bema_operator.settings import Settings

SETTINGS = Settings(nats_urls=("nats://nats:4222",), runtime_image="bema-runtime:test")

LABELS: dict[str, Any] = {
    "app.kubernetes.io/name": "charge",
    "app.kubernetes.io/component": "step",
    "app.kubernetes.io/part-of": "shop",
    "app.kubernetes.io/managed-by": "bema-operator",
    "bema.dev/app": "shop",
    "bema.dev/step": "charge",
}
OWNER = {
    "apiVersion": "bema.dev/v1alpha1",
    "kind": "Step",
    "name": "charge",
    "uid": "step-uid",
    "controller": True,
}
RESTRICTED: dict[str, Any] = {
    "allowPrivilegeEscalation": False,
    "capabilities": {"drop": ["ALL"]},
    "readOnlyRootFilesystem": True,
}
POD_SECURITY = {
    "runAsNonRoot": True,
    "runAsUser": 10001,
    "runAsGroup": 10001,
    "fsGroup": 10001,
    "seccompProfile": {"type": "RuntimeDefault"},
}
LOST_NODE = [
    {
        "key": "node.kubernetes.io/not-ready",
        "operator": "Exists",
        "effect": "NoExecute",
        "tolerationSeconds": 30,
    },
    {
        "key": "node.kubernetes.io/unreachable",
        "operator": "Exists",
        "effect": "NoExecute",
        "tolerationSeconds": 30,
    },
]
PROBES: dict[str, Any] = {
    "readinessProbe": {
        "httpGet": {"path": "/readyz", "port": "health"},
        "periodSeconds": 2,
        "timeoutSeconds": 5,
    },
    "livenessProbe": {
        "httpGet": {"path": "/livez", "port": "health"},
        "periodSeconds": 10,
        "timeoutSeconds": 5,
    },
}

SELECTOR = {"bema.dev/app": "shop", "bema.dev/step": "charge"}


def network_policy(*ports: int) -> dict[str, Any]:
    clients = [{"podSelector": {}}, {"namespaceSelector": {"matchLabels": {"bema.dev/clients": "true"}}}]
    opened = [{"from": clients, "ports": [{"port": port, "protocol": "TCP"} for port in ports]}]
    return {
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "metadata": {"name": "charge", "namespace": "shop", "labels": LABELS, "ownerReferences": [OWNER]},
        "spec": {
            "podSelector": {"matchLabels": SELECTOR},
            "policyTypes": ["Ingress"],
            **({"ingress": opened} if ports else {}),
        },
    }


EVENT: dict[str, Any] = {"event": {"topics": ["order.reserved"]}}
API: dict[str, Any] = {"api": {"method": "POST", "path": "/orders"}}
CRON = {"cron": {"schedule": "@daily", "timeZone": "Europe/Paris", "overlap": "Replace", "startingDeadlineSeconds": 60}}
INLINE: dict[str, Any] = {
    "entrypoint": "steps/charge_step.py",
    "inline": {"steps/charge_step.py": "x = 1\n", "lib/a.py": ""},
}
IMAGE: dict[str, Any] = {"entrypoint": "steps/charge_step.py", "image": "shop@sha256:1"}


def stored(spec: dict[str, Any]) -> dict[str, Any]:
    return {
        "metadata": {
            "name": "charge",
            "namespace": "shop",
            "uid": "step-uid",
            "generation": 1,
            "creationTimestamp": "2026-01-01T00:00:00Z",
            "labels": {"argocd.argoproj.io/instance": "shop"},
            "annotations": {"argocd.argoproj.io/sync-wave": "1"},
        },
        "spec": spec,
    }


def objects(spec: dict[str, Any], settings: Settings = SETTINGS) -> dict[str, Any]:
    """The children of a Step by kind, without their hashes."""
    found = {}
    for manifest in plans.plan(stored(spec), "namespace-uid", settings).wanted:
        annotations = manifest["metadata"].pop("annotations")
        assert annotations == {"bema.dev/hash": ownership.digest(manifest)}
        found[manifest["kind"]] = manifest
    return found


def binding_text(spec: dict[str, Any]) -> str:
    step = steps.Step(name="charge", spec=steps.parse_spec(spec, where="test"))
    owner = bindings.Owner(
        namespace="shop", namespace_uid="namespace-uid", uid="step-uid", created="2026-01-01T00:00:00Z"
    )
    installation = bindings.Installation(broker=bindings.Broker(urls=["nats://nats:4222"]))
    return bindings.bind(step, owner, installation).to_json()


def test_a_step_with_event_and_api_and_inline_code() -> None:
    spec = {"triggers": [EVENT, API], "code": INLINE, "scaling": {"minReplicas": 2}}
    found = objects(spec)
    source = found["ConfigMap"]["metadata"]["name"]
    assert source.startswith("charge-")
    assert found == {
        "ConfigMap": {
            "apiVersion": "v1",
            "kind": "ConfigMap",
            "metadata": {"name": source, "namespace": "shop", "labels": LABELS, "ownerReferences": [OWNER]},
            "immutable": True,
            "data": {
                "_binding.json": binding_text(spec),
                "lib_2f_a.py": "",
                "steps_2f_charge_5f_step.py": "x = 1\n",
            },
        },
        "NetworkPolicy": network_policy(8080, 9090),
        "PodDisruptionBudget": {
            "apiVersion": "policy/v1",
            "kind": "PodDisruptionBudget",
            "metadata": {"name": "charge", "namespace": "shop", "labels": LABELS, "ownerReferences": [OWNER]},
            "spec": {
                "maxUnavailable": 1,
                "selector": {"matchLabels": SELECTOR},
                "unhealthyPodEvictionPolicy": "AlwaysAllow",
            },
        },
        "Service": {
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": {"name": "charge", "namespace": "shop", "labels": LABELS, "ownerReferences": [OWNER]},
            "spec": {
                "type": "ClusterIP",
                "ports": [{"name": "http", "port": 80, "protocol": "TCP", "targetPort": "http"}],
                "selector": {"bema.dev/app": "shop", "bema.dev/step": "charge"},
            },
        },
        "Deployment": {
            "apiVersion": "apps/v1",
            "kind": "Deployment",
            "metadata": {"name": "charge", "namespace": "shop", "labels": LABELS, "ownerReferences": [OWNER]},
            "spec": {
                "replicas": 2,
                "revisionHistoryLimit": 3,
                "selector": {"matchLabels": {"bema.dev/app": "shop", "bema.dev/step": "charge"}},
                "template": {
                    "metadata": {
                        "labels": LABELS,
                        "annotations": {"kubectl.kubernetes.io/default-container": "step"},
                    },
                    "spec": {
                        "automountServiceAccountToken": False,
                        "enableServiceLinks": False,
                        "securityContext": POD_SECURITY,
                        "terminationGracePeriodSeconds": 40,
                        "tolerations": LOST_NODE,
                        "containers": [
                            {
                                "name": "step",
                                "image": "bema-runtime:test",
                                "args": ["--binding", "/etc/bema/binding.json"],
                                "env": [{"name": "HOME", "value": "/tmp"}],
                                "ports": [
                                    {"name": "http", "containerPort": 8080, "protocol": "TCP"},
                                    {"name": "health", "containerPort": 8081, "protocol": "TCP"},
                                    {"name": "metrics", "containerPort": 9090, "protocol": "TCP"},
                                ],
                                "resources": {"requests": {"cpu": "10m", "memory": "64Mi"}},
                                "securityContext": RESTRICTED,
                                "terminationMessagePolicy": "FallbackToLogsOnError",
                                "volumeMounts": [
                                    {"name": "bema-binding", "mountPath": "/etc/bema", "readOnly": True},
                                    {"name": "bema-code", "mountPath": "/app", "readOnly": True},
                                    {"name": "bema-tmp", "mountPath": "/tmp"},
                                ],
                                **PROBES,
                            }
                        ],
                        "volumes": [
                            {
                                "name": "bema-binding",
                                "configMap": {
                                    "name": source,
                                    "items": [{"key": "_binding.json", "path": "binding.json"}],
                                },
                            },
                            {
                                "name": "bema-code",
                                "configMap": {
                                    "name": source,
                                    "items": [
                                        {"key": "lib_2f_a.py", "path": "lib/a.py"},
                                        {"key": "steps_2f_charge_5f_step.py", "path": "steps/charge_step.py"},
                                    ],
                                },
                            },
                            {"name": "bema-tmp", "emptyDir": {}},
                        ],
                    },
                },
            },
        },
    }


def test_a_cron_step_becomes_a_cron_job_and_a_config_map() -> None:
    found = objects({"triggers": [CRON], "code": IMAGE, "suspend": True})
    source = found["ConfigMap"]["metadata"]["name"]
    assert list(found) == ["ConfigMap", "NetworkPolicy", "CronJob"]
    assert found["NetworkPolicy"] == network_policy()
    assert list(found["ConfigMap"]["data"]) == ["_binding.json"]
    assert found["CronJob"] == {
        "apiVersion": "batch/v1",
        "kind": "CronJob",
        "metadata": {"name": "charge", "namespace": "shop", "labels": LABELS, "ownerReferences": [OWNER]},
        "spec": {
            "schedule": "0 0 * * *",
            "timeZone": "Europe/Paris",
            "concurrencyPolicy": "Replace",
            "startingDeadlineSeconds": 60,
            "suspend": True,
            "successfulJobsHistoryLimit": 3,
            "failedJobsHistoryLimit": 3,
            "jobTemplate": {
                "metadata": {"labels": LABELS},
                "spec": {
                    "backoffLimit": 3,
                    "template": {
                        "metadata": {
                            "labels": LABELS,
                            "annotations": {"kubectl.kubernetes.io/default-container": "step"},
                        },
                        "spec": {
                            "automountServiceAccountToken": False,
                            "enableServiceLinks": False,
                            "securityContext": POD_SECURITY,
                            "terminationGracePeriodSeconds": 40,
                            "tolerations": LOST_NODE,
                            "restartPolicy": "Never",
                            "containers": [
                                {
                                    "name": "step",
                                    "image": "shop@sha256:1",
                                    "args": ["--binding", "/etc/bema/binding.json", "--once"],
                                    "env": [
                                        {"name": "HOME", "value": "/tmp"},
                                        {
                                            "name": "BEMA_JOB_NAME",
                                            "valueFrom": {
                                                "fieldRef": {
                                                    "fieldPath": "metadata.labels['batch.kubernetes.io/job-name']"
                                                }
                                            },
                                        },
                                    ],
                                    "resources": {"requests": {"cpu": "10m", "memory": "64Mi"}},
                                    "securityContext": RESTRICTED,
                                    "terminationMessagePolicy": "FallbackToLogsOnError",
                                    "volumeMounts": [
                                        {"name": "bema-binding", "mountPath": "/etc/bema", "readOnly": True},
                                        {"name": "bema-tmp", "mountPath": "/tmp"},
                                    ],
                                }
                            ],
                            "volumes": [
                                {
                                    "name": "bema-binding",
                                    "configMap": {
                                        "name": source,
                                        "items": [{"key": "_binding.json", "path": "binding.json"}],
                                    },
                                },
                                {"name": "bema-tmp", "emptyDir": {}},
                            ],
                        },
                    },
                },
            },
        },
    }


POD: dict[str, Any] = {
    "env": [
        {"name": "HOME", "value": "/work"},
        {"name": "KEY", "valueFrom": {"secretKeyRef": {"name": "s", "key": "k"}}},
    ],
    "envFrom": [{"prefix": "P_", "configMapRef": {"name": "c"}}],
    "resources": {"limits": {"cpu": "1000m"}},
    "nodeSelector": {"disk": "ssd"},
    "tolerations": [{"key": "node.kubernetes.io/unreachable", "operator": "Exists", "effect": "NoExecute"}],
    "affinity": {"nodeAffinity": {}},
    "topologySpreadConstraints": [{"maxSkew": 1, "topologyKey": "zone", "whenUnsatisfiable": "ScheduleAnyway"}],
    "volumes": [{"name": "work", "emptyDir": {"sizeLimit": "1Gi"}}],
    "volumeMounts": [{"name": "work", "mountPath": "/work", "subPath": "a", "readOnly": False}],
    "initContainers": [{"name": "first", "image": "a", "command": ["a"], "env": [{"name": "A", "value": "1"}]}],
    "sidecars": [{"name": "proxy", "image": "b", "args": ["b"], "resources": {"limits": {"cpu": "1"}}}],
    "imagePullSecrets": [{"name": "pull"}],
    "priorityClassName": "high",
    "labels": {"team": "a"},
    "annotations": {"note": "b"},
}


def test_every_pod_field_of_the_step_is_in_the_pod() -> None:
    template = objects({"triggers": [EVENT], "code": IMAGE, "pod": POD})["Deployment"]["spec"]["template"]
    source = template["spec"]["volumes"][0]["configMap"]["name"]
    assert template == {
        "metadata": {
            "labels": {"team": "a", **LABELS},
            "annotations": {"kubectl.kubernetes.io/default-container": "step", "note": "b"},
        },
        "spec": {
            "automountServiceAccountToken": False,
            "enableServiceLinks": False,
            "securityContext": POD_SECURITY,
            "terminationGracePeriodSeconds": 40,
            "tolerations": [*POD["tolerations"], LOST_NODE[0]],
            "nodeSelector": POD["nodeSelector"],
            "affinity": POD["affinity"],
            "topologySpreadConstraints": POD["topologySpreadConstraints"],
            "imagePullSecrets": POD["imagePullSecrets"],
            "priorityClassName": "high",
            "initContainers": [
                {**POD["initContainers"][0], "securityContext": RESTRICTED},
                {**POD["sidecars"][0], "securityContext": RESTRICTED, "restartPolicy": "Always"},
            ],
            "containers": [
                {
                    "name": "step",
                    "image": "shop@sha256:1",
                    "args": ["--binding", "/etc/bema/binding.json"],
                    "env": POD["env"],
                    "envFrom": POD["envFrom"],
                    "ports": [
                        {"name": "health", "containerPort": 8081, "protocol": "TCP"},
                        {"name": "metrics", "containerPort": 9090, "protocol": "TCP"},
                    ],
                    "resources": {"limits": {"cpu": "1000m"}},
                    "securityContext": RESTRICTED,
                    "terminationMessagePolicy": "FallbackToLogsOnError",
                    "volumeMounts": [
                        {"name": "bema-binding", "mountPath": "/etc/bema", "readOnly": True},
                        {"name": "bema-tmp", "mountPath": "/tmp"},
                        *POD["volumeMounts"],
                    ],
                    **PROBES,
                }
            ],
            "volumes": [
                {
                    "name": "bema-binding",
                    "configMap": {"name": source, "items": [{"key": "_binding.json", "path": "binding.json"}]},
                },
                {"name": "bema-tmp", "emptyDir": {}},
                *POD["volumes"],
            ],
        },
    }


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        pytest.param({}, 1, id="one pod, unless somebody says otherwise"),
        pytest.param({"scaling": {"minReplicas": 3}}, 3, id="as many as scaling's fewest"),
        pytest.param({"scaling": {"minReplicas": 3}, "replicas": 5}, 5, id="a number by hand overrides scaling"),
        pytest.param({"replicas": 0}, 0, id="zero by hand is zero"),
        pytest.param({"replicas": 5, "suspend": True}, 0, id="none when suspended"),
    ],
)
def test_how_many_pods(spec: dict[str, Any], expected: int) -> None:
    found = objects({"triggers": [EVENT], "code": IMAGE, **spec})
    assert found["Deployment"]["spec"]["replicas"] == expected


def test_network_policies_are_the_installations_choice() -> None:
    spec = {"triggers": [EVENT], "code": IMAGE}
    assert objects(spec)["NetworkPolicy"] == network_policy(9090)
    assert "NetworkPolicy" not in objects(spec, Settings(network_policies=False))


def _source(spec: dict[str, Any]) -> str:
    name: str = objects(spec)["ConfigMap"]["metadata"]["name"]
    return name


def test_code_and_binding_name_the_config_map_and_a_number_of_pods_does_not() -> None:
    first: dict[str, Any] = {"triggers": [EVENT], "code": INLINE}
    edited = {**first, "code": {**INLINE, "inline": {"steps/charge_step.py": "x = 2\n"}}}
    assert _source(first) == _source({**first, "replicas": 4})
    assert len({_source(first), _source(edited), _source({**first, "concurrency": 2})}) == 3


def test_a_file_cannot_take_the_bindings_key() -> None:
    paths = ["_binding.json", "binding.json", "_/binding.json", "_binding_.json"]
    assert "_binding.json" not in {names.code_key(path) for path in paths}


def test_the_pull_policy_is_left_to_kubernetes_unless_the_installation_has_one() -> None:
    spec = {"triggers": [EVENT], "code": IMAGE}
    with_policy = Settings(image_pull_policy="Never")
    [container] = objects(spec, with_policy)["Deployment"]["spec"]["template"]["spec"]["containers"]
    assert container["imagePullPolicy"] == "Never"


@pytest.mark.parametrize(
    ("spec", "plan"),
    [
        pytest.param({"virtualEmits": ["a"]}, ([], None, ""), id="a noop wants nothing"),
        pytest.param(
            {"triggers": [{"stream": {"stream": "s"}}], "code": IMAGE},
            (
                ["triggers[0].stream: a stream trigger is not supported by this version"],
                None,
                "",
            ),
            id="an unsupported Step wants nothing",
        ),
        pytest.param(
            {"triggers": [EVENT]},
            ([], None, "spec: a Step with triggers has code; found triggers without code"),
            id="a contradiction is told",
        ),
    ],
)
def test_what_is_not_run(spec: dict[str, Any], plan: tuple[list[str], None, str]) -> None:
    found = plans.plan(stored(spec), "", SETTINGS)
    assert (list(found.unsupported), found.binding, found.invalid) == plan
    assert list(found.wanted) == []


def test_children_are_applied_before_what_needs_them() -> None:
    step = steps.Step(name="charge", spec=steps.parse_spec({"triggers": [API, EVENT], "code": INLINE}, where="test"))
    owner = bindings.Owner(namespace="shop", uid="u")
    binding = bindings.bind(step, owner, SETTINGS.as_installation())
    kinds = [manifest["kind"] for manifest in children.children(binding, step, SETTINGS)]
    assert kinds == ["ConfigMap", "NetworkPolicy", "Service", "PodDisruptionBudget", "Deployment"]
