"""Building the cluster's programs once, from Go modules, into a cache outside the repository.

All Kubernetes components are one binary that acts by the name it is called by; what is ours beside them is a module of
its own, with libraries of its own versions. The cache is keyed by the sources of each, so a change of a version builds
anew and going back costs nothing. A build is made in a draft folder and renamed when it is complete.
"""

import fcntl
import hashlib
import platform
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tools.cluster import errors, paths, stages, toolchains

KUBERNETES = "1.35.4"
COMPONENTS = (
    "kube-apiserver",
    "kube-controller-manager",
    "kube-scheduler",
    "kube-proxy",
    "kubelet",
    "kubectl",
    "etcd",
    "coredns",
)
_BUILD_SECONDS = 3600


@dataclass(frozen=True)
class Module:
    """A Go module of ours, whose programs are built and kept together."""

    name: str
    """What its folder in the cache begins with."""
    folder: Path
    sources: tuple[str, ...]
    programs: tuple[tuple[str, str, str], ...]
    """File name, Go package, and the linker's flags beyond those for a small file."""

    def target(self) -> Path:
        """The folder of the finished programs for the sources as they are now, whether it exists or not."""
        digest = hashlib.sha256(f"{KUBERNETES} {platform.machine()}".encode())
        for source in self.sources:
            digest.update((self.folder / source).read_bytes())
        return _home() / f"{self.name}-{digest.hexdigest()[:16]}"


def _version_flags() -> str:
    """Without them, Kubernetes takes itself for version 0."""
    major, minor, _ = KUBERNETES.split(".")
    names = {"gitVersion": f"v{KUBERNETES}", "gitMajor": major, "gitMinor": minor}
    return " ".join(f"-X k8s.io/component-base/version.{name}={value}" for name, value in names.items())


BASE = Module(
    "bin",
    paths.GO_SOURCES,
    ("go.mod", "go.sum", "main.go", "pause/main.go"),
    (("pause", "./pause", ""), ("hyperkube", ".", _version_flags())),
)
ADDONS = Module("addons", paths.ADDON_SOURCES, ("go.mod", "go.sum", "main.go"), (("netpol", ".", ""),))
_MODULES = (BASE, ADDONS)


def programs() -> paths.Programs:
    """Where the finished programs are for the sources as they are now, whether they exist or not."""
    return paths.Programs(base=BASE.target(), addons=ADDONS.target())


def log() -> Path:
    """What the build says; each build starts it anew."""
    return _home() / "build.log"


def is_built() -> bool:
    return not _missing()


def build() -> paths.Programs:
    """Where the programs are; builds them first when necessary, and lets other callers wait meanwhile.

    Raises `errors.BuildFailed` with the tail of the log.
    """
    if _missing():
        with _locked():
            _remove_drafts()
            _compile(_missing())
    return programs()


def _missing() -> list[Module]:
    return [module for module in _MODULES if not module.target().is_dir()]


def start_in_background() -> int | None:
    """Start `build` as a process that outlives this one; its pid, or None when there is nothing to build.

    `wait` tells how it went.
    """
    if is_built():
        return None
    running = background_pid()
    if running is not None:
        return running
    _home().mkdir(parents=True, exist_ok=True)
    _outcome().unlink(missing_ok=True)
    with (_home() / "background.log").open("w") as output:
        process = subprocess.Popen(
            ["nice", "-n", "10", sys.executable, "-m", "tools.cluster", "build"],
            cwd=paths.REPOSITORY,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    _pid_file().write_text(f"{process.pid} {_start_time(process.pid)}")
    return process.pid


def background_pid() -> int | None:
    """The pid of the build that runs in the background, if one does."""
    try:
        pid, started = _pid_file().read_text().split()
    except (FileNotFoundError, ValueError):
        return None
    return int(pid) if _start_time(int(pid)) == started else None


def wait() -> paths.Programs:
    """Wait for a build that somebody started, showing progress; build here when none runs.

    Raises `errors.BuildFailed` with the tail of the log if it failed.
    """
    if background_pid() is None and not is_built() and _outcome().exists():
        raise errors.BuildFailed(f"the build in the background failed: {_outcome().read_text()}")
    started = time.monotonic()
    while not is_built() and background_pid() is not None:
        _until_next_line(started, lambda: is_built() or background_pid() is None)
    if not is_built() and _outcome().exists():
        raise errors.BuildFailed(f"the build in the background failed: {_outcome().read_text()}")
    return build()


def _home() -> Path:
    return paths.cache() / "cluster"


def _pid_file() -> Path:
    return _home() / "build.pid"


def _outcome() -> Path:
    """Exists after a build of these sources that failed, and says how."""
    found = programs()
    return found.base.with_name(f"{found.base.name}-{found.addons.name}.failed")


@contextmanager
def _locked() -> Iterator[None]:
    _home().mkdir(parents=True, exist_ok=True)
    with (_home() / "build.lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            stages.say(f"another process builds the programs (log: {log()}); waiting for it")
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _remove_drafts() -> None:
    # We hold the lock, so every draft is from a build that died.
    for draft in _home().glob("*.draft"):
        shutil.rmtree(draft)


def _compile(missing: list[Module]) -> None:
    if not missing:
        return  # somebody else built them while we waited
    go = toolchains.find()
    _outcome().unlink(missing_ok=True)
    stages.say(f"building the programs with {go} (7 minutes from nothing on 2 cores); log: {log()}")
    started = time.monotonic()
    with log().open("w") as output:
        for module in missing:
            _compile_module(go, module, output.fileno())
    stages.say(f"built the programs: {time.monotonic() - started:.0f} s")


def _compile_module(go: Path, module: Module, log_fd: int) -> None:
    target = module.target()
    draft = target.with_name(f"{target.name}.draft")
    draft.mkdir()
    for name, package, flags in module.programs:
        _go_build(go, module.folder, draft / name, package, f"-s -w {flags}".strip(), log_fd)
    if module is BASE:
        for name in COMPONENTS:
            (draft / name).symlink_to("hyperkube")
    draft.rename(target)


def _go_build(go: Path, folder: Path, output: Path, package: str, flags: str, log_fd: int) -> None:
    process = subprocess.Popen(
        [go, "build", "-v", "-buildvcs=false", "-trimpath", "-o", output, "-ldflags", flags, package],
        cwd=folder,
        env=toolchains.environment(),
        stdin=subprocess.DEVNULL,
        stdout=log_fd,
        stderr=subprocess.STDOUT,
    )
    started = time.monotonic()
    try:
        while process.poll() is None:
            _until_next_line(started, lambda: process.poll() is not None)
            if time.monotonic() - started > _BUILD_SECONDS:
                raise errors.TimedOut(f"waited {_BUILD_SECONDS} s for `go build {package}`; log: {log()}")
    finally:
        process.kill()
    if process.wait():
        message = f"`go build {package}` ended with code {process.returncode}; {log()} ends with\n{_log_tail()}"
        _outcome().write_text(message)
        raise errors.BuildFailed(message)


def _until_next_line(started: float, is_over: Callable[[], bool]) -> None:
    """Return after 15 seconds with a line of progress, or at once when it is over."""
    deadline = time.monotonic() + 15
    while time.monotonic() < deadline:
        if is_over():
            return
        time.sleep(0.2)
    lines = log().read_text(errors="replace").splitlines() if log().exists() else []
    compiled = sum(1 for line in lines if not line.startswith("go: "))
    last = lines[-1] if lines else "starting"
    stages.say(f"  building: {time.monotonic() - started:.0f} s, {compiled} packages compiled; {last[:100]}")


def _log_tail() -> str:
    return "\n".join(log().read_text(errors="replace").splitlines()[-20:])


def _start_time(pid: int) -> str | None:
    """When the process started, in the kernel's ticks; together with the pid it names a process for good."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return None
    return None if fields[0] == "Z" else fields[19]
