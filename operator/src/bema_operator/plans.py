"""What a stored Step asks for: its spec read once, its Binding, and the manifests of its children; and what a stored
App says. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from pydantic import ValidationError

from bema.contract import apps, bindings, errors, names, pods, retentions, steps
from bema.contract.apps import AppSpec
from bema.contract.bindings import AppStream, Binding
from bema.contract.retentions import Retentions
from bema.contract.steps import Step, StepSpec
from bema_operator import kinds
from bema_operator.facts import Key, Subject
from bema_operator.manifests import children
from bema_operator.objects import Object
from bema_operator.settings import Settings


@dataclass(frozen=True, slots=True)
class Plan:
    """What one generation of a Step asks for."""

    spec: StepSpec | None = None
    """None when it cannot be read."""
    invalid: str = ""
    unsupported: Sequence[str] = ()
    held: str = ""
    """Why its App keeps the Step as it is."""
    binding: Binding | None = None
    """None when nothing of this Step runs."""
    stream: AppStream | None = None
    """The app's stream, as the App has it; None without a Binding."""
    wanted: Sequence[Object] = ()


_SILENT = AppSpec()


@dataclass(frozen=True, slots=True)
class AppPlan:
    """What one generation of an App says, or that there is none."""

    spec: AppSpec | None = _SILENT
    """None when it cannot be read."""
    invalid: str = ""
    unsupported: Sequence[str] = ()

    @property
    def problem(self) -> str:
        """Why it is not acted on; empty when it is."""
        return self.invalid or "; ".join(self.unsupported)

    def retentions(self, settings: Settings) -> Retentions | None:
        """What the janitor goes by; None when nobody knows."""
        return None if self.spec is None else retentions.of_installation(self.spec.over(settings.as_installation()))


def subject(found: Object, kind: kinds.Kind = kinds.STEP) -> Subject:
    """The identity and state of a Step, or an App, as the API server has it."""
    metadata = found["metadata"]
    return Subject(
        key=Key(metadata["namespace"], metadata["name"]),
        uid=metadata["uid"],
        generation=metadata["generation"],
        created=metadata["creationTimestamp"],
        deleting="deletionTimestamp" in metadata,
        status=found.get("status", {}),
        kind=kind,
        discards=_words(metadata.get("annotations", {}).get(names.ANNOTATION_DISCARD_BACKLOG, "")),
    )


def _words(text: str) -> frozenset[str]:
    return frozenset(word.strip() for word in text.split(",") if word.strip())


def app_plan(found: Object | None) -> AppPlan:
    """Read an App; without one, everything is as the installation says."""
    if found is None:
        return AppPlan()
    try:
        spec = apps.parse(found.get("spec") or {}, where="spec")
    except errors.AppInvalid as error:
        return AppPlan(spec=None, invalid=str(error))
    return AppPlan(spec=spec, unsupported=apps.not_supported(spec))


def restarts_on(found: Object) -> list[str]:
    """The names of the ConfigMaps on which a Step is restarted, before it is read: it may be invalid."""
    said = (found.get("spec") or {}).get("restartOn") or {}
    return sorted(map(str, said.get("configMaps") or ()))


def plan(found: Object, namespace_uid: str, settings: Settings, app: AppPlan = AppPlan(), contents: str = "") -> Plan:
    """Read a Step and resolve it. What is wrong with it is part of the answer, not an exception. `contents`: a digest
    of what the ConfigMaps hold on which it is restarted."""
    who = subject(found)
    try:
        step = Step(name=who.key.name, spec=steps.parse_spec(found.get("spec") or {}, where="spec"))
    except errors.StepInvalid as error:
        return Plan(invalid=str(error))
    except ValidationError as error:
        return Plan(invalid="\n".join(steps.explain(error, where="metadata")))
    unsupported = steps.not_supported(step.spec)
    if unsupported or not step.spec.triggers:
        return Plan(spec=step.spec, unsupported=unsupported)
    if app.spec is None or app.problem:
        return Plan(
            spec=step.spec, held=f"The App of this namespace is not acted on: {app.problem}. Mend or delete it."
        )
    owner = bindings.Owner(namespace=who.key.namespace, namespace_uid=namespace_uid, uid=who.uid, created=who.created)
    complete = apps.complete(step, app.spec)
    missing = list(pods.missing_volumes(complete.spec.pod))
    if missing:
        return Plan(invalid="; ".join(missing))
    # Not as the App has it: how many copies there are is nothing that a pod would have to start again for.
    binding = bindings.bind(complete, owner, settings.as_installation())
    return Plan(
        spec=step.spec,
        binding=binding,
        stream=bindings.app_stream(owner, app.spec.over(settings.as_installation())),
        wanted=children.children(binding, complete, settings, contents),
    )
