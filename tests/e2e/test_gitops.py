"""What belongs in git, read by those who read it: Kustomize, the engine of Helm's templates, and a real API server.

The first two are in kubectl."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.support import diffs, kstatuses
from tests.support.kstatuses import Result
from tools.cluster import paths
from tools.kubernetes import Kubernetes

pytestmark = pytest.mark.e2e

PAGE = paths.REPOSITORY / "docs/gitops.md"
ORDERS = paths.REPOSITORY / "examples/orders"
NAMESPACE = "gitops-test"
CODE = """
config = {"triggers": [{"cron": {"schedule": "@daily"}}]}

def handler():
    return "{{ .Values.name }} {{- 1 }}} ${HOME} {{/* ☃ */}} {{{{"
"""


def rendered(folder: Path, *options: str) -> str:
    command = [sys.executable, "-m", "bema_cli", "render", str(folder), *options]
    return subprocess.run(command, capture_output=True, encoding="utf-8", check=True).stdout


def blocks(page: Path) -> list[str]:
    """The page's texts in YAML, in their order."""
    return re.findall(r"```yaml\n(.*?)```", page.read_text("utf-8"), re.DOTALL)


@pytest.fixture(scope="module")
def space(cluster: Kubernetes) -> Iterator[Kubernetes]:
    """The CRD, and a namespace of this module's own."""
    cluster.kubectl("apply", "--server-side", "--force-conflicts", "-f", str(paths.REPOSITORY / "crds"))
    cluster.kubectl("wait", "--for=condition=Established", "crd/steps.bema.dev", "--timeout=30s")
    cluster.kubectl("create", "namespace", NAMESPACE)
    yield cluster
    cluster.kubectl("delete", "namespace", NAMESPACE, "--wait=false")


def test_kustomize_reads_the_folders_of_the_docs(cluster: Kubernetes, tmp_path: Path) -> None:
    base, prod, config, *_ = blocks(PAGE)
    written = rendered(ORDERS, "--image", "shop")
    namespace = "apiVersion: v1\nkind: Namespace\nmetadata: {name: shop}\n"
    files = {
        "base/steps.yaml": written,
        "base/kustomization.yaml": base,
        "prod/kustomization.yaml": prod,
        "prod/steps-config.yaml": config,
        "prod/namespace.yaml": namespace,
    }
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text, "utf-8")
    first, *steps = yaml.safe_load_all(cluster.kubectl("kustomize", str(tmp_path / "prod")))
    expected = list(yaml.safe_load_all(written))
    for item in expected:
        item["metadata"]["namespace"] = "shop"
        if "code" in item["spec"]:
            item["spec"]["code"]["image"] = "REGISTRY/shop:1.4.0"
        if item["metadata"]["name"] == "charge-payment":
            item["spec"]["replicas"] = 3
    assert first["kind"] == "Namespace"
    assert sorted(steps, key=lambda item: item["metadata"]["name"]) == expected


def test_kustomize_leaves_inline_code_as_it_is(cluster: Kubernetes, tmp_path: Path) -> None:
    written = rendered(ORDERS)
    (tmp_path / "steps.yaml").write_text(written, "utf-8")
    (tmp_path / "kustomization.yaml").write_text("resources: [steps.yaml]\n")
    found = yaml.safe_load_all(cluster.kubectl("kustomize", str(tmp_path)))
    assert sorted(found, key=lambda item: item["metadata"]["name"]) == list(yaml.safe_load_all(written))


def test_the_engine_of_helms_templates_finds_the_code_as_it_was(cluster: Kubernetes, tmp_path: Path) -> None:
    (tmp_path / "steps").mkdir()
    (tmp_path / "steps/a_step.py").write_text(CODE, "utf-8")
    template = tmp_path / "template.yaml"
    template.write_text(rendered(tmp_path, "--for", "helm"), "utf-8")
    execute = ("create", "configmap", "any", "--dry-run=client", f"--output=go-template-file={template}")
    assert cluster.kubectl(*execute) == rendered(tmp_path)


def test_a_step_that_nobody_has_looked_at_is_not_done(space: Kubernetes) -> None:
    step: dict[str, Any] = {
        "apiVersion": "bema.dev/v1alpha1",
        "kind": "Step",
        "metadata": {"name": "person", "namespace": NAMESPACE},
        "spec": {},
    }
    made = json.loads(space.kubectl("create", "-f", "-", "-o", "json", input=json.dumps(step)))
    assert made["status"] == {"observedGeneration": -1}
    assert kstatuses.compute(made) is Result.IN_PROGRESS


def test_rendered_steps_are_stored_as_they_are_and_show_no_difference(space: Kubernetes, tmp_path: Path) -> None:
    file = tmp_path / "steps.yaml"
    file.write_text(rendered(ORDERS, "--namespace", NAMESPACE), "utf-8")
    where = ("-f", str(file))
    space.kubectl("apply", "--server-side", *where)
    diffs.until_nothing_differs(space.kubectl, "--server-side", *where)
    assert set(space.kubectl("apply", "--server-side", *where).split()) >= {"serverside-applied"}
    wanted = {item["metadata"]["name"]: item["spec"] for item in yaml.safe_load_all(file.read_text("utf-8"))}
    for item in json.loads(space.kubectl("get", "-o", "json", *where))["items"]:
        code = item["spec"].get("code", {})
        assert code.get("inline") == wanted[item["metadata"]["name"]].get("code", {}).get("inline")
