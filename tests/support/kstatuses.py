"""What kstatus says of an object of a kind that it does not know, by its documented rules. Flux, Helm 4 and
`kubectl` plugins wait by it."""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from typing import Any


class Result(StrEnum):
    """Where an object stands."""

    IN_PROGRESS = "InProgress"
    FAILED = "Failed"
    CURRENT = "Current"
    TERMINATING = "Terminating"


def compute(item: Mapping[str, Any]) -> Result:
    """The rules in their order: deletion, generation, Reconciling and Stalled, Ready; without any of them, Current."""
    if "deletionTimestamp" in item["metadata"]:
        return Result.TERMINATING
    status = item.get("status", {})
    generation = item["metadata"]["generation"]
    if status.get("observedGeneration", generation) != generation:
        return Result.IN_PROGRESS
    conditions = {found["type"]: found["status"] for found in status.get("conditions", ())}
    if conditions.get("Reconciling") == "True":
        return Result.IN_PROGRESS
    if conditions.get("Stalled") == "True":
        return Result.FAILED
    return Result.CURRENT if conditions.get("Ready", "True") == "True" else Result.IN_PROGRESS
