"""Changes to watched groups, as handlers get them."""

from __future__ import annotations

import pytest

from bema import authoring
from bema_runtime import changes, payloads

GOOD = b'{"group": "orders", "key": "1", "type": "updated", "old": {"n": 1}, "new": [2]}'


def test_a_change_is_read_whole() -> None:
    expected = authoring.StateChange("orders", "1", "updated", {"n": 1}, [2], revision=7)
    assert changes.read(GOOD, 7) == expected
    left_out = GOOD.replace(b'{"n": 1}', b"null")[:-1] + b',"oldLeftOut":true}'
    assert changes.read(left_out, 7) == authoring.StateChange("orders", "1", "updated", None, [2], 7, old_left_out=True)


@pytest.mark.parametrize(
    ("data", "fields"),
    [
        pytest.param(b"5", [""], id="no object"),
        pytest.param(b"{", [""], id="no JSON"),
        pytest.param(b'{"group": 5}', ["group", "key", "type", "old", "new"], id="nearly nothing"),
        pytest.param(GOOD.replace(b"updated", b"moved"), ["type"], id="a type that is none"),
    ],
)
def test_what_is_no_change_is_invalid(data: bytes, fields: list[str]) -> None:
    with pytest.raises(payloads.InputInvalid) as caught:
        changes.read(data, 0)
    assert [problem.field for problem in caught.value.problems] == fields
