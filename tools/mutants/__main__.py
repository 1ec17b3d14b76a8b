"""`python -m tools.mutants [NAME…]`: each rule that the promise rests on, removed in a copy of the tree, and the test
that has to go red. A patch that does not apply any more is a failure: somebody has to look at it.

A patch's first lines say `Rule:` what it removes and `Red:` which test notices; its name is the file's.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PATCHES = Path(__file__).resolve().parent / "patches"
SOURCES = ("sdk/python/src", "runtime-image/python/src", "operator/src", "sdk/cli/src")
SECONDS = 600
FAILED = 1
"""What pytest ends with when a test has failed; another code is no verdict."""


@dataclass(frozen=True, slots=True)
class Mutant:
    name: str
    rule: str
    red: str
    """A test, as pytest names it."""
    patch: Path


def read(patch: Path) -> Mutant:
    """Raises `ValueError` for a patch that does not say what it is."""
    said = dict(line.split(": ", 1) for line in patch.read_text("utf-8").splitlines()[:2] if ": " in line)
    if not {"Rule", "Red"} <= said.keys():
        raise ValueError(f"{patch.name}: expected lines `Rule: …` and `Red: …` at its beginning, found {sorted(said)}")
    return Mutant(patch.stem, said["Rule"], said["Red"], patch)


@contextmanager
def _tree() -> Iterator[Path]:
    """A copy of what git knows of the tree, as it is now."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        check=True,
    )
    with tempfile.TemporaryDirectory(prefix="bema-mutant-") as folder:
        for name in filter(None, listed.stdout.decode().split("\0")):
            if (ROOT / name).is_file():
                (Path(folder) / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(ROOT / name, Path(folder) / name)
        yield Path(folder)


def _pytest(tree: Path, test: str) -> subprocess.CompletedProcess[str]:
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(str(tree / source) for source in SOURCES)}
    command = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", test]
    return subprocess.run(command, cwd=tree, env=env, text=True, capture_output=True, timeout=SECONDS, check=False)


def problem(mutant: Mutant) -> str | None:
    """Why a mutant proves nothing; None when its test was green before and red with it."""
    with _tree() as tree:
        before = _pytest(tree, mutant.red)
        if before.returncode:
            return f"{mutant.red} fails without it:\n{before.stdout[-3000:]}"
        patched = subprocess.run(
            ["patch", "-p1", "--no-backup-if-mismatch", "-i", str(mutant.patch)],
            cwd=tree, text=True, capture_output=True, check=False,
        )  # fmt: skip
        if patched.returncode:
            return f"the patch does not apply any more:\n{patched.stdout}{patched.stderr}"
        after = _pytest(tree, mutant.red)
        return (
            None
            if after.returncode == FAILED
            else f"{mutant.red} did not notice (pytest ended with {after.returncode})"
        )


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tools.mutants", description="Removes each rule once.")
    parser.add_argument("names", nargs="*", metavar="NAME", help="a patch's name; default all")
    chosen = parser.parse_args().names
    mutants = [read(patch) for patch in sorted(PATCHES.glob("*.patch"))]
    unknown = set(chosen) - {mutant.name for mutant in mutants}
    if unknown:
        parser.error(f"expected {', '.join(mutant.name for mutant in mutants)}, found {', '.join(sorted(unknown))}")
    failed = 0
    for mutant in mutants:
        if chosen and mutant.name not in chosen:
            continue
        found = problem(mutant)
        failed += found is not None
        print(f"{'RED as it has to be' if found is None else 'FAILED'}  {mutant.name}: {mutant.rule}", flush=True)
        if found is not None:
            print(found, flush=True)
    return int(failed > 0)


if __name__ == "__main__":
    sys.exit(main())
