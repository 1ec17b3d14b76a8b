"""The first process inside a node's box: prepares mounts and network, then keeps the components running.

Usage: `python -m tools.cluster.inits SCRIPT.json`, only ever from `boxes`, inside fresh namespaces. It uses the
standard library only, because it stays in memory as long as the cluster is up. It collects orphans (containerd's shims
leave some), starts a component that ended again after a second, and reports to a status file.
"""

import json
import os
import signal
import ssl
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

RESTART_SECONDS = 1.0
PROBE_SECONDS = 0.05


def main() -> None:
    """Run the script until somebody kills this process, and the whole box with it."""
    # Kept back from now on, so that no death of a child is missed between two looks.
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGCHLD})
    script = json.loads(Path(sys.argv[1]).read_text())
    prepare_mounts(script)
    subprocess.run(["hostname", script["hostname"]], check=True)
    wait_for_cable()
    for command in script["network"]:
        subprocess.run(command, check=True)
    Supervisor(script).run()


def prepare_mounts(script: dict[str, Any]) -> None:
    """Give the box folders of its own where programs insist on fixed paths, without making any of them on the host."""
    # Kubelets pass volumes on to containers through shared mounts; they are shared within this box only.
    mount("--make-rshared", "/")
    for folder in script["own_folders"]:
        mount("-t", "tmpfs", "-o", "mode=0755", "tmpfs", folder)
    for folder in script["fixed_folders"]:
        Path(folder).mkdir(parents=True)
    for setting, value in script["kernel_settings"].items():
        own = Path("/run/bema-settings") / setting.lstrip("/")
        own.parent.mkdir(parents=True, exist_ok=True)
        own.write_text(value)
        if Path(setting).exists():
            mount("--bind", str(own), setting)


def mount(*arguments: str) -> None:
    subprocess.run(["mount", *arguments], check=True)


def wait_for_cable(seconds: float = 20) -> None:
    """Wait until the host has put `eth0` into this network namespace."""
    deadline = time.monotonic() + seconds
    while "eth0:" not in Path("/proc/net/dev").read_text():
        if time.monotonic() > deadline:
            sys.exit(f"waited {seconds:g} s for eth0 to appear in this box")
        time.sleep(0.01)


class Supervisor:
    """Starts the components, starts them again, and writes down what happens."""

    def __init__(self, script: dict[str, Any]) -> None:
        self.script = script
        self.running: dict[int, str] = {}
        self.due: dict[str, float] = {component["name"]: 0.0 for component in script["components"]}
        self.starts: dict[str, int] = dict.fromkeys(self.due, 0)
        self.last_exit: dict[str, int] = {}
        self.api_is_ready = False
        self.context = ssl.create_default_context(cafile=script["authority"])

    def run(self) -> None:
        """Look after the components for ever."""
        while True:
            self.collect()
            self.start_what_is_due()
            self.report()
            pause = self.seconds_to_next_look()
            if pause is None:
                signal.sigwaitinfo({signal.SIGCHLD})
            else:
                signal.sigtimedwait({signal.SIGCHLD}, pause)

    def seconds_to_next_look(self) -> float | None:
        """None when only a child's death can bring work."""
        if not self.due:
            return None
        if not self.api_is_ready:
            return PROBE_SECONDS
        return max(0.01, min(self.due.values()) - time.monotonic())

    def collect(self) -> None:
        """Take note of every child that ended, ours or adopted."""
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            name = self.running.pop(pid, None)
            if name is not None:
                self.last_exit[name] = os.waitstatus_to_exitcode(status)
                self.due[name] = time.monotonic() + RESTART_SECONDS

    def start_what_is_due(self) -> None:
        if not self.api_is_ready and "apiserver" not in self.due:
            self.api_is_ready = self.probe()
        for component in self.script["components"]:
            name = component["name"]
            gated = component["needs_api"] and not self.api_is_ready
            if name in self.due and self.due[name] <= time.monotonic() and not gated:
                self.start(name, component["argv"])

    def start(self, name: str, argv: list[str]) -> None:
        log = os.open(f"{self.script['logs']}/{name}.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        if self.starts[name]:
            os.write(log, f"[init] {name} ended with {self.last_exit.get(name)}; starting it again\n".encode())
        actions = [(os.POSIX_SPAWN_DUP2, log, 1), (os.POSIX_SPAWN_DUP2, log, 2)]
        # Python ignores SIGPIPE and we hold back SIGCHLD; a component starts as if from a shell.
        pid = os.posix_spawnp(
            argv[0], argv, os.environ, file_actions=actions, setsid=True, setsigmask=[], setsigdef=[signal.SIGPIPE]
        )
        os.close(log)
        self.running[pid] = name
        self.starts[name] += 1
        del self.due[name]

    def probe(self) -> bool:
        """Whether the API server answers that it is ready (a question that everybody may ask)."""
        try:
            with urllib.request.urlopen(self.script["ready_url"], timeout=2, context=self.context) as answer:
                return bool(answer.status == 200)
        except (urllib.error.URLError, OSError):
            return False

    def report(self) -> None:
        """Write the status file: component → pid in the box (null when it does not run), starts, last exit code."""
        pids = {name: pid for pid, name in self.running.items()}
        status = {
            name: {"pid": pids.get(name), "starts": count, "last_exit": self.last_exit.get(name)}
            for name, count in self.starts.items()
        }
        path = Path(self.script["status"])
        draft = path.with_suffix(".draft")
        draft.write_text(json.dumps(status))
        draft.replace(path)


if __name__ == "__main__":
    main()
