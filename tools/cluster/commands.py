"""Running other programs, with a deadline and an error that shows what they said."""

import shlex
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

from tools.cluster import errors, locks


def run(
    argv: Sequence[str | Path],
    *,
    input: str | None = None,
    seconds: float = 60,
    env: Mapping[str, str] | None = None,
    cwd: Path | None = None,
) -> str:
    """Run a program and return its standard output.

    Raises `errors.CommandFailed` when it ends with another code than 0 or not within `seconds`.
    """
    done = attempt(argv, input=input, seconds=seconds, env=env, cwd=cwd)
    if done.returncode:
        said = "\n".join(text for text in (done.stdout[-3000:].strip(), done.stderr[-3000:].strip()) if text)
        raise errors.CommandFailed(f"`{shown(argv)}` ended with code {done.returncode}: {said}")
    return done.stdout


def attempt(
    argv: Sequence[str | Path],
    *,
    input: str | None = None,
    seconds: float = 60,
    env: Mapping[str, str] | None = None,
    cwd: Path | None = None,
) -> subprocess.CompletedProcess[str]:
    """Like `run`, but an exit code other than 0 is the caller's to judge."""
    words = [str(word) for word in argv]
    stdin = None if input is not None else subprocess.DEVNULL
    try:
        return subprocess.run(
            words,
            input=input,
            stdin=stdin,
            capture_output=True,
            text=True,
            timeout=seconds,
            env=env,
            cwd=cwd,
            check=False,
            pass_fds=locks.inherited(),
        )
    except subprocess.TimeoutExpired as late:
        raise errors.CommandFailed(f"`{shown(argv)}` did not end within {seconds:g} s") from late
    except FileNotFoundError as missing:
        raise errors.CannotRunHere(f"the program {words[0]} is missing on this machine") from missing


def shown(argv: Sequence[str | Path]) -> str:
    """The command as a person would type it, cut when it is very long."""
    text = shlex.join(str(word) for word in argv)
    return text if len(text) <= 300 else text[:300] + " …"
