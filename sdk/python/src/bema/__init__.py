"""Bema: a backend as Steps on Kubernetes. This is what step files import."""

from bema.authoring import (
    Context,
    HttpError,
    NonRetryable,
    Request,
    Response,
    RetryAfter,
    State,
    StateItem,
    StepConfig,
    SyncContext,
    SyncState,
    TriggerInfo,
    api,
    cron,
    event,
    operations,
)

__all__ = [
    "Context",
    "HttpError",
    "NonRetryable",
    "Request",
    "Response",
    "RetryAfter",
    "State",
    "StateItem",
    "StepConfig",
    "SyncContext",
    "SyncState",
    "TriggerInfo",
    "api",
    "cron",
    "event",
    "operations",
]
