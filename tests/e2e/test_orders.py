"""The orders example on a real Kubernetes: pods of every Step and of the broker deleted by force, nothing lost."""

import os
import re
import subprocess
import sys

import pytest

from tools.cluster import paths

pytestmark = pytest.mark.e2e

SECONDS = 900
CANNOT_RUN_HERE = 3
STEPS = ("charge-payment", "create-order", "get-order", "notify-customer", "reserve-stock")


@pytest.fixture(scope="module")
def said() -> str:
    """What `make demo-cluster` says, with a shorter file."""
    command = [sys.executable, "-m", "tools.demo", "cluster", "--name", "e2e-orders", "--orders", "200"]
    command += ["--kind"] if os.environ.get("CLUSTER") == "kind" else []
    done = subprocess.run(
        command, cwd=paths.REPOSITORY, capture_output=True, text=True, timeout=SECONDS, stdin=subprocess.DEVNULL
    )
    if done.returncode == CANNOT_RUN_HERE:
        pytest.skip(done.stderr.strip().splitlines()[-1])
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    return f"{done.stderr}\n{done.stdout}"


def test_inline_code_and_an_image_both_pass_the_audit(said: str) -> None:
    parts = re.split(r"On Kubernetes, code (\w+)", said)
    assert parts[1::2] == ["inline", "image"]
    for part in parts[2::2]:
        assert "200 sent, 194 accepted, 4 refused, 2 dead-lettered, 0 lost, 0 doubled" in part


def test_the_image_brings_its_requirement_and_inline_code_does_without(said: str) -> None:
    assert re.search(r"\d+ requests to the provider by Python-urllib/\d", said)
    assert re.search(r"\d+ requests to the provider by python-httpx/\d", said)


def test_every_step_has_a_workload_of_its_own(said: str) -> None:
    line = f"each Step its own: Deployments {', '.join(STEPS)}; CronJob nightly-report; nothing for courier"
    assert said.count(line) == 2


def test_the_pods_of_every_step_and_the_brokers_were_deleted_by_force(said: str) -> None:
    for step in STEPS:
        assert re.search(rf"deleted the pod of {step} by force, with \d+ events and \d+ requests in hand", said)
    assert re.search(r"deleted the NATS pod by force, with \d+ events and \d+ requests in hand", said)


def test_the_report_was_run_by_hand(said: str) -> None:
    assert said.count("report by hand: kubectl create job --from=cronjob/nightly-report: ") == 2
