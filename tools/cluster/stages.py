"""Progress for people: what is going on when it takes longer than a second, and how long it took in the end."""

import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager


def say(text: str) -> None:
    """One line of progress. It goes to standard error, so that standard output stays for answers."""
    print(text, file=sys.stderr, flush=True)


@contextmanager
def stage(text: str) -> Iterator[None]:
    """Name a stage: `text …` as soon as it has taken a second, `text: 2.3 s` when it is done."""
    started = time.monotonic()
    announcement = threading.Timer(1.0, say, (f"{text} …",))
    announcement.daemon = True
    announcement.start()
    try:
        yield
    except BaseException:
        say(f"{text}: failed after {time.monotonic() - started:.1f} s")
        raise
    finally:
        announcement.cancel()
    say(f"{text}: {time.monotonic() - started:.1f} s")
