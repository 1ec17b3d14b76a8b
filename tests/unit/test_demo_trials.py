"""When a trial passes; what the report by hand has to say; which images a demo's cluster runs."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tools import installs
from tools.demo import audits, cluster_demos, trials
from tools.demo.histories import Entry, History
from tools.images.builders import Built

GOOD = audits.audit(History([], [], [], {}))
BAD = replace(GOOD, lost=1)


@pytest.mark.parametrize(
    ("verdict", "deliveries", "resent", "passed"),
    [
        pytest.param(GOOD, 3, 0, True, id="an event was in a dead process's hand"),
        pytest.param(GOOD, 0, 1, True, id="a request lost its answer"),
        pytest.param(GOOD, 0, 0, False, id="nothing was interrupted, so nothing was shown"),
        pytest.param(BAD, 3, 1, False, id="the audit failed"),
    ],
)
def test_a_trial_passes_when_the_audit_does_and_something_was_interrupted(
    verdict: audits.Verdict, deliveries: int, resent: int, passed: bool
) -> None:
    outcome = trials.Outcome(verdict, (), 1.0, repeated_deliveries=deliveries, resent=resent, repeated_charges=0)
    assert outcome.passed is passed


def _state(group: str, key: str, value: Any) -> Entry:
    return Entry(1, ("state", group, key), {}, json.dumps(value).encode())


ORDERS = [
    _state("orders", "o-1", {"status": "paid", "total_cents": 1500}),
    _state("orders", "o-2", {"status": "rejected", "total_cents": 9900}),
]
REPORT = {"orders": 2, "by_status": {"paid": 1, "rejected": 1}, "revenue_cents": 1500, "stock": {}}


@pytest.mark.parametrize(
    ("reports", "problem"),
    [
        pytest.param([REPORT], None, id="the report says what the broker holds"),
        pytest.param([], "expected an entry in the state group reports, found none", id="no report"),
        pytest.param([{**REPORT, "revenue_cents": 11400}], "'revenue_cents': 11400", id="another revenue"),
        pytest.param([{**REPORT, "orders": 1}], "'orders': 1", id="an order is missing"),
    ],
)
def test_the_report_is_held_against_the_broker(reports: list[dict[str, Any]], problem: str | None) -> None:
    entries = [*ORDERS, *(_state("reports", "2026-01-01", report) for report in reports)]
    found = cluster_demos.report_problems(entries, replace(GOOD, accepted=2))
    assert len(found) == (problem is not None)
    assert problem is None or problem in found[0]


def test_the_manifests_run_the_images_that_were_built_and_notice_a_new_one() -> None:
    built = {name: Built(f"localhost/bema-{name}:dev", Path(f"{name}-1.tar")) for name in installs.IMAGES}
    items = installs.manifests(built)
    assert items[0]["kind"] == "Namespace"
    text = json.dumps(items)
    assert ":0.1.0" not in text
    for image in built.values():
        assert image.reference in text
    rebuilt = {**built, "operator": replace(built["operator"], archive=Path("operator-2.tar"))}
    assert installs.manifests(rebuilt) != items
