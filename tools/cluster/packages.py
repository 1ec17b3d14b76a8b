"""What the machine must have: Linux, root, a few programs, and a file system for overlayfs.

In CI (`CI=true`) missing Debian packages are installed; a person is given the command instead.
"""

import os
import shutil
import sys
import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path

from tools.cluster import commands, components, errors, paths, stages

CNI_FOLDERS = (Path("/usr/lib/cni"), Path("/opt/cni/bin"))
CNI_PLUGINS = ("bridge", "host-local", "loopback", "portmap")

# Which package brings a program, on Debian and its descendants.
CLUSTER_PROGRAMS = {
    "containerd": "containerd",
    "ctr": "containerd",
    "containerd-shim-runc-v2": "containerd",
    "runc": "runc",
    "iptables": "iptables",
    "ip": "iproute2",
    "nsenter": "util-linux",
    "unshare": "util-linux",
    "mount": "mount",
}


def check() -> None:
    """Return when a cluster can run here; install packages in CI. Raises `errors.CannotRunHere` with one line."""
    if sys.platform != "linux":
        raise errors.CannotRunHere(f"the test cluster needs Linux; this is {sys.platform}")
    if os.geteuid() != 0:
        raise errors.CannotRunHere("the test cluster needs root for namespaces, links and mounts; run it with sudo")
    ensure(CLUSTER_PROGRAMS, extra=() if cni_folder() else ("containernetworking-plugins",))
    _check_bridge_filter()
    _check_not_hidden(paths.clusters_root(), paths.cache(), paths.REPOSITORY, Path(sys.prefix))
    _check_overlayfs(paths.clusters_root())


def cni_folder() -> Path | None:
    """The folder with the network plugins, if they are installed."""
    for folder in CNI_FOLDERS:
        if all((folder / plugin).exists() for plugin in CNI_PLUGINS):
            return folder
    return None


def ensure(programs: Mapping[str, str], extra: Iterable[str] = ()) -> None:
    """Make sure that the programs (name → package) are there. `extra` are packages known to be missing."""
    missing = sorted({package for program, package in programs.items() if not shutil.which(program)} | set(extra))
    if not missing:
        return
    command = ["apt-get", "install", "-y", "--no-install-recommends", *missing]
    if os.environ.get("CI", "").lower() not in ("true", "1") or os.geteuid() != 0 or not shutil.which("apt-get"):
        raise errors.CannotRunHere(f"packages are missing; type: {_as_root(command)}")
    with stages.stage(f"installing {', '.join(missing)}"):
        environment = dict(os.environ, DEBIAN_FRONTEND="noninteractive")
        commands.run(["apt-get", "update"], seconds=300, env=environment)
        commands.run(command, seconds=600, env=environment)


def _as_root(command: list[str]) -> str:
    """A command as this user has to type it."""
    return " ".join(command if os.geteuid() == 0 else ["sudo", *command])


def _check_bridge_filter() -> None:
    settings = Path("/proc/sys/net/bridge")
    if not settings.is_dir() and shutil.which("modprobe"):
        commands.attempt(["modprobe", "br_netfilter"])
    if not settings.is_dir():
        raise errors.CannotRunHere(
            f"the kernel module br_netfilter is missing; type: {_as_root(['modprobe', 'br_netfilter'])}"
        )


def _check_not_hidden(*needed: Path) -> None:
    for path in needed:
        for hidden in components.OWN_FOLDERS:
            if path.resolve().is_relative_to(hidden):
                raise errors.CannotRunHere(
                    f"{path} is needed inside the cluster, where {hidden} is covered; move it "
                    f"(BEMA_CLUSTERS and BEMA_CACHE choose folders)"
                )


def _check_overlayfs(root: Path) -> None:
    root.mkdir(parents=True, exist_ok=True, mode=0o700)
    with tempfile.TemporaryDirectory(prefix=".overlay-", dir=root) as folder:
        lower, upper, work, merged = (Path(folder) / name for name in ("lower", "upper", "work", "merged"))
        for path in (lower, upper, work, merged):
            path.mkdir()
        mount: list[str | Path] = [
            "mount",
            "-t",
            "overlay",
            "overlay",
            "-o",
            f"lowerdir={lower},upperdir={upper},workdir={work}",
            merged,
        ]
        # In a mount namespace of its own, which ends with the command.
        tried = commands.attempt(["unshare", "--mount", *mount])
    if tried.returncode:
        raise errors.CannotRunHere(
            f"overlayfs does not work on {root}; set BEMA_CLUSTERS to a folder on ext4 or xfs ({tried.stderr.strip()})"
        )
