"""What we know of the cluster, whatever the order in which we hear of it."""

from typing import Any

import pytest

from bema_operator import caches, kinds
from bema_operator.facts import Key

A = Key("shop", "a")


def step(version: int, name: str = "a", **metadata: Any) -> dict[str, Any]:
    return {
        "metadata": {
            "name": name,
            "namespace": "shop",
            "uid": f"uid-{name}",
            "resourceVersion": str(version),
            **metadata,
        }
    }


def child(version: int, *, owner: str = "uid-a", **metadata: Any) -> dict[str, Any]:
    reference = {"apiVersion": "bema.dev/v1alpha1", "kind": "Step", "name": "a", "uid": owner, "controller": True}
    return {
        "metadata": {
            "name": "a",
            "namespace": "shop",
            "resourceVersion": str(version),
            "ownerReferences": [reference],
            **metadata,
        },
        "spec": {"replicas": 1},
        "status": {"replicas": 1},
        "data": {"large": "text"},
    }


@pytest.fixture
def cache() -> caches.Cache:
    return caches.Cache()


def test_news_name_the_step_to_look_at(cache: caches.Cache) -> None:
    assert cache.put(kinds.STEP, step(1)) == A
    assert cache.put(kinds.DEPLOYMENT, child(2)) == A
    assert cache.drop(kinds.DEPLOYMENT, child(3)) == A
    assert cache.drop(kinds.STEP, step(4)) == A
    assert cache.steps() == []


def test_who_takes_over_the_place_of_a_step(cache: caches.Cache) -> None:
    for name, former, namespace in (("b", "a", "shop"), ("c", "b", "shop"), ("d", "a", "blog"), ("e", None, "shop")):
        found = step(1, name)
        metadata = {**found["metadata"], "namespace": namespace}
        cache.put(kinds.STEP, {"metadata": metadata, "spec": {"adoptFrom": former} if former else {}})
    assert cache.adopters(A) == ["b"]
    assert cache.adopters(Key("shop", "c")) == []


def test_what_we_know_already_is_no_news(cache: caches.Cache) -> None:
    cache.put(kinds.DEPLOYMENT, child(5))
    assert cache.put(kinds.DEPLOYMENT, child(5)) is None
    assert cache.put(kinds.DEPLOYMENT, child(4)) is None


def test_an_answer_that_comes_after_the_deletion_brings_nothing_back(cache: caches.Cache) -> None:
    cache.put(kinds.DEPLOYMENT, child(5))
    cache.drop(kinds.DEPLOYMENT, child(7))
    assert cache.put(kinds.DEPLOYMENT, child(6)) is None
    assert cache.children(A, "uid-a") == []
    assert cache.put(kinds.DEPLOYMENT, child(8)) == A


def test_children_are_of_this_very_step(cache: caches.Cache) -> None:
    cache.put(kinds.DEPLOYMENT, child(1))
    cache.put(kinds.SERVICE, child(2, owner="uid-of-an-earlier-a"))
    assert [found["kind"] for found in cache.children(A, "uid-a")] == ["Deployment"]


def test_of_a_child_only_what_is_needed_is_kept(cache: caches.Cache) -> None:
    ours = {"manager": "bema-operator", "operation": "Apply", "fieldsV1": {}}
    other = {"manager": "kubectl", "operation": "Update", "fieldsV1": {}}
    cache.put(
        kinds.CONFIG_MAP,
        child(1, managedFields=[ours, other], annotations={"bema.dev/hash": "h", "x": "y"}, selfLink="/"),
    )
    [found] = cache.children(A, "uid-a")
    assert found == {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {
            "name": "a",
            "namespace": "shop",
            "resourceVersion": "1",
            "annotations": {"bema.dev/hash": "h"},
            "ownerReferences": child(1)["metadata"]["ownerReferences"],
            "managedFields": [ours],
        },
    }


def test_a_list_finds_what_watches_did_not_tell(cache: caches.Cache) -> None:
    cache.put(kinds.STEP, step(1, "ghost"))
    cache.put(kinds.STEP, step(2, "same"))
    cache.put(kinds.STEP, step(3, "changed"))
    cache.begin_list(kinds.STEP)
    assert cache.take_page(kinds.STEP, [step(2, "same"), step(9, "changed")]) == [Key("shop", "changed")]
    assert cache.take_page(kinds.STEP, [step(8, "new")]) == [Key("shop", "new")]
    assert cache.end_list(kinds.STEP) == [Key("shop", "ghost")]
    assert cache.steps() == [Key("shop", "same"), Key("shop", "changed"), Key("shop", "new")]


def test_what_moves_while_a_list_is_on_its_way_is_left_alone(cache: caches.Cache) -> None:
    cache.put(kinds.STEP, step(1, "deleted"))
    cache.begin_list(kinds.STEP)
    cache.drop(kinds.STEP, step(5, "deleted"))
    cache.put(kinds.STEP, step(6, "made"))
    assert cache.take_page(kinds.STEP, [step(1, "deleted")]) == []
    assert cache.end_list(kinds.STEP) == []
    assert cache.steps() == [Key("shop", "made")]


def test_a_child_of_nobody_is_nobodys_news(cache: caches.Cache) -> None:
    assert cache.put(kinds.SERVICE, child(1, ownerReferences=[])) is None


def test_a_list_that_broke_off_leaves_no_trace_in_the_next(cache: caches.Cache) -> None:
    cache.put(kinds.STEP, step(1, "a"))
    cache.begin_list(kinds.STEP)
    cache.take_page(kinds.STEP, [step(1, "a")])
    cache.begin_list(kinds.STEP)
    assert cache.end_list(kinds.STEP) == [A]
    assert len(cache) == 0


def test_an_app_is_known_as_long_as_it_has_a_step(cache: caches.Cache) -> None:
    cache.put(kinds.STEP, step(1, "a"))
    cache.put(kinds.STEP, step(2, "b"))
    cache.put(kinds.STEP, step(3, "a"))
    assert cache.apps() == {"shop"}
    assert cache.has_steps("shop")
    cache.drop(kinds.STEP, step(4, "a"))
    assert cache.apps() == {"shop"}
    assert not cache.knows(A)
    cache.drop(kinds.STEP, step(5, "b"))
    assert cache.apps() == set()
    assert not cache.has_steps("shop")
