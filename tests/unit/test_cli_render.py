"""`bema render`: whole manifests, the same each time."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

from bema.contract.steps import parse_spec
from bema_cli import manifests
from bema_cli.application import app

FILES = {
    "lib/__init__.py": "",
    "lib/money.py": "# Cents, ¢\nCENTS = 100\n",
    "steps/charge_payment_step.py": (
        "from lib import money\n"
        "from pydantic import BaseModel\n"
        "\n"
        "class Reserved(BaseModel):\n"
        "    order_id: str\n"
        "\n"
        "config = {\n"
        '    "description": "Charges\\nthe customer",\n'
        '    "triggers": [{"event": {"topics": ["order.reserved"]}}],\n'
        '    "emits": ["order.paid"],\n'
        '    "retry": {"max_attempts": 5},\n'
        "}\n"
        "\n"
        "def handler(order: Reserved, ctx): ...\n"
    ),
    "src/a_cron_step.py": (
        'config = {"name": "NightlyReport", "triggers": [{"cron": {"schedule": "@daily"}}]}\ndef handler(): ...\n'
    ),
    "steps/person.step.yaml": (
        "apiVersion: bema.dev/v1alpha1\n"
        "kind: Step\n"
        "metadata: {name: person, namespace: ignored, labels: {team: shop}}\n"
        "spec: {virtualSubscribes: [order.paid]}\n"
    ),
}

WHOLE = """\
---
apiVersion: bema.dev/v1alpha1
kind: Step
metadata:
  name: charge-payment
  namespace: shop
spec:
  displayName: charge_payment
  description: |-
    Charges
    the customer
  triggers:
  - event:
      topics:
      - order.reserved
      input:
        properties:
          order_id:
            title: Order Id
            type: string
        required:
        - order_id
        title: Reserved
        type: object
  emits:
  - topic: order.paid
  code:
    entrypoint: steps/charge_payment_step.py
    inline:
      lib/__init__.py: ''
      lib/money.py: |
        # Cents, ¢
        CENTS = 100
      steps/charge_payment_step.py: |
        from lib import money
        from pydantic import BaseModel

        class Reserved(BaseModel):
            order_id: str

        config = {
            "description": "Charges\\nthe customer",
            "triggers": [{"event": {"topics": ["order.reserved"]}}],
            "emits": ["order.paid"],
            "retry": {"max_attempts": 5},
        }

        def handler(order: Reserved, ctx): ...
  retry:
    maxAttempts: 5
---
apiVersion: bema.dev/v1alpha1
kind: Step
metadata:
  name: nightly-report
  namespace: shop
spec:
  displayName: NightlyReport
  triggers:
  - cron:
      schedule: '@daily'
  code:
    entrypoint: src/a_cron_step.py
    inline:
      src/a_cron_step.py: |
        config = {"name": "NightlyReport", "triggers": [{"cron": {"schedule": "@daily"}}]}
        def handler(): ...
---
apiVersion: bema.dev/v1alpha1
kind: Step
metadata:
  name: person
  namespace: shop
  labels:
    team: shop
spec:
  virtualSubscribes:
  - order.paid
"""


APP = """\
---
apiVersion: bema.dev/v1alpha1
kind: App
metadata:
  name: app
  namespace: shop
  annotations:
    team: shop
spec:
  eventRetention: 7d
  replicas: 3
  defaults:
    retry:
      maxAttempts: 5
    pod:
      env:
      - name: A
        value: b
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name, text in FILES.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text, "utf-8")
    return tmp_path


def test_manifests_hold_what_the_user_said_and_the_code(folder: Path) -> None:
    result = CliRunner().invoke(app, ["render", str(folder), "--namespace", "shop"])
    assert result.stderr == ""
    assert result.stdout == WHOLE
    assert result.exit_code == 0


def test_the_app_comes_first_and_says_what_its_file_says(folder: Path) -> None:
    text = """\
apiVersion: bema.dev/v1alpha1
kind: App
metadata: {name: app, namespace: ignored, annotations: {team: shop}}
spec: {eventRetention: 7d, replicas: 3, defaults: {retry: {maxAttempts: 5}, pod: {env: [{name: A, value: b}]}}}
"""
    (folder / "app.yaml").write_text(text)
    result = CliRunner().invoke(app, ["render", str(folder), "--namespace", "shop"])
    assert result.stdout.startswith(APP)
    assert result.stdout.removeprefix(APP) == WHOLE, "nothing of it is written into a Step"


@pytest.mark.parametrize("seed", ["1", "2"])
def test_manifests_are_the_same_each_time(folder: Path, seed: str) -> None:
    command = [sys.executable, "-m", "bema_cli", "render", str(folder), "-n", "shop"]
    env = {**os.environ, "PYTHONHASHSEED": seed}
    assert subprocess.run(command, capture_output=True, text=True, env=env, check=True).stdout == WHOLE


def test_the_code_may_be_an_image(folder: Path) -> None:
    (folder / "steps/charge_payment_step.py").write_text(
        "import json as no_such_package\n" + FILES["src/a_cron_step.py"]
    )
    (folder / "src/a_cron_step.py").unlink()
    result = CliRunner().invoke(app, ["render", str(folder), "--image", "shop:1", "--json"])
    assert json.loads(result.stdout) == {
        "apiVersion": "v1",
        "kind": "List",
        "items": [
            {
                "apiVersion": "bema.dev/v1alpha1",
                "kind": "Step",
                "metadata": {"name": "nightly-report"},
                "spec": {
                    "displayName": "NightlyReport",
                    "triggers": [{"cron": {"schedule": "@daily"}}],
                    "code": {"entrypoint": "steps/charge_payment_step.py", "image": "shop:1"},
                },
            },
            {
                "apiVersion": "bema.dev/v1alpha1",
                "kind": "Step",
                "metadata": {"name": "person", "labels": {"team": "shop"}},
                "spec": {"virtualSubscribes": ["order.paid"]},
            },
        ],
    }


def test_problems_are_told_and_nothing_is_written(folder: Path) -> None:
    (folder / "steps/bad_step.py").write_text("import no_such_package\n")
    result = CliRunner().invoke(app, ["render", str(folder), "--image", "shop:1"])
    assert result.stdout == ""
    assert result.stderr == "✗ steps/bad_step.py:1: ModuleNotFoundError: No module named 'no_such_package'\n"
    assert result.exit_code == 1


@pytest.mark.parametrize(
    "code",
    [
        pytest.param("a = 1\n", id="plain"),
        pytest.param("  indented = 1\nb = 2\n", id="an indented first line"),
        pytest.param("trailing = 1   \n\ttab = 2\n", id="trailing blanks and tabs"),
        pytest.param("no_newline = 1\nat_the_end = 2", id="no newline at the end"),
        pytest.param("many = 1\n\n\n\n", id="several at the end"),
        pytest.param("# ---\n# ...\n%x\n", id="what YAML itself means something by"),
        pytest.param("s = '☃ \u2028 \x0b é 🎉'\n", id="characters of all kinds"),
    ],
)
def test_code_comes_back_as_it_was(code: str) -> None:
    spec = {"code": {"entrypoint": "a.py", "inline": {"a.py": code}}, "triggers": [{"cron": {"schedule": "@daily"}}]}
    written = manifests.write([{"spec": spec}])
    assert yaml.safe_load(written) == {"spec": spec}


def test_a_rendered_manifest_is_read_back_as_the_same_step(folder: Path) -> None:
    (folder / "steps/again.step.yaml").write_text(WHOLE.split("---\n")[1], "utf-8")
    found = manifests.read(folder, "steps/again.step.yaml")
    assert found.name == "charge-payment"
    spec = yaml.safe_load(WHOLE.split("---\n")[1])["spec"]
    assert found.step().spec == parse_spec(spec, where="here")


def test_times_in_manifests_are_text(folder: Path) -> None:
    text = "apiVersion: bema.dev/v1alpha1\nkind: Step\nmetadata: {name: a}\nspec: {deliverFrom: 2026-01-31T12:00:00Z}\n"
    (folder / "steps/a.step.yaml").write_text(text)
    assert manifests.read(folder, "steps/a.step.yaml").spec == {"deliverFrom": "2026-01-31T12:00:00Z"}
