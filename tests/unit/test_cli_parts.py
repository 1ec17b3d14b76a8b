"""The small parts of `bema dev`: processes, its folder, its sockets, its watch, its environment."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer
import watchfiles
from watchfiles import Change

from bema.contract import letters
from bema_cli import options, processes, sockets, watches
from bema_cli.processes import Identity
from bema_cli.workspaces import AlreadyRunning, NotRunning, NoWorkspace, Process, Record, Workspace


@pytest.fixture
def sleeper() -> Iterator[subprocess.Popen[bytes]]:
    """A process in a group of its own that waits until it is killed."""
    process = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE, process_group=0)
    yield process
    process.kill()
    process.wait()
    assert process.stdin is not None
    process.stdin.close()


def test_a_process_is_killed_only_when_it_is_the_very_one(sleeper: subprocess.Popen[bytes]) -> None:
    identity = processes.identify(sleeper.pid)
    assert processes.is_alive(identity)
    later = Identity(sleeper.pid, identity.started + "1")
    assert not processes.kill(later)
    assert sleeper.poll() is None
    assert processes.kill(identity)
    assert sleeper.wait(10) == -signal.SIGKILL
    assert not processes.is_alive(identity)
    assert not processes.kill(identity)


@pytest.mark.parametrize(
    ("code", "words"),
    [(None, "still running"), (0, "exit code 0"), (3, "exit code 3"), (-9, "signal SIGKILL"), (-63, "signal 63")],
)
def test_how_a_process_ended_in_words(code: int | None, words: str) -> None:
    assert processes.ending(code) == words


def test_a_folder_is_held_once_and_what_was_left_in_it_is_ended(
    tmp_path: Path, sleeper: subprocess.Popen[bytes]
) -> None:
    workspace = Workspace(tmp_path)
    workspace.root.mkdir()
    (workspace.run / "nats").mkdir(parents=True)
    me, left = processes.identify(os.getpid()), processes.identify(sleeper.pid)
    record = Record(app="shop", supervisor=Process.of(me), children=[Process.of(left)], url="http://127.0.0.1:3000")
    workspace.write(record)
    with workspace.held():
        assert sleeper.wait(10) == -signal.SIGKILL
        assert not workspace.run.exists()
        assert workspace.record() is None
        with pytest.raises(AlreadyRunning, match=f"`bema dev` is already starting in {tmp_path}"), workspace.held():
            pass
        workspace.write(record)
        assert workspace.running() == record
        with (
            pytest.raises(AlreadyRunning, match=rf"already runs in {tmp_path} \(pid {me.pid}, http://127.0.0.1:3000\)"),
            workspace.held(),
        ):
            pass
        assert workspace.running() == record
    with pytest.raises(NotRunning, match=f"expected `bema dev` to run in {tmp_path}, found none"):
        workspace.running()
    with workspace.held():
        pass


def test_a_record_of_somebody_dead_is_nobody_running(tmp_path: Path) -> None:
    workspace = Workspace(tmp_path)
    workspace.root.mkdir()
    workspace.write(Record(app="shop", supervisor=Process(pid=os.getpid(), started="long ago")))
    with pytest.raises(NotRunning):
        workspace.running()


def test_the_next_free_port_is_taken() -> None:
    with sockets.listen("127.0.0.1", 0) as first, sockets.listen_from("127.0.0.1", sockets.port_of(first)) as second:
        assert sockets.port_of(second) > sockets.port_of(first)
        assert sockets.bound(second).fd == second.fileno()


def test_a_taken_port_is_said() -> None:
    with sockets.listen("127.0.0.1", 0) as taken:
        port = sockets.port_of(taken)
        with pytest.raises(sockets.PortTaken, match=f"expected port {port} to be free on 127.0.0.1, found it taken"):
            sockets.listen("127.0.0.1", port)


@pytest.mark.parametrize(
    ("host", "said"),
    [
        ("no-such-host.invalid", "--host: expected a name or an address of this machine, found 'no-such-host.invalid'"),
        ("192.0.2.1", "expected to listen on 192.0.2.1 port 3000, found: Cannot assign requested address"),
    ],
)
def test_an_address_of_another_machine_is_said(host: str, said: str) -> None:
    with pytest.raises(sockets.CannotListen, match=said):
        sockets.listen(host, 3000)


def test_a_folder_that_takes_no_workspace_is_said(tmp_path: Path) -> None:
    (tmp_path / ".bema").write_text("mine")
    with (
        pytest.raises(NoWorkspace, match=r"expected a folder .*/\.bema to write to, found none"),
        Workspace(tmp_path).held(),
    ):
        pass
    assert (tmp_path / ".bema").read_text() == "mine"


def test_an_interrupt_while_it_is_still_importing_is_quiet() -> None:
    code = """
import os, signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)
class Slow:
    def find_spec(self, name, path=None, target=None):
        if name == "typer":
            os.kill(os.getpid(), signal.SIGINT)
sys.meta_path.insert(0, Slow())
from bema_cli.__main__ import main
main()
"""
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=30, check=False)
    assert (ended.returncode, ended.stdout, ended.stderr) == (130, "", "")


@pytest.mark.parametrize(
    ("host", "url"),
    [
        ("127.0.0.1", "http://127.0.0.1:3000"),
        ("0.0.0.0", "http://127.0.0.1:3000"),
        ("::", "http://[::1]:3000"),
        ("fe80::1", "http://[fe80::1]:3000"),
        ("localhost", "http://localhost:3000"),
    ],
)
def test_a_url_works_on_this_machine(host: str, url: str) -> None:
    assert sockets.url(host, 3000) == url


def test_sockets_may_be_of_version_6() -> None:
    try:
        with socket.socket(socket.AF_INET6) as bare:
            bare.bind(("::1", 0))
    except OSError:
        pytest.skip("no IPv6 here")
    with sockets.listen("::1", 0) as opened:
        assert opened.family is socket.AF_INET6


@pytest.mark.parametrize(
    ("change", "path", "expected"),
    [
        (Change.modified, "lib/money.py", True),
        (Change.deleted, "steps/a_step.py", True),
        (Change.added, "steps/a.step.yaml", True),
        (Change.added, "steps/a.step.ts", True),
        (Change.modified, ".env", True),
        (Change.added, "app.yaml", True),
        (Change.added, "folder", True),
        (Change.deleted, "gone", True),
        (Change.added, "__pycache__", False),
        (Change.added, ".bema", False),
        (Change.modified, "readme.md", False),
        (Change.deleted, "readme.md", False),
        (Change.modified, "data.json", False),
        (Change.modified, "a.py.swp", False),
    ],
)
def test_which_changes_matter(tmp_path: Path, change: Change, path: str, expected: bool) -> None:
    for folder in ("folder", "__pycache__", ".bema"):
        (tmp_path / folder).mkdir()
    assert watches.matters(change, str(tmp_path / path)) is expected


async def test_a_system_that_cannot_watch_is_asked_now_and_then(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = watchfiles.main.RustNotify

    def refusing(paths: Any, debug: bool, polling: bool, *rest: Any) -> Any:
        if not polling:
            raise OSError("limit of watches reached")
        return real(paths, debug, polling, *rest)

    monkeypatch.setattr(watchfiles.main, "RustNotify", refusing)
    heard = asyncio.Event()
    watch = watches.Watch(tmp_path, heard.set)
    try:
        async with asyncio.timeout(20):
            assert not await watch.wait_watching()
            (tmp_path / "a.py").write_text("a = 1")
            await heard.wait()
    finally:
        await watch.stop()


def test_the_shell_wins_over_the_env_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / ".env").write_text("BOTH=file\nFILE='a b'\nEMPTY=\nNOTHING\n")
    monkeypatch.setenv("BOTH", "shell")
    env = options.env_of(tmp_path)
    assert (env["BOTH"], env["FILE"], env["EMPTY"]) == ("shell", "a b", "")
    assert "NOTHING" not in env


def test_an_app_is_named_after_its_folder() -> None:
    assert options.app_of(Path("/home/ann/My_Shop")) == "my-shop"


NOW = letters.moment("2026-01-10T12:00:00Z")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (None, None),
        ("90s", letters.moment("2026-01-10T11:58:30Z")),
        ("15m", letters.moment("2026-01-10T11:45:00Z")),
        ("2h", letters.moment("2026-01-10T10:00:00Z")),
        ("7d", letters.moment("2026-01-03T12:00:00Z")),
        ("1w", letters.moment("2026-01-03T12:00:00Z")),
        ("2026-01-09T13:00:00.25+01:00", letters.moment("2026-01-09T12:00:00.25Z")),
    ],
)
def test_a_time_as_a_person_writes_it(text: str | None, expected: Any) -> None:
    assert options.moment(text, NOW, hint="--since") == expected


TIMELESS = ["", "2", "h", "2y", "-2h", "yesterday", "2026-01-09", "2026-01-09T13:00:00"]
BEFORE_ALL_TIME = ["999999w", "999999d", "9" * 30 + "s", "99999-01-01T00:00:00Z"]


@pytest.mark.parametrize("text", [*TIMELESS, *BEFORE_ALL_TIME])
def test_what_is_no_time_is_said(text: str) -> None:
    with pytest.raises(typer.BadParameter, match="expected a time such as 2026-01-31T09:00:00Z, or 2h for two hours"):
        options.moment(text, NOW, hint="--since")
