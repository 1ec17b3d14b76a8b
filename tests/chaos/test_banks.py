"""The bank under fixed seeds. `make chaos` is the same with more of everything."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.chaos.trials import Kind

ROOT = Path(__file__).resolve().parents[2]
SECONDS = 600
"""Far more than it takes: a busy machine is no failure."""


@pytest.mark.parametrize(
    ("kind", "seed", "runs"), [(Kind.R1, 11, 1500), (Kind.R3, 12, 3000), (Kind.DEV, 13, 600)], ids=list(Kind)
)
def test_a_bank_is_sound_whatever_breaks(kind: Kind, seed: int, runs: int, tmp_path: Path) -> None:
    """In a process of its own, as by hand: what it prints says how to repeat it, and what servers and workers said."""
    command = [sys.executable, "-m", "tests.chaos", "--kind", kind, "--seed", str(seed), "--runs", str(runs)]
    done = subprocess.run(
        [*command, "--rounds", "1", "--folder", str(tmp_path / "chaos")],
        cwd=ROOT,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        timeout=SECONDS,
    )
    print(done.stdout)
    assert done.returncode == 0, done.stdout
