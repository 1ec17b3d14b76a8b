"""A renamed Step takes over the place of the one that is gone.

    note who is taken over → make the new consumers, behind what the old ones have finished → remove the old ones
    → note how far the former Step may have been given anything

Each part may be repeated, so whoever is interrupted begins again. Nobody but its own processes may ask the former
Step's consumers for more meanwhile, so the Step itself must be gone before.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence

from bema.contract import adoptions, floors, names
from bema.contract.adoptions import Adoption, Former
from bema.contract.bindings import Binding, Consumer
from bema.ports import admin
from bema.ports.admin import ConsumerState
from bema.ports.jetstream import ROLLUP, JetStream, Outgoing

log = logging.getLogger(__name__)


async def read(js: JetStream, stream: str, step: str) -> Adoption | None:
    """What a Step has taken over, or is about to; None where it was never asked to."""
    stored = await js.get_last(stream, names.adoption(names.root_of_stream(stream), step))
    return adoptions.read(stored.data) if stored is not None and stored.data else None


async def begin(js: JetStream, binding: Binding, former: str) -> tuple[Adoption, dict[str, int]]:
    """Note whom the Step takes over; and by its own durables, where its consumers begin that are not there yet."""
    stream = binding.stream.name
    known = await read(js, stream, binding.step)
    if known is not None and known.is_done:
        return known, {}
    last = await admin.last_sequence(js, stream)
    states = await admin.states_of_step(js, stream, former)
    adoption = known or Adoption()
    if known is None and states and not await admin.consumer_exists(js, stream, names.durable(binding.step)):
        before = await read(js, stream, former) or Adoption()
        adoption = Adoption((*before.formers, Former(former, None)))
    if known is None:
        await _write(js, binding, adoption)
    return adoption, {
        own.durable: start for own in binding.consumers if (start := _start(own, states.values(), last)) is not None
    }


async def finish(js: JetStream, binding: Binding, former: str, adoption: Adoption) -> None:
    """Once the Step's own consumers are there: those of the former Step go, and with them whoever could be given
    anything more in its name."""
    stream = binding.stream.name
    for durable in reversed(await admin.states_of_step(js, stream, former)):
        await admin.delete_consumer(js, stream, durable)
    last = await admin.last_sequence(js, stream)
    formers = tuple(Former(each.step, last if each.until is None else each.until) for each in adoption.formers)
    await _write(js, binding, Adoption(formers))
    log.info("The Step %s has taken over the place of %s", binding.step, former)


async def forget(js: JetStream, stream: str, step: str) -> None:
    """A Step is gone for good: one of its name begins as a new one."""
    await js.purge(stream, names.adoption(names.root_of_stream(stream), step), below=None)


def heard(binding: Binding, main: Consumer, adoption: Adoption) -> Consumer:
    """The main consumer of a Step, hearing the attempts of those whose place it has, too."""
    more = [names.retry_filter(binding.root, former.step) for former in adoption.formers]
    filters = [*main.filter_subjects, *(subject for subject in more if subject not in main.filter_subjects)]
    return main.model_copy(update={"filter_subjects": filters})


def _start(own: Consumer, states: Iterable[ConsumerState], last: int) -> int | None:
    """The first sequence that those have not finished who hear anything that this consumer is to hear."""
    heard = (state for state in states if _overlap(own.filter_subjects, state.filters))
    return min((admin.floor_of(state, last) + 1 for state in heard), default=None)


def _overlap(subjects: Sequence[str], others: Sequence[str]) -> bool:
    return any(floors.overlap(mine, theirs) for mine in subjects for theirs in others)


async def _write(js: JetStream, binding: Binding, adoption: Adoption) -> None:
    await js.publish(Outgoing(names.adoption(binding.root, binding.step), adoption.to_json(), {ROLLUP: "sub"}))
