"""What a cluster refuses, in words."""

from __future__ import annotations

import json

import pytest

from bema.clusters import calls, errors
from bema_cli import refusals
from bema_cli.commands import following
from bema_cli.kubeconfigs import Place

PLACE = Place(context="blue", namespace="shop", server="https://blue", config={})
STEPS = "/apis/bema.dev/v1alpha1/namespaces/shop/steps"
WHO = 'steps.bema.dev is forbidden: User "ann"'
FORBIDDEN = f'{WHO} cannot list resource "steps" in API group "bema.dev" in the namespace "shop"'


def answer(code: int, data: bytes, path: str = STEPS) -> errors.KubeError:
    return calls.error_of("GET", path, code, data)


def said(message: str) -> bytes:
    return json.dumps({"kind": "Status", "message": message}).encode()


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (
            answer(403, said(FORBIDDEN)),
            "expected the right to list steps.bema.dev in namespace shop, found that https://blue (context blue) "
            "refuses it",
        ),
        (answer(404, b"404 page not found\n"), "expected the CRD steps.bema.dev (v1alpha1) on https://blue"),
        (answer(401, said("Unauthorized")), "expected credentials that https://blue (context blue) accepts"),
        (errors.Unavailable("connection refused"), "expected an API server at https://blue (context blue), found none"),
        (errors.NoAccess("exec: process returned 1"), "context blue: exec: process returned 1"),
        (answer(500, said("boom")), "https://blue (context blue): boom"),
    ],
)
def test_words(error: errors.KubeError, words: str) -> None:
    assert refusals.words(error, PLACE).startswith(words)


@pytest.mark.parametrize(
    ("message", "right"),
    [
        (FORBIDDEN, "the right to list steps.bema.dev in namespace shop"),
        (
            'pods "a" is forbidden: User "ann" cannot get resource "pods/log" in API group "" in the namespace "shop"',
            "the right to get pods/log in namespace shop",
        ),
        (
            'x is forbidden: User "ann" cannot list resource "steps" in API group "bema.dev" at the cluster scope',
            "the right to list steps.bema.dev in the whole cluster",
        ),
        ("denied by a webhook", "a right"),
    ],
)
def test_the_right_that_is_missing(message: str, right: str) -> None:
    assert refusals.right(answer(403, said(message))) == right


@pytest.mark.parametrize(
    ("others", "hint"),
    [(["orders", "mail"], "did you mean 'orders'?"), (["mail"], "`bema steps` lists them"), ([], "it has no Steps")],
)
def test_an_unknown_step_with_the_nearest_name(others: list[str], hint: str) -> None:
    expected = f"expected a Step named 'ordres' in namespace 'shop', found none; {hint}"
    assert following.unknown("ordres", "shop", others) == expected
