"""What a worker shall run, worked out from what was found: Bindings, environment, and whether anything changed. Pure
but for reading the files that it compares."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass, field, replace
from pathlib import Path

from bema.contract import apps, bindings, triggers
from bema.contract.apps import AppSpec
from bema.contract.bindings import Binding, Installation, Owner
from bema.contract.pods import PodFields
from bema.contract.steps import Step
from bema.discoveries import Found, Problem
from bema_cli import events
from bema_cli.checks import Findings

Declared = dict[str, dict[str, list[str]]]
"""The plain variables of all Steps: by name, by value, who declares it."""


@dataclass(frozen=True, slots=True)
class Plan:
    """A worker's work."""

    steps: Sequence[Found]
    """All good Steps, noops among them."""
    bindings: Mapping[str, Binding]
    """By Step file; none for noops."""
    prints: Mapping[str, str]
    """By Step file: a hash of all that a Step is made of."""
    env: Mapping[str, str]
    broken: frozenset[str]
    """Step files that have a problem."""
    app: AppSpec = field(default_factory=AppSpec)
    warnings: Sequence[str] = ()
    """What is asked for that one shared process and one server cannot give."""

    def without(self, files: Set[str]) -> Plan:
        """This plan, with nothing done for some of its Steps. They are no news until they change."""
        return replace(
            self,
            steps=[found for found in self.steps if found.file not in files],
            bindings={file: binding for file, binding in self.bindings.items() if file not in files},
        )


EMPTY = Plan((), {}, {}, {}, frozenset())


def plan(findings: Findings, env: Mapping[str, str], *, folder: Path, app: str, installation: Installation) -> Plan:
    """The work that findings amount to."""
    said = findings.app_spec
    complete = {found.file: apps.complete(found.step(), said) for found in findings.steps}
    declared = _declared(complete.values())
    bound = {
        found.file: bindings.bind(complete[found.file], Owner(namespace=app), installation)
        for found in findings.steps
        if found.entrypoint is not None
    }
    return Plan(
        steps=findings.steps,
        bindings=bound,
        prints={
            found.file: _print(found, bound[found.file], folder) for found in findings.steps if found.file in bound
        },
        env={**{name: next(iter(found)) for name, found in declared.items() if len(found) == 1}, **env},
        broken=frozenset(problem.step_file for problem in findings.problems),
        app=said,
        warnings=list(_warnings(findings.steps, said, declared)),
    )


def names(plan: Plan) -> frozenset[str] | None:
    """The names of all Steps; None while a file has a problem, for nobody knows then which Steps it has."""
    return None if plan.broken else frozenset(found.name for found in plan.steps)


def silent(plan: Plan) -> frozenset[str]:
    """The names of the Steps that hear no events, noops among them."""
    return frozenset(found.name for found in plan.steps if not (found.step().spec.events or found.step().spec.states))


def changes(running: Plan, wanted: Plan) -> list[str]:
    """Files whose Steps have to start, restart or stop. One that is broken now is no reason: it goes on."""
    changed = [file for file, digest in wanted.prints.items() if running.prints.get(file) != digest]
    gone = [file for file in running.prints if file not in wanted.prints and file not in wanted.broken]
    env = [".env"] if running.prints and running.env != wanted.env else []
    return sorted({*changed, *gone}) + env


def _print(found: Found, binding: Binding, folder: Path) -> str:
    computed = {
        path: (folder / path).read_text("utf-8", "replace") for path in found.computed if (folder / path).exists()
    }
    # Where sockets are is no part of what a Step is.
    named = binding.model_copy(update={"http": None, "health": bindings.Listen(), "metrics": bindings.Listen()})
    content = json.dumps([named.dump(), found.files, computed], sort_keys=True)
    return hashlib.sha256(content.encode("utf-8", "surrogatepass")).hexdigest()


def _declared(steps: Iterable[Step]) -> Declared:
    declared: Declared = {}
    for step in steps:
        for variable in step.spec.pod.env or []:
            if variable.value is not None:
                declared.setdefault(variable.name, {}).setdefault(variable.value, []).append(step.name)
    return declared


def _warnings(steps: Sequence[Found], app: AppSpec, declared: Declared) -> Iterator[str]:
    if (app.replicas or 1) > 1:
        yield f"{apps.FILE}: replicas: {app.replicas} counts on a cluster only; one nats-server runs here"
    yield from _on_a_cluster(f"{apps.FILE}: defaults.pod", app.defaults.pod)
    for found in steps:
        spec = found.step().spec
        yield from _on_a_cluster(f"{found.name}: pod", spec.pod)
        if spec.restart_on is not None:
            yield f"{found.name}: restartOn counts on a cluster only; there are no ConfigMaps here"
    for name, values in sorted(declared.items()):
        if len(values) > 1:
            who = ", ".join(sorted(step for several in values.values() for step in several))
            yield f"pod.env {name} has different values in {who}, and here they share one process; set it in .env"


def _on_a_cluster(where: str, pod: PodFields) -> Iterator[str]:
    absent = [variable.name for variable in pod.env or [] if variable.value_from is not None]
    if absent:
        yield f"{where}.env {', '.join(absent)}: valueFrom works on a cluster only; set it in .env"
    if pod.env_from:
        yield f"{where}.envFrom works on a cluster only; set its variables in .env"


def refused(findings: Findings) -> Iterator[Problem]:
    """Steps that a cluster can run and `bema dev` cannot."""
    for found in findings.steps:
        if found.entrypoint is None and found.spec.get("triggers"):
            message = (
                "`bema dev` runs the code of Python Step files, found code in a manifest; it runs on a cluster only"
            )
            yield Problem(file=found.file, message=message, step_file=found.file)


def running(found: Found, url: str | None) -> events.Running:
    """A Step, for people."""
    spec = found.step().spec
    return events.Running(
        name=found.name,
        file=found.file,
        endpoints=[(api.method.value, f"{url}{triggers.normal_path(api.path)}") for api in spec.apis],
        topics=[topic for event in spec.events for topic in event.topics],
        schedules=[f"{cron.schedule} ({cron.time_zone})" for cron in spec.crons],
        groups=[state.group for state in spec.states],
    )
