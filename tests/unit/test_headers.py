"""Header blocks, as they come over the wire and as the server stores them."""

from __future__ import annotations

import pytest

from bema.ports import connections


@pytest.mark.parametrize(
    ("block", "expected"),
    [
        pytest.param(b"NATS/1.0\r\n\r\n", {}, id="none"),
        pytest.param(b"NATS/1.0\r\nce-id: a:b\r\nX: \xc3\xa4\r\n\r\n", {"ce-id": "a:b", "X": "ä"}, id="some"),
        pytest.param(b"NATS/1.0\r\nA:1\r\nB:\t2 \r\nC:\r\n\r\n", {"A": "1", "B": "2", "C": ""}, id="white space"),
        pytest.param(b"NATS/1.0\r\nno header\r\nA: \xff\r\n\r\n", {"A": "\ufffd"}, id="what is none, and no UTF-8"),
        pytest.param(b"NATS/1.0\r\nA: 1\r\nA: 2\r\n\r\n", {"A": "2"}, id="one twice: the last counts"),
        pytest.param(b"NATS/1.0 503\r\n\r\n", {"Status": "503", "Description": ""}, id="a status"),
        pytest.param(
            b"NATS/1.0 100 Idle Heartbeat\r\nNats-Last-Consumer: 7\r\n\r\n",
            {"Status": "100", "Description": "Idle Heartbeat", "Nats-Last-Consumer": "7"},
            id="a status with words and headers",
        ),
    ],
)
def test_a_block_is_read(block: bytes, expected: dict[str, str]) -> None:
    assert connections.parse_headers(block) == expected
