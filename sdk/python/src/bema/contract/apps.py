"""The App: what a user says about a namespace as a whole. Optional; one per namespace, named `app`.

Its values stand in for the installation's, and its `defaults` for what a Step leaves out. They are applied where a
Step is resolved, and never written into it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Literal

from pydantic import ValidationError

from bema.contract import durations, errors, quantities, steps
from bema.contract.bindings import Installation
from bema.contract.models import Model
from bema.contract.pods import PodFields
from bema.contract.retries import RetryFields
from bema.contract.steps import Concurrency, Step, Timeout

NAME = "app"
"""The one name that an App may have."""

FILE = "app.yaml"
"""Where it is in an app's folder."""


class Defaults(Model):
    """What counts where a Step says nothing."""

    retry: RetryFields = RetryFields()
    """How often and when a failed run is tried again. Field by field."""
    timeout_seconds: Timeout | None = None
    """Longest time of one attempt, in seconds, whatever starts it."""
    concurrency: Concurrency | None = None
    """Attempts at once in one pod."""
    pod: PodFields = PodFields()
    """What is said about each pod. Maps by key, lists of what has a name by name; anything else as a whole."""


class AppSpec(Model):
    """What holds for all Steps of a namespace."""

    event_retention: durations.Duration | None = None
    """How long events are kept that every subscriber has settled, such as 24h or 7d. Default: the installation's."""
    dead_letter_retention: durations.Duration | None = None
    """How long dead letters are kept, such as 30d. Default: the installation's."""
    storage: quantities.Storage | None = None
    """Bytes that the app may use in NATS, one copy of it, such as 10Gi; at least 1Mi. Default: the installation's."""
    replicas: Literal[1, 3, 5] | None = None
    """Copies of all that the app has in NATS, each on a server of its own: 1, 3 or 5. Default: the installation's."""
    defaults: Defaults = Defaults()
    """What counts where a Step says nothing."""

    def over(self, installation: Installation) -> Installation:
        """The installation as this app has it."""
        found = {
            "event_retention_seconds": self.event_retention and durations.parse(self.event_retention),
            "dead_letter_retention_seconds": self.dead_letter_retention and durations.parse(self.dead_letter_retention),
            "storage_bytes": self.storage and quantities.parse(self.storage),
            "replicas": self.replicas,
        }
        return installation.model_copy(update={key: value for key, value in found.items() if value is not None})


def complete(step: Step, app: AppSpec | None) -> Step:
    """A Step with its App's defaults for what it leaves out; the same object without any."""
    if app is None or app.defaults == Defaults():
        return step
    spec, below = step.spec, app.defaults
    found = {
        "retry": spec.retry.over(below.retry),
        "timeout_seconds": below.timeout_seconds if spec.timeout_seconds is None else spec.timeout_seconds,
        "concurrency": below.concurrency if spec.concurrency is None else spec.concurrency,
        "pod": spec.pod.over(below.pod),
    }
    return step.model_copy(update={"spec": spec.model_copy(update=found)})


def not_supported(spec: AppSpec) -> list[str]:
    """What an App asks for that this version does not act on, each as a sentence that names the field."""
    return list(_unsupported(spec))


def _unsupported(spec: AppSpec) -> Iterator[str]:
    for sentence in steps.unsupported_pod(spec.defaults.pod):
        yield f"defaults.{sentence}"


def parse(spec: Mapping[str, Any], *, where: str) -> AppSpec:
    """A spec from plain values. Raises `AppInvalid` with one line per problem, each with `where`, the field, and for
    an unknown key the nearest valid one."""
    try:
        return AppSpec.model_validate(dict(spec))
    except ValidationError as error:
        raise errors.AppInvalid("\n".join(steps.explain(error, where=where, root=AppSpec))) from error
