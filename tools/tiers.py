"""`python -m tools.tiers [TIER…]`: run the tiers of the tests in order, print each one's time, end with a line of
counts. Goes on after a failure, so that one run tells everything.

The cluster's binaries are built in the background from the start: the first time takes minutes, which the tiers
before e2e use up.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "test-results"
CANNOT_RUN_HERE = 3
"""Exit code of `tools.cluster` where a real Kubernetes cannot run; it has said why."""

SOURCES = (
    "sdk/python/src",
    "sdk/cli/src",
    "operator/src",
    "runtime-image/python/src",
    "tools",
    "bench",
    "tests/chaos",
)
CHECKS: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("ruff check", ("-m", "ruff", "check", ".")),
    ("ruff format", ("-m", "ruff", "format", "--check", "--quiet", ".")),
    ("mypy", ("-m", "mypy", *SOURCES)),
    ("import-linter", ("-c", "from importlinter.cli import lint_imports; raise SystemExit(lint_imports())")),
    ("generated files", ("-m", "tools.gen", "--check")),
)


@dataclass(frozen=True)
class Result:
    tier: str
    seconds: float
    passed: int = 0
    failed: int = 0
    skipped: int = 0

    @property
    def was_skipped(self) -> bool:
        """Whether nothing of the tier ran at all."""
        return self.skipped > 0 and self.passed == self.failed == 0


def python(*arguments: str, quiet: bool = False) -> subprocess.CompletedProcess[str]:
    """Run Python in the repository. Whatever would read the user's kubeconfig finds one that leads nowhere."""
    env = {**os.environ, "KUBECONFIG": str(RESULTS / "no-kubeconfig-of-the-user")}
    return subprocess.run([sys.executable, *arguments], cwd=ROOT, text=True, capture_output=quiet, check=False, env=env)


def check() -> Result:
    """Each check counts as one test."""
    began, failed = time.monotonic(), 0
    for name, command in CHECKS:
        done = python(*command, quiet=True)
        if done.returncode:
            failed += 1
            print(f"{name} failed:\n{done.stdout}{done.stderr}", flush=True)
    return Result("check", time.monotonic() - began, len(CHECKS) - failed, failed)


def tests(tier: str, *more: str) -> Result:
    """A folder of tests/ by pytest."""
    RESULTS.mkdir(exist_ok=True)
    report = RESULTS / f"{tier}.xml"
    report.unlink(missing_ok=True)
    began = time.monotonic()
    done = python("-m", "pytest", f"tests/{tier}", "-q", f"--junitxml={report}", *more)
    seconds = time.monotonic() - began
    if not report.exists():
        return Result(tier, seconds, failed=1)
    suite = ElementTree.parse(report).getroot().find("testsuite")
    if suite is None:
        return Result(tier, seconds, failed=1)
    total, skipped = int(suite.get("tests", 0)), int(suite.get("skipped", 0))
    failed = int(suite.get("failures", 0)) + int(suite.get("errors", 0))
    return Result(tier, seconds, total - failed - skipped, max(failed, int(done.returncode not in (0, 5))), skipped)


def bench() -> Result:
    """Every benchmark at toy size, so that none rots."""
    began = time.monotonic()
    done = python("-m", "bench", "--toy", "--out", str(RESULTS / "bench.json"))
    return Result("bench", time.monotonic() - began, int(done.returncode == 0), int(done.returncode != 0))


def e2e() -> Result:
    """A real Kubernetes. Where there can be none it is skipped, loudly; in CI that is a failure."""
    began = time.monotonic()
    if _on_kind():
        return tests("e2e")
    ready = python("-m", "tools.cluster", "build", "--wait")
    if ready.returncode == CANNOT_RUN_HERE and not _in_ci():
        print("SKIPPED: the e2e tier needs a real Kubernetes, which cannot run here (see above)", flush=True)
        return Result("e2e", time.monotonic() - began, skipped=1)
    if ready.returncode:
        return Result("e2e", time.monotonic() - began, failed=1)
    return tests("e2e")


def _on_kind() -> bool:
    """Whether somebody asked for a cluster of kind's; where it cannot run, that is a failure."""
    return os.environ.get("CLUSTER") == "kind"


def _in_ci() -> bool:
    return os.environ.get("CI", "").lower() == "true"


TIERS: dict[str, Callable[[], Result]] = {
    "check": check,
    "unit": lambda: tests("unit"),
    # Most of the time of these two is waiting
    "integration": lambda: tests("integration", "-n", "4"),
    "facts": lambda: tests("facts", "-n", "3"),
    "bench": bench,
    "chaos": lambda: tests("chaos", "-n", "2", "-rP"),  # what was counted is worth seeing when all is well, too
    "e2e": e2e,
}


def run(chosen: Sequence[str]) -> list[Result]:
    if "e2e" in chosen and not _on_kind():
        python("-m", "tools.cluster", "build", "--background")
    results = []
    for tier in chosen:
        print(f"── {tier}", flush=True)
        results.append(TIERS[tier]())
        print(f"── {tier}: {results[-1].seconds:.1f} s", flush=True)
    return results


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tools.tiers", description="Runs the tests.")
    parser.add_argument("tiers", nargs="*", metavar="TIER", help=f"one or more of {', '.join(TIERS)}; default: all")
    chosen = parser.parse_args().tiers or list(TIERS)
    unknown = [tier for tier in chosen if tier not in TIERS]
    if unknown:
        parser.error(f"expected {', '.join(TIERS)}, found {', '.join(unknown)}")
    RESULTS.mkdir(exist_ok=True)
    results = run(chosen)
    print()
    for result in results:
        counts = f"{result.passed} passed, {result.failed} failed, {result.skipped} skipped"
        print(f"{result.tier:12} {result.seconds:7.1f} s   {counts}")
    passed, failed, skipped = (sum(getattr(r, name) for r in results) for name in ("passed", "failed", "skipped"))
    print(f"\n{passed} passed, {failed} failed, {skipped} skipped")
    return int(failed > 0 or (_in_ci() and any(result.was_skipped for result in results)))


if __name__ == "__main__":
    sys.exit(main())
