"""The table of decisions: every row applies to something, and in this order."""

import dataclasses
from typing import Any

import pytest

from bema.contract import steps
from bema.contract.statuses import Reason
from bema_operator import decisions, ownership
from bema_operator.decisions import Apply, Leave, LookAtPods, Prune, Report, Subscribe
from bema_operator.facts import Facts, Key, Problem, Subject, Subscription

SUBJECT = Subject(key=Key("shop", "a"), uid="u", generation=1, created="", deleting=False, status={})
RUNNING = steps.parse_spec(
    {"triggers": [{"event": {"topics": ["t"]}}], "code": {"entrypoint": "a.py", "image": "i"}}, where="test"
)
NOOP = steps.parse_spec({}, where="test")


def manifest(kind: str, name: str, replicas: int = 1) -> dict[str, Any]:
    return {"apiVersion": "v1", "kind": kind, "metadata": {"name": name}, "spec": {"replicas": replicas}}


DEPLOYMENT = ownership.stamp(manifest("Deployment", "a"))
OURS: dict[str, Any] = {"f:metadata": {"f:annotations": {}}, "f:spec": {}}


def live(stamped: dict[str, Any], available: int = 1, **metadata: Any) -> dict[str, Any]:
    entry = {"manager": "bema-operator", "operation": "Apply", "fieldsV1": OURS}
    status = {"replicas": 1, "updatedReplicas": 1, "availableReplicas": available, "observedGeneration": 1}
    return {
        **stamped,
        "metadata": {**stamped["metadata"], "generation": 1, "managedFields": [entry], **metadata},
        "status": status,
    }


CHILD = live(DEPLOYMENT)
OLDER = live(ownership.stamp({**manifest("Deployment", "a"), "spec": {"replicas": 1}}))
EXTRA = live(ownership.stamp(manifest("Service", "a")))
SETTLED = Facts(subject=SUBJECT, spec=RUNNING, wanted=[DEPLOYMENT], children=[CHILD], subscription=Subscription())
AWAY = Subscription(Problem(Reason.BROKER_UNAVAILABLE, ""))
FOREIGN = Subscription(Problem(Reason.APP_STREAM_OWNED, ""))
HELD_BACK = Subscription(Problem(Reason.BACKLOG_ON_REMOVED_TOPIC, ""))
REFUSED = Problem(Reason.APPLY_REFUSED, "no")
DELETING = Subject(key=Key("shop", "a"), uid="u", generation=1, created="", deleting=True, status={})
SEEN = dataclasses.replace(SUBJECT, status={"observedGeneration": 1})
NEWER = ownership.stamp(manifest("Deployment", "a", replicas=2))
UPGRADED = SETTLED.with_(subject=SEEN, wanted=[NEWER], subscription=AWAY)
"""As by another version of the operator, while NATS is away."""
UNREADY = SETTLED.with_(children=[live(DEPLOYMENT, available=0)])

CASES: list[tuple[str, Facts, decisions.Action]] = [
    ("it is being deleted", SETTLED.with_(subject=DELETING, spec=None), Leave()),
    ("its spec cannot be read", SETTLED.with_(spec=None, invalid="x"), Report()),
    ("it asks for what this version does not do", SETTLED.with_(unsupported=["x"], wanted=[]), Report()),
    ("its App is not acted on", SETTLED.with_(held="x", wanted=[]), Report()),
    ("it is a noop that had a workload", SETTLED.with_(spec=NOOP, wanted=[]), Prune()),
    ("it is a noop", SETTLED.with_(spec=NOOP, wanted=[], children=[]), Report()),
    ("its subscription is unknown", SETTLED.with_(subscription=None), Subscribe()),
    ("its stream belongs to somebody else", SETTLED.with_(subscription=FOREIGN, children=[]), Report()),
    (
        "another version or another Step has to do what waits",
        SETTLED.with_(subscription=HELD_BACK, children=[]),
        Report(),
    ),
    ("there is neither a broker nor a workload", SETTLED.with_(subscription=AWAY, children=[]), Report()),
    ("the API server refuses an object", SETTLED.with_(refused=REFUSED, children=[]), Report()),
    ("a name is taken", SETTLED.with_(taken=["Service shop/a"], children=[]), Report()),
    ("others are rolled out first", SETTLED.with_(ahead=[Key("shop", "b")], children=[OLDER]), Report()),
    ("children differ", SETTLED.with_(children=[]), Apply()),
    ("what nobody asked for waits for the broker", UPGRADED.with_(children=[CHILD, EXTRA]), Report()),
    ("there are children too many", SETTLED.with_(children=[CHILD, EXTRA]), Prune()),
    ("it is not ready and nobody knows why", UNREADY.with_(patience_over=True), LookAtPods()),
    ("everything is in place", SETTLED, Report()),
]


@pytest.mark.parametrize(("name", "facts", "action"), CASES, ids=[name for name, _, _ in CASES])
def test_the_row_that_applies_first(name: str, facts: Facts, action: decisions.Action) -> None:
    row = next(row for row in decisions.TABLE if row.applies(facts))
    assert (row.name, row.action) == (name, action)
    assert decisions.decide(facts) == action


def test_every_row_is_tried_here() -> None:
    assert [name for name, _, _ in CASES] == [row.name for row in decisions.TABLE]


@pytest.mark.parametrize(("name", "facts", "action"), CASES[:-1], ids=[name for name, _, _ in CASES[:-1]])
def test_a_row_is_not_for_a_settled_step(name: str, facts: Facts, action: decisions.Action) -> None:
    row = next(row for row in decisions.TABLE if row.name == name)
    assert not row.applies(SETTLED)


@pytest.mark.parametrize("reason", [Reason.BACKLOG_ON_REMOVED_TOPIC, Reason.ADOPTION_WAITS, Reason.TAKEN_OVER])
def test_a_workload_stays_what_it_is_while_others_have_to_do_what_waits(reason: Reason) -> None:
    held_back = Subscription(Problem(reason, ""))
    assert decisions.decide(SETTLED.with_(subscription=held_back, children=[OLDER, EXTRA])) == Report()


def test_a_workload_goes_on_without_a_broker() -> None:
    assert decisions.decide(SETTLED.with_(subscription=AWAY)) == Report()
    assert decisions.decide(SETTLED.with_(subscription=AWAY, wanted=[NEWER])) == Apply(), "somebody changed the Step"


@pytest.mark.parametrize(
    "reason",
    [Reason.BROKER_UNAVAILABLE, Reason.BROKER_TOO_OLD, Reason.TOO_FEW_SERVERS, Reason.BROKER_REFUSED],
)
def test_without_a_broker_nothing_is_rolled_out_that_nobody_asked_for(reason: Reason) -> None:
    facts = UPGRADED.with_(subscription=Subscription(Problem(reason, "")))
    assert (facts.due, decisions.decide(facts)) == ([], Report())
    unready = facts.with_(children=[live(DEPLOYMENT, available=0)], patience_over=True)
    assert (unready.due, decisions.decide(unready)) == ([], Report()), "its pods wait for NATS, too"
    assert decisions.decide(facts.with_(subscription=Subscription())) == Apply()


def test_without_a_broker_what_somebody_edits_or_deletes_is_repaired_all_the_same() -> None:
    edited = {**CHILD, "metadata": {**CHILD["metadata"], "managedFields": []}}
    repaired = UPGRADED.with_(wanted=[DEPLOYMENT], children=[edited])
    assert (repaired.due, decisions.decide(repaired)) == ([DEPLOYMENT], Apply())
    service = ownership.stamp(manifest("Service", "a"))
    deleted = UPGRADED.with_(wanted=[NEWER, service])
    assert (deleted.due, decisions.decide(deleted)) == ([service], Apply()), "the Deployment waits all the same"


def test_an_unready_workload_is_given_time_and_looked_at_once() -> None:
    assert decisions.decide(UNREADY) == Report()
    assert decisions.decide(UNREADY.with_(patience_over=True, pods=[])) == Report()


def test_facts_that_no_row_describes_raise(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decisions, "TABLE", decisions.TABLE[:-1])
    with pytest.raises(decisions.Undecided, match="no decision for shop/a"):
        decisions.decide(SETTLED)


def config_map(name: str, created: str) -> dict[str, Any]:
    return live(ownership.stamp(manifest("ConfigMap", name)), creationTimestamp=created)


def test_the_last_three_config_maps_are_kept_and_the_one_in_use_among_them() -> None:
    maps = [config_map(f"a-{number}", f"2026-01-0{number}T00:00:00Z") for number in (1, 2, 3, 4, 5)]
    in_use = ownership.stamp(manifest("ConfigMap", "a-1"))
    facts = SETTLED.with_(wanted=[in_use, DEPLOYMENT], children=[CHILD, *maps])
    assert [child["metadata"]["name"] for child in facts.surplus] == ["a-3", "a-2"]


def test_no_config_map_goes_before_the_rollout_has_ended() -> None:
    """The pods that still serve may be of an old one, and need it to start again."""
    maps = [config_map(f"a-{number}", f"2026-01-0{number}T00:00:00Z") for number in (1, 2, 3, 4, 5)]
    rolling = {**CHILD, "status": {**CHILD["status"], "availableReplicas": 0}}
    assert SETTLED.with_(children=[rolling, *maps]).surplus == []


def test_a_noop_keeps_none() -> None:
    facts = SETTLED.with_(spec=NOOP, wanted=[], children=[config_map("a-1", "2026-01-01T00:00:00Z")])
    assert [child["metadata"]["name"] for child in facts.surplus] == ["a-1"]
