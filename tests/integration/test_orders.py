"""The orders example in a real `bema dev`, its worker killed; and an app that cheats, which the audit must find out."""

import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tools.cluster import paths

SECONDS = 150
APP = paths.REPOSITORY / "examples" / "orders"


@pytest.fixture
def app(tmp_path: Path) -> Path:
    """A copy of the example, so that nobody else's `bema dev` is in the way."""
    return Path(shutil.copytree(APP, tmp_path / "orders", ignore=shutil.ignore_patterns(".bema", "__pycache__")))


def _demo(folder: Path, orders: int) -> subprocess.CompletedProcess[str]:
    log = str(folder.parent / "dev.log")
    command = [
        sys.executable,
        "-m",
        "tools.demo",
        "dev",
        "--folder",
        str(folder),
        "--orders",
        str(orders),
        "--log",
        log,
    ]
    return subprocess.run(
        command, cwd=paths.REPOSITORY, capture_output=True, text=True, timeout=SECONDS, stdin=subprocess.DEVNULL
    )


def test_no_order_is_lost_or_doubled_when_the_worker_is_killed_in_mid_run(app: Path) -> None:
    done = _demo(app, 200)
    said = f"{done.stdout}\n{done.stderr}"
    assert done.returncode == 0, said
    assert done.stdout.rstrip().splitlines()[-1] == (
        "200 sent, 194 accepted, 4 refused, 2 dead-lettered, 0 lost, 0 doubled"
    )
    struck = re.findall(r"killed the worker \(pid \d+\) with SIGKILL: (\d+) runs interrupted", done.stdout)
    assert struck
    assert int(struck[-1]) > 0
    assert "2 malformed dead-lettered: Invalid" in done.stdout
    assert not (app / ".bema" / "dev.json").exists()


def _other_key_each_time(app: Path) -> None:
    """Pays twice where the provider's first answer is lost."""
    step = app / "steps" / "charge_payment_step.py"
    step.write_text(step.read_text().replace("key=ctx.run_id", 'key=f"{ctx.run_id}-{ctx.attempt}"'))


def _forgets_the_stock(app: Path) -> None:
    step = app / "steps" / "reserve_stock_step.py"
    step.write_text(step.read_text().replace("left[name] - quantity", "left[name]"))


@pytest.mark.parametrize(
    ("cheat", "violation", "sentence"),
    [
        pytest.param(_other_key_each_time, r"paid, expected 1 charge of", r", 0 lost, [1-9]\d* doubled$", id="charges"),
        pytest.param(_forgets_the_stock, r"sold, expected \d+ left, found", r", 0 lost, 0 doubled$", id="stock"),
    ],
)
def test_an_app_that_cheats_is_found_out(
    app: Path, cheat: Callable[[Path], None], violation: str, sentence: str
) -> None:
    before = {path: path.read_text() for path in app.rglob("*.py")}
    cheat(app)
    assert before != {path: path.read_text() for path in app.rglob("*.py")}
    done = _demo(app, 60)
    assert done.returncode == 1, f"{done.stdout}\n{done.stderr}"
    assert re.search(violation, done.stdout)
    assert re.search(sentence, done.stdout.rstrip())
