"""A CRD that is older than the operator: which fields of a status it does not know, and a status without them. Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from bema.contract.statuses import ConditionType
from bema_operator import statuses

_UNDECLARED = re.compile(r"\.status\.(\w+): field not declared in schema")
_SINCE_EVER = frozenset({"conditions", "observedGeneration"})
"""Without these, nothing could be said at all."""


def undeclared(refusal: str) -> frozenset[str]:
    """Fields of the status that the API server says its CRD does not know."""
    return frozenset(_UNDECLARED.findall(refusal)) - _SINCE_EVER


def advice(fields: frozenset[str]) -> str:
    """What a person is to do about it."""
    named = ", ".join(f"status.{field}" for field in sorted(fields))
    return f"The CRD is older than the operator and does not know {named}: kubectl apply --server-side -f crds/"


def without(status: Mapping[str, Any], fields: frozenset[str]) -> dict[str, Any]:
    """A status that such a CRD takes; its condition Ready says what is missing."""
    kept = {name: value for name, value in status.items() if name not in fields}
    return {**kept, "conditions": [_with_advice(item, fields) for item in status["conditions"]]}


def _with_advice(condition: Mapping[str, Any], fields: frozenset[str]) -> Mapping[str, Any]:
    if not fields or condition["type"] != ConditionType.READY:
        return condition
    message = f"{condition.get('message', '')} {advice(fields)}".strip()
    return {**condition, "message": statuses.shortened(message, statuses.MESSAGE_LIMIT)}
