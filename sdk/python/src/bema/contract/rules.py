"""What the API server checks beyond types, in CEL: the same rules as the models' validators, by the model's name.

A rule that the API server cannot express (does a range in a cron field go up, does the time zone exist) is the
operator's to report. Every string and list that a rule looks at has a bound in its model, or the API server's estimate
of the rule's cost refuses the whole CRD.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from bema.contract import apps, durations, names, pods, quantities, schedules, steps, triggers
from bema.contract.pods import Volume
from bema.contract.triggers import Kind


@dataclass(frozen=True, slots=True)
class Rule:
    """One entry of `x-kubernetes-validations`."""

    rule: str
    message: str
    field: str | None = None
    """The field to blame, such as `.schedule`; None for the object itself."""
    reason: str | None = None
    """One of the API's `FieldValue…` reasons; Invalid by default. (Duplicate would hide the message.)"""
    show: bool = False
    """Whether the message ends with the field's value. A number would make the rule too dear: its text has no bound."""

    def dump(self) -> dict[str, Any]:
        entry = {
            "rule": self.rule,
            "message": self.message,
            "messageExpression": self._with_value() if self.show else None,
            "fieldPath": self.field,
            "reason": self.reason,
        }
        return {key: value for key, value in entry.items() if value is not None}

    def _with_value(self) -> str:
        return f'{_text(self.message + ", found ")} + "\'" + self{self.field} + "\'"'


def _text(text: str) -> str:
    escaped = text.replace("\\", "\\\\").replace("'", "\\'")
    return f"'{escaped}'"


def _matches(what: str, pattern: str) -> str:
    return f"{what}.matches({_text(pattern)})"


def _exactly_one(what: str, members: Iterable[str]) -> Rule:
    members = tuple(members)
    held = ", ".join(f"has(self.{member})" for member in members)
    return Rule(f"[{held}].exists_one(held, held)", f"{what} has exactly one of {', '.join(members)}")


_IS_PLAIN_PATH = "!" + _matches("path", steps.OUTSIDE_PATTERN)
_PATH_MESSAGE = "expected a path below the app's folder"

_HAS_TRIGGERS = "has(self.triggers) && size(self.triggers) > 0"
_HEARS = "has({0}.triggers) && {0}.triggers.exists(trigger, has(trigger.event) || has(trigger.state))"

_BYTES = "expected a number of bytes such as 65536, 512Ki or 1Mi"


def _is_bytes(what: str) -> str:
    return f"!has({what}) || type({what}) == int || " + _matches(what, quantities.PATTERN)


def _least(field: str, least: int, message: str) -> Rule:
    """At least so many bytes. What is no number of bytes has a rule of its own."""
    what = f"self.{field}"
    # Compared in the quantity's own unit: a product could be too large for CEL's integers.
    units = ", ".join(f"'{unit}': {-(-least // size)}" for unit, size in quantities.UNITS.items())
    text = f"int({what}.find('^[0-9]+')) >= {{{units}}}[{what}.find('[A-Za-z]*$')]"
    is_bytes = _matches(what, quantities.PATTERN)
    return Rule(
        f"!has({what}) || (type({what}) == int ? {what} >= {least} : !{is_bytes} || {text})",
        f"{message}, found less: is its unit missing?",
        field=f".{field}",
    )


def _time(field: str) -> Rule:
    units = ", ".join(f"'{unit}': {seconds}" for unit, seconds in durations.UNITS.items())
    number, unit = (
        f"self.{field}.substring({part})" for part in (f"0, size(self.{field}) - 1", f"size(self.{field}) - 1")
    )
    return Rule(
        f"!has(self.{field}) || {_matches(f'self.{field}', durations.PATTERN)} && "
        f"int({number}) * {{{units}}}[{unit}] <= {durations.LONGEST}",
        durations.MESSAGE,
        field=f".{field}",
        show=True,
    )


STEP: tuple[Rule, ...] = (
    Rule(
        f"size(self.metadata.name) <= {names.MAX_STEP_NAME}",
        f"expected a name of at most {names.MAX_STEP_NAME} characters, because Jobs and pods are named after it",
        field=".metadata.name",
    ),
    Rule(
        _matches("self.metadata.name", names.DNS_LABEL),
        "expected a DNS label such as charge-payment: lower-case letters, digits and hyphens",
        field=".metadata.name",
    ),
    Rule(
        _matches("self.metadata.name", "^[a-z]") + " || !has(self.spec.triggers) || "
        "!self.spec.triggers.exists(trigger, has(trigger.api))",
        steps.API_NAME_MESSAGE,
        field=".metadata.name",
    ),
    Rule(
        "!has(self.spec.adoptFrom) || self.spec.adoptFrom != self.metadata.name && "
        + _matches("self.spec.adoptFrom", names.DNS_LABEL),
        steps.ADOPTED_NAME,
        field=".spec.adoptFrom",
    ),
)
"""Rules about a Step as a whole."""

APP: tuple[Rule, ...] = (
    Rule(
        f"self.metadata.name == '{apps.NAME}'",
        f"expected the name {apps.NAME}, because a namespace has one App",
        field=".metadata.name",
    ),
)
"""Rules about an App as a whole."""

RULES: Mapping[str, tuple[Rule, ...]] = {
    "Trigger": (_exactly_one("a trigger", Kind),),
    "ApiTrigger": (
        Rule(
            _matches("self.path", triggers.PATH_PATTERN),
            "expected a path such as /orders/{id}",
            field=".path",
            show=True,
        ),
        Rule(_is_bytes("self.maxBodyBytes"), _BYTES, field=".maxBodyBytes"),
    ),
    "CronTrigger": (
        Rule(
            _matches("self.schedule", schedules.pattern()),
            "expected 5 fields (minute hour day-of-month month day-of-week) such as 0 2 * * *, "
            f"or one of {', '.join(schedules.NAMES)}",
            field=".schedule",
            show=True,
        ),
        Rule(
            f"!has(self.timeZone) || {_matches('self.timeZone', schedules.TIME_ZONE_PATTERN)} "
            "&& self.timeZone.lowerAscii() != 'local'",
            "expected an IANA time zone such as Europe/Paris",
            field=".timeZone",
            show=True,
        ),
    ),
    "RetryFields": (
        Rule(
            "!has(self.initialSeconds) || !has(self.maxSeconds) || self.initialSeconds <= self.maxSeconds",
            "expected initialSeconds ≤ maxSeconds",
            field=".initialSeconds",
        ),
    ),
    "Scaling": (
        Rule(
            "self.minReplicas <= self.maxReplicas",
            "expected minReplicas ≤ maxReplicas",
            field=".minReplicas",
        ),
    ),
    "Code": (
        _exactly_one("code", ("inline", "image")),
        Rule(
            "!has(self.inline) || self.entrypoint in self.inline",
            "expected the entrypoint among the files of inline",
            field=".entrypoint",
        ),
        Rule(f"[self.entrypoint].all(path, {_IS_PLAIN_PATH})", _PATH_MESSAGE, field=".entrypoint"),
        Rule(f"!has(self.inline) || self.inline.all(path, {_IS_PLAIN_PATH})", _PATH_MESSAGE, field=".inline"),
        Rule(
            "!has(self.inline) || self.inline.map(path, size(bytes(self.inline[path]))).sum() "
            f"<= {steps.MAX_INLINE_BYTES}",
            f"inline code: expected at most {steps.MAX_INLINE_BYTES} bytes together",
            field=".inline",
        ),
    ),
    "Volume": (_exactly_one("a volume", (str(f.alias) for n, f in Volume.model_fields.items() if n != "name")),),
    "EnvFrom": (_exactly_one("an entry of envFrom", ("configMapRef", "secretRef")),),
    "Container": (
        Rule(
            f"self.name != '{pods.CONTAINER}'",
            pods.CONTAINER_MESSAGE,
            field=".name",
            reason="FieldValueForbidden",
        ),
    ),
    "EnvVar": (
        Rule(
            "!self.name.startsWith('BEMA_')",
            "names that begin with BEMA_ belong to Bema",
            field=".name",
            reason="FieldValueForbidden",
        ),
        Rule(
            "!(has(self.value) && has(self.valueFrom))",
            "an environment variable has at most one of value, valueFrom",
        ),
    ),
    "RestartOn": (
        Rule(
            f"self.configMaps.all(name, {_matches('name', pods.CONFIG_MAP_PATTERN)})",
            pods.CONFIG_MAP_MESSAGE,
            field=".configMaps",
        ),
    ),
    "PodFields": (
        Rule(
            "!has(self.labels) || self.labels.all(key, !key.contains('bema.dev/') "
            "&& !key.startsWith('app.kubernetes.io/'))",
            "labels below bema.dev/ and app.kubernetes.io/ belong to Bema",
            field=".labels",
            reason="FieldValueForbidden",
        ),
    ),
    "AppSpec": (
        _time("eventRetention"),
        _time("deadLetterRetention"),
        Rule(_is_bytes("self.storage"), _BYTES, field=".storage"),
        _least("storage", quantities.LEAST_STORAGE, quantities.STORAGE_MESSAGE),
    ),
    "StepSpec": (
        Rule(
            f"!({_HAS_TRIGGERS}) || has(self.code)",
            "a Step with triggers has code; found triggers without code",
            field=".code",
            reason="FieldValueRequired",
        ),
        Rule(
            f"!has(self.code) || ({_HAS_TRIGGERS})",
            "a Step with code has triggers; found code without triggers",
            field=".triggers",
            reason="FieldValueRequired",
        ),
        Rule(
            f"!({_HAS_TRIGGERS}) || !(has(self.virtualEmits) && size(self.virtualEmits) > 0 "
            "|| has(self.virtualSubscribes) && size(self.virtualSubscribes) > 0)",
            "virtualEmits and virtualSubscribes belong to a noop; found triggers too",
            field=".triggers",
        ),
        Rule(
            "!has(self.triggers) || self.triggers.all(one, !has(one.event) || self.triggers.exists_one(other, "
            "has(other.event) && other.event.topics.exists(topic, topic in one.event.topics)))",
            "expected each topic in one trigger, found one in several",
            field=".triggers",
        ),
        Rule(
            "!has(self.triggers) || self.triggers.all(one, !has(one.state) || self.triggers.exists_one(other, "
            "has(other.state) && other.state.group == one.state.group))",
            f"{steps.ONE_GROUP}, found one in several",
            field=".triggers",
        ),
        Rule(
            "!has(self.maxInFlight) || !has(self.triggers) || self.triggers.all(trigger, !has(trigger.event) || "
            "!has(trigger.event.batch) || "
            "(has(trigger.event.batch.size) ? trigger.event.batch.size : 100) <= self.maxInFlight)",
            steps.IN_FLIGHT,
            field=".maxInFlight",
        ),
        Rule(
            "!has(self.triggers) || size(self.triggers) < 2 || "
            "!self.triggers.exists(trigger, has(trigger.event) && has(trigger.event.batch))",
            steps.ONLY_TRIGGER,
            field=".triggers",
        ),
        Rule(
            "!has(self.restartOn) || has(self.triggers) && self.triggers.exists(trigger, !has(trigger.cron))",
            steps.RESTART_ON,
            field=".restartOn",
        ),
        Rule(
            f"!has(self.adoptFrom) || {_HEARS.format('self')}",
            steps.ADOPTS,
            field=".adoptFrom",
        ),
        Rule(
            "(has(self.adoptFrom) == has(oldSelf.adoptFrom) && "
            "(!has(self.adoptFrom) || self.adoptFrom == oldSelf.adoptFrom)) || "
            f"!({_HEARS.format('oldSelf')} && {_HEARS.format('self')})",
            "adoptFrom says where a new Step begins and cannot change afterwards; give the Step another name",
            field=".adoptFrom",
            reason="FieldValueForbidden",
        ),
        Rule(
            _matches("self.deliverFrom", steps.DELIVER_FROM_PATTERN),
            "expected Creation, Beginning, Now or a time such as 2026-01-31T12:00:00Z",
            field=".deliverFrom",
            show=True,
        ),
        Rule(
            f"{_matches('self.deliverFrom', '^[A-Z]')} || timestamp(self.deliverFrom).getFullYear() >= 0",
            "expected a day that the calendar has",
            field=".deliverFrom",
        ),
        Rule(
            f"self.deliverFrom == oldSelf.deliverFrom || !({_HEARS.format('oldSelf')} && {_HEARS.format('self')})",
            "deliverFrom says where a new Step begins and cannot change afterwards; give the Step another name",
            field=".deliverFrom",
            reason="FieldValueForbidden",
        ),
    ),
}
"""Rules about each object of that model, wherever it occurs."""
