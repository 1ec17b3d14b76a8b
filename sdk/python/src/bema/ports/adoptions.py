"""A renamed Step takes over the place of the one that is gone.

    note who is taken over → make the new consumers, behind what the old ones have finished → remove the old ones
    → note how far the former Step may have been given anything

Each part may be repeated, so whoever is interrupted begins again. One Step alone takes over a place: its name is noted
by that of the former Step, at once with the first note, unless another's is there. Nobody but its own processes may
ask the former Step's consumers for more meanwhile, so the Step itself must be gone before.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence

from bema.contract import adoptions, errors, floors, names
from bema.contract.adoptions import Adoption, Former
from bema.contract.bindings import Binding, Consumer
from bema.ports import admin
from bema.ports.admin import ConsumerState
from bema.ports.jetstream import ROLLUP, JetStream, Outgoing, is_wrong_sequence

log = logging.getLogger(__name__)


async def read(js: JetStream, stream: str, step: str) -> Adoption | None:
    """What a Step has taken over, or is about to; None where it was never asked to."""
    stored = await js.get_last(stream, names.adoption(names.root_of_stream(stream), step))
    return adoptions.read(stored.data) if stored is not None and stored.data else None


async def holder(js: JetStream, stream: str, former: str) -> str | None:
    """Which Step has taken over the place of another, or is about to; None for nobody, and when that Step is gone for
    good, or the former one lives anew."""
    return (await _claim(js, stream, former))[0]


async def _claim(js: JetStream, stream: str, former: str) -> tuple[str | None, int]:
    """Who holds a place, and the sequence of the note that says so, or said so; 0 without one."""
    stored = await js.get_last(stream, names.adopter(names.root_of_stream(stream), former))
    if stored is None:
        return None, 0
    step = stored.data.decode()
    adoption = await read(js, stream, step)
    if adoption is None or all(each.step != former for each in adoption.formers):
        return None, stored.sequence
    lives = adoption.is_done and bool(await admin.states_of_step(js, stream, former))
    return None if lives else step, stored.sequence


async def begin(js: JetStream, binding: Binding, former: str) -> tuple[Adoption, dict[str, int]]:
    """Note whom the Step takes over; and by its own durables, where its consumers begin that are not there yet.
    Raises `PlaceTaken`."""
    stream = binding.stream.name
    known = await read(js, stream, binding.step)
    if known is not None and known.is_done:
        return known, {}
    last = await admin.last_sequence(js, stream)
    states = await admin.states_of_step(js, stream, former)
    adoption = known or Adoption()
    if known is None and not await admin.consumer_exists(js, stream, names.durable(binding.step)):
        held_by, sequence = await _claim(js, stream, former)
        if held_by not in (None, binding.step):
            raise errors.PlaceTaken(former, str(held_by))
        if states:
            before = await read(js, stream, former) or Adoption()
            adoption = Adoption((*before.formers, Former(former, None)))
            if not await _take(js, binding, former, sequence, adoption):
                return await begin(js, binding, former)
            known = adoption
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
    # Whoever takes the name again, as when a renaming is undone and done again, has taken over nothing yet
    await forget(js, stream, former)
    await _write(js, binding, Adoption(formers))
    log.info("The Step %s has taken over the place of %s", binding.step, former)


async def forget(js: JetStream, stream: str, step: str) -> None:
    """A Step is gone for good: one of its name begins as a new one."""
    await js.purge(stream, names.adoption(names.root_of_stream(stream), step), below=None)


def heard(binding: Binding, main: Consumer, adoption: Adoption) -> Consumer:
    """The main consumer of a Step, hearing the attempts of those whose place it has, too."""
    # A name may be among them twice, and the Step's own: a renaming can be undone
    more = [names.retry_filter(binding.root, former.step) for former in adoption.formers]
    return main.model_copy(update={"filter_subjects": list(dict.fromkeys([*main.filter_subjects, *more]))})


def _start(own: Consumer, states: Iterable[ConsumerState], last: int) -> int | None:
    """The first sequence that those have not finished who hear anything that this consumer is to hear."""
    heard = (state for state in states if _overlap(own.filter_subjects, state.filters))
    return min((admin.floor_of(state, last) + 1 for state in heard), default=None)


def _overlap(subjects: Sequence[str], others: Sequence[str]) -> bool:
    return any(floors.overlap(mine, theirs) for mine in subjects for theirs in others)


async def _take(js: JetStream, binding: Binding, former: str, sequence: int, adoption: Adoption) -> bool:
    """Note whom the Step takes over, and at all of those who has; False if somebody else was faster. `sequence`: of the
    note at the former Step that was there."""
    notes = {
        each.step: Outgoing(names.adopter(binding.root, each.step), binding.step.encode(), {ROLLUP: "sub"})
        for each in adoption.formers
    }
    notes[former].expected = sequence
    try:
        await _write(js, binding, adoption, *notes.values())
    except errors.BrokerRefused as error:
        if is_wrong_sequence(error):
            return False
        raise
    return True


async def _write(js: JetStream, binding: Binding, adoption: Adoption, *notes: Outgoing) -> None:
    record = Outgoing(names.adoption(binding.root, binding.step), adoption.to_json(), {ROLLUP: "sub"})
    await js.publish_batch([*notes, record])
