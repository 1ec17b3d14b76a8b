"""What the operator's process is told: from arguments and the environment, once, in `__main__`."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from bema.contract import bindings, quantities, retentions, versions

VERSION = versions.VERSION

LONGEST = 10 * 365 * 24 * 3600.0
"""Seconds, for times that are subtracted from the present."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """Everything that the operator may be told."""

    namespace: str | None = None
    """Serve this namespace only; by default all of them."""

    kubeconfig: str | None = None
    """A kubeconfig file, for running outside a cluster. By default the pod's ServiceAccount. Nothing else is
    looked for."""

    lease_namespace: str = ""
    """Namespace of the Lease that the acting operator holds: of several, one acts. Empty: there is no Lease, and
    nothing keeps two operators apart."""

    lease_holder: str = ""
    """Who this operator is in the Lease; empty: the name of its host, which is that of its pod."""

    nats_urls: tuple[str, ...] = ("nats://nats.bema-system.svc:4222",)
    """Where the operator finds NATS."""

    runtime_nats_urls: tuple[str, ...] = ()
    """Where the Steps' pods find NATS; empty: as the operator does."""

    runtime_image: str = f"bema-runtime:{VERSION}"
    """The image of Steps whose code is inline."""

    image_pull_policy: str | None = None
    """`imagePullPolicy` of Steps' containers; by default left to Kubernetes."""

    network_policies: bool = True
    """Whether a Step gets a NetworkPolicy: its own namespace and those labelled as clients may reach its pods."""

    installation: str = ""
    """Tells clusters apart that share one NATS; empty where there is only one."""

    stream_replicas: int = 1
    """Copies of each app's stream."""

    memory_streams: bool = False
    """Keep apps' streams in memory only."""

    storage_bytes: int = bindings.STORAGE
    """Bytes that each app may use in NATS, one copy of it."""

    event_retention_seconds: float = bindings.EVENT_RETENTION
    """How long events are kept that every subscriber has settled, in seconds."""

    dead_letter_retention_seconds: float = bindings.DEAD_LETTER_RETENTION
    """How long dead letters are kept, in seconds."""

    janitor_seconds: float = retentions.SWEEP_SECONDS
    """Time between two sweeps of the apps' streams, in seconds."""

    drain_seconds: float = bindings.DRAIN
    """How long a pod may finish what it has in hand, in seconds."""

    workers: int = 16
    """Reconciles at once."""

    resync_seconds: float = 900.0
    """Time between two lists of everything that is watched, in seconds: watches tell all, this is for what should not
    happen."""

    backlog_seconds: float = 10.0
    """Time between two looks at the consumers' backlogs, and so between two writes of `status.backlog`, in seconds."""

    orphan_grace_seconds: float = 3600.0
    """How long the consumer of a deleted Step is kept, in seconds."""

    orphan_stream_grace_seconds: float = 7 * 24 * 3600.0
    """How long nothing must have been written to the stream of a deleted namespace before it is removed with all that
    it holds, in seconds."""

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
            storage_bytes=self.storage_bytes,
            event_retention_seconds=self.event_retention_seconds,
            dead_letter_retention_seconds=self.dead_letter_retention_seconds,
            drain_seconds=self.drain_seconds,
            json_logs=self.json_logs,
        )


ARGUMENTS: tuple[tuple[str, str, type], ...] = (
    ("namespace", "BEMA_NAMESPACE", str),
    ("lease_namespace", "BEMA_LEASE_NAMESPACE", str),
    ("lease_holder", "BEMA_LEASE_HOLDER", str),
    ("nats_urls", "BEMA_NATS_URL", tuple),
    ("runtime_nats_urls", "BEMA_RUNTIME_NATS_URL", tuple),
    ("runtime_image", "BEMA_RUNTIME_IMAGE", str),
    ("image_pull_policy", "BEMA_IMAGE_PULL_POLICY", str),
    ("network_policies", "BEMA_NETWORK_POLICIES", bool),
    ("installation", "BEMA_INSTALLATION", str),
    ("stream_replicas", "BEMA_STREAM_REPLICAS", int),
    ("storage_bytes", "BEMA_STORAGE_BYTES", bytes),
    ("event_retention_seconds", "BEMA_EVENT_RETENTION_SECONDS", float),
    ("dead_letter_retention_seconds", "BEMA_DEAD_LETTER_RETENTION_SECONDS", float),
    ("janitor_seconds", "BEMA_JANITOR_SECONDS", float),
    ("drain_seconds", "BEMA_DRAIN_SECONDS", float),
    ("workers", "BEMA_WORKERS", int),
    ("resync_seconds", "BEMA_RESYNC_SECONDS", float),
    ("backlog_seconds", "BEMA_BACKLOG_SECONDS", float),
    ("orphan_grace_seconds", "BEMA_ORPHAN_GRACE_SECONDS", float),
    ("orphan_stream_grace_seconds", "BEMA_ORPHAN_STREAM_GRACE_SECONDS", float),
    ("health_host", "BEMA_HEALTH_HOST", str),
    ("health_port", "BEMA_HEALTH_PORT", int),
    ("metrics_port", "BEMA_METRICS_PORT", int),
)
"""Field, environment variable, type. The option is the field's name with dashes; it wins over the variable."""

FLAGS: tuple[tuple[str, str, str], ...] = (
    ("memory_streams", "--memory-streams", "keep apps' streams in memory only"),
    ("json_logs", "--text-logs", "log text for people"),
    ("debug", "--debug", "log what was looked at, too"),
)
"""Field, the option that turns it into the opposite of its default, what the option does."""


def parse(arguments: Sequence[str], environment: Mapping[str, str]) -> Settings:
    """Settings from a command line and an environment. Exits with a usage message on what makes no sense.

    The kubeconfig has an option but no variable: the operator must never reach a cluster by accident.
    """
    parser = argparse.ArgumentParser(prog="bema-operator", description="Turns Steps into running workloads.")
    parser.add_argument("--kubeconfig", help="run outside a cluster, with this kubeconfig file")
    for field, option, text in FLAGS:
        opposite = not getattr(Settings(), field)
        parser.add_argument(option, dest=field, action="store_const", const=opposite, help=text)
    for field, variable, kind in ARGUMENTS:
        default = environment.get(variable) or None
        parser.add_argument(f"--{field.replace('_', '-')}", default=default, type=_reader(kind), help=f"or ${variable}")
    found = {name: value for name, value in vars(parser.parse_args(arguments)).items() if value is not None}
    settings = Settings(**found)
    if not settings.nats_urls:
        parser.error("--nats-urls: expected at least one URL such as nats://nats:4222, found none")
    for field in ("event_retention_seconds", "dead_letter_retention_seconds", "janitor_seconds"):
        if not 0 < getattr(settings, field) <= LONGEST:
            parser.error(
                f"--{field.replace('_', '-')}: expected more than 0 and at most {LONGEST:.0f} seconds, "
                f"found {getattr(settings, field):g}"
            )
    if settings.workers < 1:
        parser.error(f"--workers: expected 1 or more, found {settings.workers}")
    return settings


def _reader(kind: type) -> type | _Urls | _Bytes | _Switch:
    special: dict[type, _Urls | _Bytes | _Switch] = {tuple: _Urls(), bytes: _Bytes(), bool: _Switch()}
    return special.get(kind, kind)


class _Bytes:
    """Reads `10Gi` as a number of bytes. A class for the same reason as `_Urls`."""

    __name__ = "quantity"

    def __call__(self, text: str) -> int:
        return quantities.parse(text)


class _Switch:
    """Reads `true` or `false`. A class for the same reason as `_Urls`."""

    __name__ = "true or false"

    def __call__(self, text: str) -> bool:
        if text.lower() not in ("true", "false"):
            raise ValueError(text)
        return text.lower() == "true"


class _Urls:
    """Reads `a,b` as two URLs. A class, so that argparse can name it in its messages."""

    __name__ = "urls"

    def __call__(self, text: str) -> tuple[str, ...]:
        return tuple(part.strip() for part in text.split(",") if part.strip())
