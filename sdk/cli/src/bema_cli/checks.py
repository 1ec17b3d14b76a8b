"""What would fail, found before it runs. Pure: a discovery in, findings out.

`examine` holds everywhere; `carried` is about code that travels inside the Step, so `bema dev` does not ask it.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence, Set
from dataclasses import dataclass, field, replace

from bema.contract import apps, errors, pods, steps, triggers
from bema.contract.apps import AppSpec
from bema.contract.models import JsonSchema
from bema.contract.steps import MAX_INLINE_BYTES, StepSpec
from bema.discoveries import Discovery, Found, FoundApp, Problem
from bema_cli import images
from bema_runtime import schemas

NEEDS_IMAGE = "it needs an image of your own"
"""Ends the message of each problem that an image solves."""

NOTHING = "expected Steps in files such as steps/charge_payment_step.py or src/charge_payment_step.py, found none"

_MISSING = re.compile(r"^(?:imports|ModuleNotFoundError: No module named) '([^'.]+)")


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Where a Step answers HTTP."""

    method: str
    path: str
    step: str
    file: str


@dataclass(frozen=True, slots=True)
class Findings:
    """What a discovery is worth."""

    steps: Sequence[Found]
    """Those that nothing keeps from running, by name."""
    problems: Sequence[Problem]
    warnings: Sequence[str]
    endpoints: Sequence[Endpoint]
    """Open to whoever reaches them: there is no other kind yet."""
    refused: Sequence[Found] = ()
    """Those that a problem keeps from running."""
    app: FoundApp | None = None
    app_spec: AppSpec = field(default_factory=AppSpec)
    """What the App says: nothing, where there is none."""

    @property
    def is_app_amiss(self) -> bool:
        """Whether the App has a problem: then nobody knows how the Steps are to run."""
        return any(problem.file == apps.FILE for problem in self.problems)

    def with_problems(self, more: Iterable[Problem]) -> Findings:
        """These findings and more problems; Steps that have one are taken out."""
        return _findings([*self.steps, *self.refused], [*self.problems, *more], self.app, self.app_spec)

    def advice(self) -> str | None:
        """How to build an image, when a problem needs one."""
        messages = [problem.message for problem in self.problems if problem.message.endswith(NEEDS_IMAGE)]
        if not messages:
            return None
        missing = {found[1] for message in messages if (found := _MISSING.search(message))}
        files = {path for step in (*self.steps, *self.refused) for path in step.files}
        files |= {problem.file for problem in self.problems}
        return images.advice(packages=sorted(missing), places=sorted({path.split("/")[0] for path in files}))

    def with_hints(self, available: Set[str]) -> Findings:
        """These findings; imports that are missing say what to do about the runtime image as well."""
        return replace(self, problems=[_hint(problem, available) for problem in self.problems])


def examine(discovery: Discovery) -> Findings:
    """Everything that the Steps of one folder are asked, wherever they run."""
    more = [problem for found in discovery.steps for problem in _alone(found)]
    more += _adoptions(discovery.steps)
    said = discovery.app.app() if discovery.app else AppSpec()
    if not any(problem.file == apps.FILE for problem in discovery.problems):
        # Or nobody knows which volumes the App has.
        more += _mounts(discovery.steps, said)
    more += [Problem(file=apps.FILE, message=sentence) for sentence in apps.not_supported(said)]
    return _findings(discovery.steps, [*discovery.problems, *more, *_routes(discovery.steps)], discovery.app, said)


def _findings(found: Sequence[Found], problems: Iterable[Problem], app: FoundApp | None, app_spec: AppSpec) -> Findings:
    ordered = sorted(problems, key=lambda problem: (problem.file, problem.line or 0, problem.message))
    bad = {problem.step_file for problem in ordered}
    good = [step for step in found if step.file not in bad]
    # A Step that cannot be read may be the one that emits or hears a topic.
    warnings = [] if any(bad) else list(_topics(good))
    refused = [step for step in found if step.file in bad]
    return Findings(good, ordered, warnings, list(endpoints(good)), refused, app, app_spec)


def endpoints(found: Iterable[Found]) -> Iterator[Endpoint]:
    """The api triggers of Steps."""
    for step in found:
        for api in step.step().spec.apis:
            yield Endpoint(api.method.value, triggers.normal_path(api.path), step.name, step.file)


def _alone(found: Found) -> Iterator[Problem]:
    """What is wrong with a Step, whatever others there are."""
    spec = found.step().spec
    for sentence in steps.not_supported(spec):
        yield Problem(file=found.file, message=sentence, step_file=found.file)
    for where, schema in _schemas(spec):
        if (reason := _schema_error(schema)) is not None:
            message = f"{where}: expected a JSON Schema (draft 2020-12), found one that is invalid: {reason}"
            yield Problem(file=found.file, message=message, step_file=found.file)


def _mounts(found: Iterable[Found], app: AppSpec) -> Iterator[Problem]:
    """Mounts of volumes that neither a Step nor the App has."""
    for step in found:
        spec = apps.complete(step.step(), app).spec
        for sentence in pods.missing_volumes(spec.pod) if spec.triggers else ():
            yield Problem(file=step.file, message=sentence, step_file=step.file)


def _schemas(spec: StepSpec) -> Iterator[tuple[str, JsonSchema]]:
    for number, trigger in enumerate(spec.triggers):
        where = f"triggers[{number}].{trigger.kind}"
        condition = getattr(trigger.member, "condition", None)
        if condition is not None:
            yield f"{where}.condition", condition
        if trigger.event and trigger.event.input is not None:
            yield f"{where}.input", trigger.event.input
        if trigger.api:
            for name, schema in (("body", trigger.api.body), ("query", trigger.api.query)):
                if schema is not None:
                    yield f"{where}.{name}", schema
            for status, schema in (trigger.api.responses or {}).items():
                yield f"{where}.responses.{status}", schema
    for number, emit in enumerate(spec.emits):
        if emit.schema_ is not None:
            yield f"emits[{number}].schema", emit.schema_


def _schema_error(schema: JsonSchema) -> str | None:
    try:
        schemas.compiled(schema)
    except errors.StepInvalid as error:
        return str(error)
    return None


def _routes(found: Iterable[Found]) -> Iterator[Problem]:
    """Endpoints that two Steps, or one Step twice, would answer."""
    answering: dict[tuple[str, str], list[Endpoint]] = defaultdict(list)
    for endpoint in endpoints(found):
        answering[endpoint.method, re.sub(r"\{[^}]*\}", "{}", endpoint.path)].append(endpoint)
    for same in answering.values():
        if len(same) < 2:
            continue
        who = " and ".join(f"{endpoint.step!r} ({endpoint.file})" for endpoint in same)
        for endpoint in same:
            message = f"{endpoint.method} {endpoint.path}: expected one Step to answer it, found {who}"
            yield Problem(file=endpoint.file, message=message, step_file=endpoint.file)


def _adoptions(found: Sequence[Found]) -> Iterator[Problem]:
    """Steps that take over the place of one that is there, or that another takes over, too."""
    files = {step.name: step.file for step in found}
    adopting: dict[str, list[Found]] = defaultdict(list)
    for step in found:
        former = step.step().spec.adopt_from
        if former is not None:
            adopting[former].append(step)
        if former in files:
            message = f"adoptFrom: expected that the Step {former!r} is gone, found it in {files[former]}"
            yield Problem(file=step.file, message=message, step_file=step.file)
    for former, same in adopting.items():
        who = _and([f"{step.name!r} ({step.file})" for step in same])
        for step in same if len(same) > 1 else ():
            message = f"adoptFrom: expected one Step to take over the place of {former!r}, found {who}"
            yield Problem(file=step.file, message=message, step_file=step.file)


def _topics(found: Iterable[Found]) -> Iterator[str]:
    emitting: dict[str, list[str]] = defaultdict(list)
    hearing: dict[str, list[str]] = defaultdict(list)
    for step in found:
        spec = step.step().spec
        for topic in dict.fromkeys([*(emit.topic for emit in spec.emits), *spec.virtual_emits]):
            emitting[topic].append(step.name)
        heard = (topic for event in spec.events for topic in event.topics)
        for topic in dict.fromkeys([*heard, *spec.virtual_subscribes]):
            hearing[topic].append(step.name)
    for topic in sorted(hearing.keys() - emitting.keys()):
        yield f"topic {topic!r} is heard by {_and(hearing[topic])}, and no Step emits it"
    for topic in sorted(emitting.keys() - hearing.keys()):
        yield f"topic {topic!r} is emitted by {_and(emitting[topic])}, and no Step hears it"


def _and(words: Sequence[str]) -> str:
    return " and ".join(words)


def _hint(problem: Problem, available: Set[str]) -> Problem:
    """A problem with an import that is missing here, with what to do when the runtime image lacks it as well."""
    missing = _MISSING.match(problem.message)
    if missing is None or missing[1] in available or problem.message.endswith(NEEDS_IMAGE):
        return problem
    advice = f"; install it here; the runtime image does not have it either: {NEEDS_IMAGE}"
    return problem.model_copy(update={"message": problem.message + advice})


def carried(found: Iterable[Found], available: Set[str]) -> Iterator[Problem]:
    """What keeps Steps from carrying their code inside: an import that the runtime image lacks (`available` are the
    modules that it has), a module that reading cannot find, size."""
    for step in found:
        if step.entrypoint is None:
            continue
        for missing in step.imports:
            if missing.module not in available:
                message = f"imports {missing.module!r}, which the runtime image does not have; {NEEDS_IMAGE}"
                yield Problem(file=missing.file, line=missing.line, message=message, step_file=step.file)
        for path in step.computed:
            message = f"imports {path} by a computed name, so that inline code would lack it; {NEEDS_IMAGE}"
            yield Problem(file=step.file, message=message, step_file=step.file)
        size = sum(len(text.encode()) for text in step.files.values())
        if size > MAX_INLINE_BYTES:
            message = (
                f"expected at most {MAX_INLINE_BYTES:,} bytes of inline code, found {size:,} "
                f"in {', '.join(step.files)}; {NEEDS_IMAGE}"
            )
            yield Problem(file=step.file, message=message, step_file=step.file)
        elif len(step.files) > 64:
            message = f"expected at most 64 files of inline code, found {len(step.files)}; {NEEDS_IMAGE}"
            yield Problem(file=step.file, message=message, step_file=step.file)
