"""The Kubernetes kinds that the operator deals with. Names only: no I/O."""

from __future__ import annotations

from bema.clusters.kinds import (
    APP,
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
    "APP",
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
    "SELECTING",
    "SERVICE",
    "STEP",
    "Kind",
    "of",
]

CHILDREN = (CONFIG_MAP, NETWORK_POLICY, SERVICE, DISRUPTION_BUDGET, DEPLOYMENT, CRON_JOB)
"""What a Step may own, in the order in which it is applied."""

SELECTING = (NETWORK_POLICY, SERVICE, DISRUPTION_BUDGET, DEPLOYMENT)
"""Those that name the Step's pods in a selector, which is one field: nobody else's object has the same."""


def of(api_version: str, name: str) -> Kind:
    """The child kind of a manifest. Raises `KeyError` for a kind that no Step owns."""
    return _BY_NAME[api_version, name]


_BY_NAME = {(kind.api_version, kind.name): kind for kind in CHILDREN}
