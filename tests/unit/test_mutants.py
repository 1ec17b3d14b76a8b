"""The patches of `make mutants` say what they are, and still apply. That they are noticed, `make mutants` shows."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from tools.mutants import __main__ as mutants


@pytest.mark.parametrize("patch", sorted(mutants.PATCHES.glob("*.patch")), ids=lambda patch: patch.stem)
def test_a_patch_names_its_rule_and_its_test_and_applies(patch: Path) -> None:
    mutant = mutants.read(patch)
    assert mutant.rule
    file, _, test = mutant.red.partition("::")
    assert f"def {test}" in (mutants.ROOT / file).read_text("utf-8")
    command = ["patch", "-p1", "--dry-run", "--force", "-i", str(patch)]
    done = subprocess.run(command, cwd=mutants.ROOT, text=True, capture_output=True, check=False)
    assert done.returncode == 0, f"{done.stdout}{done.stderr}"


def test_a_patch_that_does_not_say_what_it_is(tmp_path: Path) -> None:
    (tmp_path / "x.patch").write_text("--- a/x\n+++ b/x\n")
    with pytest.raises(ValueError, match=r"x\.patch: expected lines"):
        mutants.read(tmp_path / "x.patch")
