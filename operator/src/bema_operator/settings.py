"""What the operator's process is told: from arguments and the environment, once, in `__main__`."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from bema.contract import bindings

VERSION = "0.1.0"


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """Everything that the operator may be told."""

    namespace: str | None = None
    """Serve this namespace only; None for all of them."""

    kubeconfig: str | None = None
    """A kubeconfig file, for running outside a cluster. None: the pod's ServiceAccount. Nothing else is looked for."""

    nats_urls: tuple[str, ...] = ("nats://nats.bema-system.svc:4222",)
    """Where the operator finds NATS."""

    runtime_nats_urls: tuple[str, ...] = ()
    """Where the Steps' pods find NATS; empty: as the operator does."""

    runtime_image: str = f"bema-runtime:{VERSION}"
    """The image of Steps whose code is inline."""

    image_pull_policy: str | None = None
    """`imagePullPolicy` of Steps' containers; None leaves it to Kubernetes."""

    installation: str = ""
    """Tells clusters apart that share one NATS; empty where there is only one."""

    stream_replicas: int = 1
    """Copies of each app's stream."""

    memory_streams: bool = False
    """Keep apps' streams in memory only."""

    drain_seconds: float = bindings.DRAIN
    """How long a pod may finish what it has in hand, in seconds."""

    workers: int = 16
    """Reconciles at once."""

    resync_seconds: float = 60.0
    """Time between two of our own lists of everything we watch, in seconds."""

    backlog_seconds: float = 10.0
    """Time between two looks at the consumers' backlogs, and so between two writes of `status.backlog`, in seconds."""

    orphan_grace_seconds: float = 3600.0
    """How long the consumer of a deleted Step is kept, in seconds."""

    health_host: str = "0.0.0.0"
    """Address of the health and metrics servers."""

    health_port: int = 8081
    """Port of `/livez` and `/readyz`; 0 for any free one."""

    metrics_port: int = 9090
    """Port of `/metrics`; 0 for any free one."""

    json_logs: bool = True
    """Log one JSON object a line."""

    debug: bool = False
    """Log what was looked at too, not only what changed."""

    def as_installation(self) -> bindings.Installation:
        """What every Step's Binding says about the platform."""
        return bindings.Installation(
            name=self.installation,
            broker=bindings.Broker(urls=list(self.runtime_nats_urls or self.nats_urls)),
            replicas=self.stream_replicas,
            memory=self.memory_streams,
            drain_seconds=self.drain_seconds,
            json_logs=self.json_logs,
        )


_ARGUMENTS: tuple[tuple[str, str, type], ...] = (
    ("namespace", "BEMA_NAMESPACE", str),
    ("nats_urls", "BEMA_NATS_URL", tuple),
    ("runtime_nats_urls", "BEMA_RUNTIME_NATS_URL", tuple),
    ("runtime_image", "BEMA_RUNTIME_IMAGE", str),
    ("image_pull_policy", "BEMA_IMAGE_PULL_POLICY", str),
    ("installation", "BEMA_INSTALLATION", str),
    ("stream_replicas", "BEMA_STREAM_REPLICAS", int),
    ("drain_seconds", "BEMA_DRAIN_SECONDS", float),
    ("workers", "BEMA_WORKERS", int),
    ("resync_seconds", "BEMA_RESYNC_SECONDS", float),
    ("backlog_seconds", "BEMA_BACKLOG_SECONDS", float),
    ("orphan_grace_seconds", "BEMA_ORPHAN_GRACE_SECONDS", float),
    ("health_host", "BEMA_HEALTH_HOST", str),
    ("health_port", "BEMA_HEALTH_PORT", int),
    ("metrics_port", "BEMA_METRICS_PORT", int),
)
"""Field, environment variable, type. The option is the field's name with dashes; it wins over the variable."""


def parse(arguments: Sequence[str], environment: Mapping[str, str]) -> Settings:
    """Settings from a command line and an environment. Exits with a usage message on what makes no sense.

    The kubeconfig has an option but no variable: the operator must never reach a cluster by accident.
    """
    parser = argparse.ArgumentParser(prog="bema-operator", description="Turns Steps into running workloads.")
    parser.add_argument("--kubeconfig", help="run outside a cluster, with this kubeconfig file")
    parser.add_argument("--text-logs", dest="json_logs", action="store_false", help="log text for people")
    parser.add_argument("--memory-streams", action="store_true", help="keep apps' streams in memory only")
    parser.add_argument("--debug", action="store_true", help="log what was looked at, too")
    for field, variable, kind in _ARGUMENTS:
        default = environment.get(variable) or None
        parser.add_argument(f"--{field.replace('_', '-')}", default=default, type=_reader(kind), help=f"or ${variable}")
    found = {name: value for name, value in vars(parser.parse_args(arguments)).items() if value is not None}
    settings = Settings(**found)
    if not settings.nats_urls:
        parser.error("--nats-urls: expected at least one URL such as nats://nats:4222, found none")
    if settings.workers < 1:
        parser.error(f"--workers: expected 1 or more, found {settings.workers}")
    return settings


def _reader(kind: type) -> type | _Urls:
    return _Urls() if kind is tuple else kind


class _Urls:
    """Reads `a,b` as two URLs. A class, so that argparse can name it in its messages."""

    __name__ = "urls"

    def __call__(self, text: str) -> tuple[str, ...]:
        return tuple(part.strip() for part in text.split(",") if part.strip())
