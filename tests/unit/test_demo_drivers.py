"""The driver: what it sends again, how it counts lost answers, and when it gives up."""

from collections.abc import Callable

import httpx
import pytest

from tools.demo import drivers
from tools.demo.histories import Sent
from tools.demo.orderfiles import Kind, Line

ORDER = Line(1, Kind.ORDER, '{"order_id":"o-1"}')
EVENT = Line(2, Kind.WRONG_EVENT, "[]", "order.paid")


class _Topics:
    """Stands in for the broker: takes events and numbers them."""

    def __init__(self) -> None:
        self.events: list[tuple[str, bytes, str]] = []

    async def put_event(self, topic: str, data: bytes, *, event_id: str) -> int:
        self.events.append((topic, data, event_id))
        return 40 + len(self.events)


async def _drive(answer: Callable[[httpx.Request], httpx.Response], *lines: Line) -> tuple[list[Sent], drivers.Driver]:
    transport = httpx.MockTransport(answer)
    async with httpx.AsyncClient(transport=transport, base_url="http://shop") as client:
        driver = drivers.Driver(client, _Topics(), lines)
        return await driver.run(), driver


@pytest.fixture(autouse=True)
def _hurried(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(drivers, "PAUSE", 0.0)
    monkeypatch.setattr(drivers, "LONGEST_PAUSE", 0.0)


def _script(*steps: int | type[httpx.TransportError]) -> tuple[Callable[[httpx.Request], httpx.Response], list[bytes]]:
    """A server that answers, or fails to, as written; and the bodies that it was sent."""
    bodies: list[bytes] = []

    def answer(request: httpx.Request) -> httpx.Response:
        step = steps[len(bodies)]
        bodies.append(request.content)
        if isinstance(step, int):
            return httpx.Response(step, text="said", headers={"Retry-After": "1"} if step == 503 else {})
        raise step("gone")

    return answer, bodies


async def test_an_answer_settles_a_line() -> None:
    answer, bodies = _script(201)
    sent, driver = await _drive(answer, ORDER)
    assert sent == [Sent(ORDER, 201, tries=1, said="said")]
    assert bodies == [ORDER.text.encode()]
    assert driver.progress.fraction == 1.0


async def test_a_refusal_settles_a_line() -> None:
    answer, _ = _script(422)
    sent, _ = await _drive(answer, ORDER)
    assert sent == [Sent(ORDER, 422, tries=1, said="said")]
    assert sent[0].refused
    assert not sent[0].accepted


async def test_a_request_whose_answer_was_lost_is_sent_again_as_it_was() -> None:
    answer, bodies = _script(httpx.ReadError, httpx.RemoteProtocolError, httpx.ReadTimeout, 200)
    sent, driver = await _drive(answer, ORDER)
    assert sent == [Sent(ORDER, 200, tries=4, unanswered=3, said="said")]
    assert bodies == [ORDER.text.encode()] * 4
    assert driver.progress.unanswered == 3


async def test_a_request_that_never_left_lost_no_answer() -> None:
    answer, _ = _script(httpx.ConnectError, httpx.ConnectTimeout, 201)
    sent, _ = await _drive(answer, ORDER)
    assert sent == [Sent(ORDER, 201, tries=3, unanswered=0, said="said")]


async def test_a_server_that_asks_for_patience_or_fails_is_asked_again() -> None:
    answer, _ = _script(503, 500, 504, 201)
    sent, _ = await _drive(answer, ORDER)
    assert sent == [Sent(ORDER, 201, tries=4, unanswered=0, said="said")]


async def test_what_is_never_answered_is_given_up_without_a_status(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter(range(0, 1000, 50))
    monkeypatch.setattr(drivers, "_now", lambda: float(next(clock)))
    answer, _ = _script(*[500] * 20)
    sent, _ = await _drive(answer, ORDER)
    assert sent[0].status is None
    assert sent[0].said == "HTTP 500"


async def test_a_wrong_event_goes_to_its_topic() -> None:
    transport = httpx.MockTransport(_script()[0])
    topics = _Topics()
    async with httpx.AsyncClient(transport=transport, base_url="http://shop") as client:
        sent = await drivers.Driver(client, topics, [EVENT]).run()
    assert sent == [Sent(EVENT, sequence=41)]
    assert topics.events == [("order.paid", b"[]", "line-2")]


@pytest.mark.parametrize(
    ("answer", "tries", "seconds"),
    [
        pytest.param(httpx.Response(503, headers={"Retry-After": "3"}), 1, 3.0, id="what the server asks for"),
        pytest.param(httpx.Response(503, headers={"Retry-After": "3600"}), 1, 5.0, id="but not for ever"),
        pytest.param(httpx.Response(503, headers={"Retry-After": "soon"}), 2, 0.2, id="a date is not read"),
        pytest.param(httpx.ReadError("gone"), 3, 0.3, id="a little longer each time"),
        pytest.param(httpx.ReadError("gone"), 50, 1.0, id="up to a second"),
    ],
)
def test_the_pause_before_the_next_try(
    answer: httpx.Response | httpx.TransportError, tries: int, seconds: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.undo()
    assert drivers.pause(answer, tries) == pytest.approx(seconds)
