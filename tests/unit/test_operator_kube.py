"""What the API server's answers mean to us."""

import json
from typing import Any

import pytest

from bema.clusters import calls, errors, kinds


def status(message: str = "m", **fields: Any) -> bytes:
    return json.dumps({"kind": "Status", "message": message, **fields}).encode()


@pytest.mark.parametrize(
    ("code", "data", "expected"),
    [
        pytest.param(404, status(reason="NotFound", details={"name": "a"}), errors.Gone, id="an object by its name"),
        pytest.param(404, b"404 page not found\n", errors.Unavailable, id="a kind that is not served is no evidence"),
        pytest.param(404, status(reason="NotFound", details={}), errors.Unavailable, id="a resource without a name"),
        pytest.param(409, status(), errors.Conflict, id="conflict"),
        pytest.param(403, status(), errors.Refused, id="no right, or a quota"),
        pytest.param(422, status(), errors.Refused, id="invalid content"),
        pytest.param(500, status("failed to create typed patch object (…)"), errors.Refused, id="content, as a 500"),
        pytest.param(500, status("failed to convert new object (…)"), errors.Refused, id="a quantity, as a 500"),
        pytest.param(500, status("failed to convert merged object (…)"), errors.Refused, id="one merged, as a 500"),
        pytest.param(500, status("boom"), errors.Unavailable, id="another 500"),
        pytest.param(429, status(), errors.Unavailable, id="too many requests"),
        pytest.param(401, status(), errors.Unavailable, id="a token that has just been replaced"),
        pytest.param(503, b"<html>", errors.Unavailable, id="a proxy's page"),
    ],
)
def test_an_answer_is_one_of_our_errors(code: int, data: bytes, expected: type[errors.KubeError]) -> None:
    assert type(calls.error_of("GET", "/x", code, data)) is expected


def test_the_api_servers_sentence_is_kept() -> None:
    assert str(calls.error_of("PATCH", "/x", 403, status("exceeded quota"))) == "exceeded quota (PATCH /x: 403)"


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


class Pages(calls.Client):
    """Answers a list in three pages."""

    def __init__(self) -> None:
        self.asked: list[Any] = []

    async def call(self, method: str, path: str, *, query: Any = None, body: Any = None, content_type: str = "") -> Any:
        number = len(self.asked) + 1
        self.asked.append(query)
        more = {"continue": f"page {number + 1}"} if number < 3 else {}
        return {"metadata": {"resourceVersion": str(number), **more}, "items": [{"number": number}]}


async def test_a_list_is_read_to_its_last_page() -> None:
    client = Pages()
    found = await client.listed(kinds.STEP, "shop", labelSelector="a")
    assert ([item["number"] for item in found.items], found.version) == ([1, 2, 3], "3")
    assert [query.get("continue") for query in client.asked] == [None, "page 2", "page 3"]
    assert {(query["limit"], query["labelSelector"]) for query in client.asked} == {(str(calls.PAGE), "a")}
