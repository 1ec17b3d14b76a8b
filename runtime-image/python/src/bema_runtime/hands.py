"""The events in this process's hands: kept there by heartbeats, and let go with a word to the broker."""

from __future__ import annotations

from bema.ports.connections import Connection, publish_command
from bema_runtime.lanes import Lanes
from bema_runtime.runs import Run

ACK = b"+ACK"
NAK = b"-NAK"
_WORKING = b"+WPI"


def nak(seconds: float) -> bytes:
    """Give back, to be delivered again after a while."""
    return b'-NAK {"delay":%d}' % round(seconds * 1e9)


class Hands:
    """What was delivered and is not settled yet. Belongs to the engine's thread."""

    def __init__(self, connection: Connection, lanes: Lanes) -> None:
        self._connection = connection
        self._lanes = lanes
        self._runs: dict[tuple[str, str, int], Run] = {}

    def __len__(self) -> int:
        return len(self._runs)

    def take(self, run: Run) -> bool:
        """Take a run in hand; False when it is there already, and this was another delivery of its event."""
        place = run.place
        held = self._runs.get(place)
        if held is not None:
            if run.delivery is not None and held.takes(run.delivery):
                run.unit.release(1)
            return False
        self._runs[place] = run
        run.unit.in_flight += 1
        return True

    def forget(self, run: Run, outcome: str | None) -> None:
        """Let a run go without a word: its event comes again unless it was answered. `outcome` is what to count."""
        if self._runs.pop(run.place, None) is not None:
            run.unit.in_flight -= 1
            run.unit.release(1 + len(run.twins))
        self._lanes.leave(run)
        if run.unit.turns is not None:
            run.unit.turns.leave(run)
        if outcome is not None:
            run.unit.metrics.runs[run.kind, outcome] += 1

    async def let_go(self, run: Run, word: bytes, *, outcome: str | None = None) -> None:
        """Answer a run's event, and forget it."""
        answer = self.answer(run, word)
        self.forget(run, outcome)
        await self.write(answer)

    def answer(self, run: Run, word: bytes) -> bytes:
        """The word to the broker about every delivery of a run's event, as protocol bytes."""
        if run.delivery is None:
            return b""
        if not run.twins:
            return b"PUB %b %d\r\n%b\r\n" % (run.delivery.reply.encode(), len(word), word)
        return b"".join(publish_command(delivery.reply, word) for delivery in (run.delivery, *run.twins))

    async def write(self, commands: bytes) -> None:
        """Answers that cannot be sent now are not sent later: the event comes again and its end is found."""
        if commands and self._connection.is_connected and self._connection.is_known:
            await self._connection.write(commands)

    async def keep(self) -> None:
        """Tell the broker that all of this is being worked on."""
        await self.write(b"".join(self.answer(run, _WORKING) for run in self._runs.values()))

    async def give_back(self) -> int:
        """Hand everything to whoever is next, at once; how many events that were."""
        await self.write(b"".join(self.answer(run, NAK) for run in self._runs.values()))
        return len(self._runs)
