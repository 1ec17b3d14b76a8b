"""The CronJob of a Step with a cron trigger. Its Job runs the runtime once.

Attempts loop inside the process, by the Step's retry policy; a Job's `backoffLimit` covers crashes only.
"""

from __future__ import annotations

from bema.contract import names, schedules
from bema.contract.triggers import Overlap
from bema_operator import kinds
from bema_operator.manifests import parts, pods
from bema_operator.manifests.parts import Manifest, Order, present

HISTORY = 3
CRASHES = 3

_CONCURRENCY = {Overlap.SKIP: "Forbid", Overlap.ALLOW: "Allow", Overlap.REPLACE: "Replace"}


def cron_job(order: Order) -> Manifest:
    binding = order.binding
    [cron] = order.step.spec.crons
    return {
        **parts.head(kinds.CRON_JOB, names.workload(binding.step), binding),
        "spec": present(
            schedule=schedules.five_fields(cron.schedule),
            timeZone=cron.time_zone,
            concurrencyPolicy=_CONCURRENCY[cron.overlap],
            startingDeadlineSeconds=cron.starting_deadline_seconds,
            suspend=order.step.spec.suspend,
            successfulJobsHistoryLimit=HISTORY,
            failedJobsHistoryLimit=HISTORY,
            jobTemplate=_job(order),
        ),
    }


def _job(order: Order) -> Manifest:
    return {
        "metadata": {"labels": parts.labels(order.binding)},
        "spec": {"backoffLimit": CRASHES, "template": pods.job_pod(order)},
    }
