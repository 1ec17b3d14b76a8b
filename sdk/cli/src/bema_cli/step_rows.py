"""A Step of a cluster as a row of a table: what its object says, for people and for programs. Pure."""

from __future__ import annotations

import datetime
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Any

from pydantic import ValidationError
from rich.text import Text

from bema.contract.statuses import ConditionStatus, ConditionType, Reason
from bema.contract.steps import StepSpec

HEADS = ("NAME", "TYPE", "TRIGGER", "READY", "REPLICAS", "BACKLOG", "AGE")
HEADS_ALL = ("NAMESPACE", *HEADS)


class Mark(StrEnum):
    """How a Step is, in one glance."""

    READY = "ready"
    CHANGING = "changing"
    """New pods are being started, or the operator has not looked at what was changed."""
    UNREADY = "unready"
    UNKNOWN = "unknown"
    """The operator could not tell, or has never looked."""


_SIGNS = {
    Mark.READY: ("✓", "green"),
    Mark.CHANGING: ("…", "yellow"),
    Mark.UNREADY: ("✗", "bold red"),
    Mark.UNKNOWN: ("?", "yellow"),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """What a table shows of a Step."""

    namespace: str
    name: str
    type: str
    trigger: str
    mark: Mark
    reason: str
    """Why, in one word; empty when the operator has never looked."""
    message: str
    """Why, for people."""
    replicas_ready: int | None
    replicas_wanted: int | None
    """None for a Step of which no pod runs all the time."""
    backlog: int | None
    url: str | None
    created: str
    """RFC 3339."""


def row(step: Mapping[str, Any]) -> Row:
    """A Step as the API server has it."""
    metadata, found = step["metadata"], step.get("status") or {}
    condition: Mapping[str, Any] = next(
        (item for item in found.get("conditions") or () if item.get("type") == ConditionType.READY), {}
    )
    mark, message = _judged(condition, metadata.get("generation"))
    wanted = _wanted(step, found)
    return Row(
        namespace=metadata.get("namespace", ""),
        name=metadata["name"],
        type=found.get("type") or "-",
        trigger=found.get("trigger") or "-",
        mark=mark,
        reason=condition.get("reason", ""),
        message=message,
        replicas_ready=None if wanted is None else found.get("readyReplicas") or 0,
        replicas_wanted=wanted,
        backlog=found.get("backlog"),
        url=found.get("url"),
        created=metadata.get("creationTimestamp", ""),
    )


def _judged(condition: Mapping[str, Any], generation: Any) -> tuple[Mark, str]:
    if not condition:
        return Mark.UNKNOWN, "the operator has not looked at it yet; `bema doctor` says whether there is one"
    message = condition.get("message", "")
    if condition.get("observedGeneration") not in (None, generation):
        return Mark.CHANGING, f"the operator has not looked at the last change yet; before it: {message}"
    if condition.get("status") == ConditionStatus.TRUE:
        return Mark.READY, message
    if condition.get("status") != ConditionStatus.FALSE:
        return Mark.UNKNOWN, message
    return Mark.CHANGING if condition.get("reason") == Reason.ROLLING_OUT else Mark.UNREADY, message


def _wanted(step: Mapping[str, Any], found: Mapping[str, Any]) -> int | None:
    """By the contract; what a newer or a wrong spec wants is not ours to say, so what there is stands for it."""
    try:
        return StepSpec.model_validate(step.get("spec") or {}).pods
    except ValidationError:
        replicas = found.get("replicas")
        return None if replicas is None else int(replicas)


def sort_key(row: Row) -> tuple[str, str]:
    return row.namespace, row.name


def cells(row: Row, now: datetime.datetime, *, all_namespaces: bool) -> list[Text]:
    """The row of a table, in colour."""
    sign, style = _SIGNS[row.mark]
    replicas = "-" if row.replicas_wanted is None else f"{row.replicas_ready}/{row.replicas_wanted}"
    found = [
        Text(row.name, "cyan"),
        Text(row.type),
        Text(row.trigger),
        Text(f"{sign} {row.reason or 'not looked at'}", style),
        Text(replicas, "" if row.replicas_ready == row.replicas_wanted else "yellow"),
        Text("-" if row.backlog is None else f"{row.backlog:,}", "yellow" if row.backlog else ""),
        Text(age(row.created, now), "dim"),
    ]
    return [Text(row.namespace), *found] if all_namespaces else found


def notes(rows: Iterable[Row], *, all_namespaces: bool) -> list[Text]:
    """What there is to say of each Step that is not ready."""
    return [note(row, all_namespaces=all_namespaces) for row in rows if row.mark is not Mark.READY]


def note(row: Row, *, all_namespaces: bool) -> Text:
    sign, style = _SIGNS[row.mark]
    where = f"{row.namespace}/{row.name}" if all_namespaces else row.name
    reason = f" {row.reason}:" if row.reason else ""
    return Text.assemble((sign, style), f" {where}:{reason} {row.message}")


def plain(row: Row) -> dict[str, Any]:
    """For programs."""
    fields = asdict(row)
    ready, wanted = fields.pop("replicas_ready"), fields.pop("replicas_wanted")
    replicas = None if wanted is None else {"ready": ready, "wanted": wanted}
    return {**fields, "mark": row.mark.value, "ready": row.mark is Mark.READY, "replicas": replicas}


_UNITS = ((86_400 * 365, "y"), (86_400, "d"), (3600, "h"), (60, "m"), (1, "s"))


def age(created: str, now: datetime.datetime) -> str:
    """How long ago, in its largest unit: 3d. From three of a unit on; before, in the next smaller one: 90m."""
    try:
        seconds = max(0.0, (now - datetime.datetime.fromisoformat(created)).total_seconds())
    except (ValueError, TypeError):
        return "-"
    for size, unit in _UNITS:
        if seconds >= (3 * size if size > 1 else 0):
            return f"{seconds // size:.0f}{unit}"
    raise AssertionError("unreachable: the last unit takes everything")
