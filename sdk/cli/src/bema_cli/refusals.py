"""What a cluster refuses, in words that say what was expected, what was found and what to do. Pure."""

from __future__ import annotations

import re

from bema.clusters import kinds
from bema.clusters.errors import KubeError, NoAccess
from bema.contract import errors
from bema_cli.kubeconfigs import Place

INSTALL = "kubectl apply --server-side -f crds/"
"""How the CRD gets into a cluster."""

_FORBIDDEN = re.compile(
    r'cannot (?P<verb>\w+) resource "(?P<resource>[^"]+)" in API group "(?P<group>[^"]*)"'
    r'(?: in the namespace "(?P<namespace>[^"]+)"| at the cluster scope)'
)


class ClusterRefused(errors.BemaError):
    """A cluster did not do what was asked; the message says what to do."""


def words(error: KubeError, place: Place) -> str:
    """Why a cluster did not do what was asked."""
    where = f"{place.server} (context {place.context})"
    match error.code:
        case _ if isinstance(error, NoAccess):
            return f"context {place.context}: {error}"
        case 0:
            return f"expected an API server at {where}, found none that answers: {error}"
        case 401:
            return f"expected credentials that {where} accepts, found others: {error}; log in again"
        case 403:
            return f"expected {right(error)}, found that {where} refuses it: {error}"
        case 404 if kinds.STEP.path().rpartition("/")[0] in str(error) and "page not found" in str(error):
            return no_crd(place)
        case _:
            return f"{where}: {error}"


def no_crd(place: Place) -> str:
    return (
        f"expected the CRD {kinds.STEP.full_name} ({kinds.STEP.version}) on {place.server} (context {place.context}), "
        f"found none; install Bema: {INSTALL}"
    )


def right(error: KubeError) -> str:
    """The right that is missing, by what the API server says."""
    found = _FORBIDDEN.search(str(error))
    if found is None:
        return "a right"
    resource = f"{found['resource']}.{found['group']}" if found["group"] else found["resource"]
    scope = f"in namespace {found['namespace']}" if found["namespace"] else "in the whole cluster"
    return f"the right to {found['verb']} {resource} {scope}"
