"""What a stored Step asks for: its spec read once, its Binding, and the manifests of its children. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError

from bema.contract import bindings, errors, names, steps
from bema.contract.bindings import Binding
from bema.contract.steps import Step, StepSpec
from bema_operator.facts import Key, Subject
from bema_operator.manifests import children
from bema_operator.settings import Settings

Object = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Plan:
    """What one generation of a Step asks for."""

    spec: StepSpec | None = None
    """None when it cannot be read."""
    invalid: str = ""
    unsupported: Sequence[str] = ()
    binding: Binding | None = None
    """None when nothing of this Step runs."""
    wanted: Sequence[Object] = ()


def subject(found: Object) -> Subject:
    """The Step's identity and state, as the API server has it."""
    metadata = found["metadata"]
    return Subject(
        key=Key(metadata["namespace"], metadata["name"]),
        uid=metadata["uid"],
        generation=metadata["generation"],
        created=metadata["creationTimestamp"],
        deleting="deletionTimestamp" in metadata,
        status=found.get("status", {}),
        discards=_words(metadata.get("annotations", {}).get(names.ANNOTATION_DISCARD_BACKLOG, "")),
    )


def _words(text: str) -> frozenset[str]:
    return frozenset(word.strip() for word in text.split(",") if word.strip())


def plan(found: Object, namespace_uid: str, settings: Settings) -> Plan:
    """Read a Step and resolve it. What is wrong with it is part of the answer, not an exception."""
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
    owner = bindings.Owner(namespace=who.key.namespace, namespace_uid=namespace_uid, uid=who.uid, created=who.created)
    binding = bindings.bind(step, owner, settings.as_installation())
    return Plan(spec=step.spec, binding=binding, wanted=children.children(binding, step, settings))
