"""The Kubernetes kinds that the operator deals with. Names only: no I/O."""

from __future__ import annotations

from bema.clusters.kinds import (
    CONFIG_MAP,
    CRON_JOB,
    DEPLOYMENT,
    DISRUPTION_BUDGET,
    EVENT,
    LEASE,
    NAMESPACE,
    NETWORK_POLICY,
    POD,
    SERVICE,
    STEP,
    Kind,
)

__all__ = [
    "CHILDREN",
    "CONFIG_MAP",
    "CRON_JOB",
    "DEPLOYMENT",
    "DISRUPTION_BUDGET",
    "EVENT",
    "LEASE",
    "NAMESPACE",
    "NETWORK_POLICY",
    "POD",
    "SERVICE",
    "STEP",
    "Kind",
    "of",
]

CHILDREN = (CONFIG_MAP, NETWORK_POLICY, SERVICE, DISRUPTION_BUDGET, DEPLOYMENT, CRON_JOB)
"""What a Step may own, in the order in which it is applied."""


def of(api_version: str, name: str) -> Kind:
    """The child kind of a manifest. Raises `KeyError` for a kind that no Step owns."""
    return _BY_NAME[api_version, name]


_BY_NAME = {(kind.api_version, kind.name): kind for kind in CHILDREN}
