"""What the API server's answers mean to us."""

import json
from typing import Any

import pytest

from bema_operator import kinds, kube


def status(message: str = "m", **fields: Any) -> bytes:
    return json.dumps({"kind": "Status", "message": message, **fields}).encode()


@pytest.mark.parametrize(
    ("code", "data", "expected"),
    [
        pytest.param(404, status(reason="NotFound", details={"name": "a"}), kube.Gone, id="an object by its name"),
        pytest.param(404, b"404 page not found\n", kube.Unavailable, id="a kind that is not served is no evidence"),
        pytest.param(404, status(reason="NotFound", details={}), kube.Unavailable, id="a resource without a name"),
        pytest.param(409, status(), kube.Conflict, id="conflict"),
        pytest.param(403, status(), kube.Refused, id="no right, or a quota"),
        pytest.param(422, status(), kube.Refused, id="invalid content"),
        pytest.param(500, status("failed to create typed patch object (…)"), kube.Refused, id="content, as a 500"),
        pytest.param(500, status("failed to convert new object (…)"), kube.Refused, id="a quantity, as a 500"),
        pytest.param(500, status("failed to convert merged object (…)"), kube.Refused, id="one merged, as a 500"),
        pytest.param(500, status("boom"), kube.Unavailable, id="another 500"),
        pytest.param(429, status(), kube.Unavailable, id="too many requests"),
        pytest.param(401, status(), kube.Unavailable, id="a token that has just been replaced"),
        pytest.param(503, b"<html>", kube.Unavailable, id="a proxy's page"),
    ],
)
def test_an_answer_is_one_of_our_errors(code: int, data: bytes, expected: type[kube.KubeError]) -> None:
    assert type(kube._error("GET", "/x", code, data)) is expected


def test_the_api_servers_sentence_is_kept() -> None:
    assert str(kube._error("PATCH", "/x", 403, status("exceeded quota"))) == "exceeded quota (PATCH /x: 403)"


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        (kinds.STEP.path(), "/apis/bema.dev/v1alpha1/steps"),
        (kinds.STEP.path("n", "a", "status"), "/apis/bema.dev/v1alpha1/namespaces/n/steps/a/status"),
        (kinds.SERVICE.path("n", "a"), "/api/v1/namespaces/n/services/a"),
        (kinds.NAMESPACE.path(None, "n"), "/api/v1/namespaces/n"),
    ],
)
def test_paths(path: str, expected: str) -> None:
    assert path == expected
