"""What the operator's process is told."""

from pathlib import Path

import pytest

from bema_operator import settings
from bema_operator.settings import Settings


def test_nothing_told_is_the_defaults() -> None:
    assert settings.parse([], {}) == Settings()


def test_an_option_wins_over_its_variable() -> None:
    environment = {"BEMA_NATS_URL": "nats://a:1, nats://b:2", "BEMA_WORKERS": "3", "BEMA_RUNTIME_IMAGE": "r:1"}
    found = settings.parse(["--workers", "4", "--text-logs"], environment)
    assert found == Settings(nats_urls=("nats://a:1", "nats://b:2"), workers=4, runtime_image="r:1", json_logs=False)


def test_the_kubeconfig_comes_from_the_command_line_only() -> None:
    assert settings.parse([], {"KUBECONFIG": "/etc/other"}).kubeconfig is None
    assert settings.parse(["--kubeconfig", "/tmp/k"], {}).kubeconfig == "/tmp/k"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        pytest.param(["--workers", "0"], "--workers: expected 1 or more, found 0", id="no workers"),
        pytest.param(["--nats-urls", ","], "expected at least one URL such as nats://nats:4222", id="no broker"),
        pytest.param(["--storage-bytes", "1 TB"], "invalid quantity value: '1 TB'", id="no quantity"),
        pytest.param(
            ["--event-retention-seconds", "-1"], "expected more than 0 and at most 315360000 seconds", id="no time"
        ),
        pytest.param(["--network-policies", "no"], "invalid true or false value: 'no'", id="no switch"),
        pytest.param(["--workers", "many"], "invalid int value: 'many'", id="no number"),
    ],
)
def test_what_makes_no_sense_is_refused(arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        settings.parse(arguments, {})
    assert message in capsys.readouterr().err


def test_pods_find_the_broker_where_the_operator_does_unless_told_otherwise() -> None:
    assert Settings(nats_urls=("a",)).as_installation().broker.urls == ["a"]
    assert Settings(nats_urls=("a",), runtime_nats_urls=("b",)).as_installation().broker.urls == ["b"]


def test_network_policies_may_be_switched_off() -> None:
    assert settings.parse([], {}).network_policies
    assert not settings.parse([], {"BEMA_NETWORK_POLICIES": "false"}).network_policies
    assert settings.parse(["--network-policies", "True"], {"BEMA_NETWORK_POLICIES": "false"}).network_policies


def test_what_apps_may_keep_reaches_the_janitor() -> None:
    environment = {"BEMA_STORAGE_BYTES": "10Gi", "BEMA_EVENT_RETENTION_SECONDS": "60"}
    found = settings.parse(["--dead-letter-retention-seconds", "120"], environment).as_installation()
    assert (found.storage_bytes, found.event_retention_seconds) == (10 * 2**30, 60)
    assert found.dead_letter_retention_seconds == 120


@pytest.mark.parametrize(
    "field",
    [
        "storage_bytes",
        "event_retention_seconds",
        "dead_letter_retention_seconds",
        "janitor_seconds",
        "orphan_grace_seconds",
        "orphan_stream_grace_seconds",
    ],
)
def test_what_may_be_kept_is_in_the_docs(field: str) -> None:
    docs = (Path(__file__).parents[2] / "docs/storage.md").read_text("utf-8")
    option, default = f"--{field.replace('_', '-')}", getattr(Settings(), field)
    [line] = [line for line in docs.splitlines() if line.startswith(f"| `{option}`")]
    assert f"`BEMA_{field.upper()}`" in line
    assert ("`1Gi`" if field == "storage_bytes" else f"| {default:.0f} |") in line
