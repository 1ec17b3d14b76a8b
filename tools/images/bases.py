"""The base image: what a Dockerfile's `ARG BASE` is set to, and which Python is in it.

On Debian it is made locally, from the package sources that this machine is configured with, so no registry has to be
within reach. Elsewhere, or when `$BEMA_BASE` names one (`python:3.13-slim`), it is an image of a registry.
"""

import hashlib
import os
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from tools.cluster import commands, errors, packages, paths, stages
from tools.images import engines

_PACKAGES = ("python3", "python3-venv", "ca-certificates")
_PYTHONS = {"bookworm": "3.11", "trixie": "3.13"}
_OPTIONS = (
    "--dpkgopt=path-exclude=/usr/share/doc/*",
    "--dpkgopt=path-exclude=/usr/share/man/*",
    "--dpkgopt=path-exclude=/usr/share/locale/*",
    # A node unpacks files one by one, and a third of them would be a Perl that nothing in our images calls.
    '--customize-hook=rm -rf "$1"/usr/share/perl "$1"/usr/lib/*-linux-gnu/perl "$1"/usr/lib/*-linux-gnu/libperl.so*',
    '--customize-hook=rm -rf "$1"/usr/lib/*-linux-gnu/gconv "$1"/usr/share/zoneinfo/right',
    '--customize-hook=rm -rf "$1"/usr/share/zoneinfo/posix "$1"/usr/share/info "$1"/usr/share/bash-completion',
    # Sources and proxies are this machine's, and may hold a password: no part of an image.
    '--customize-hook=rm -rf "$1"/etc/apt/apt.conf.d/99mmdebstrap "$1"/etc/apt/sources.list*',
    '--customize-hook=rm -f "$1"/etc/resolv.conf "$1"/etc/hostname',
)


@dataclass(frozen=True)
class Base:
    """An image to build from."""

    reference: str
    python: str
    """Its Python's major and minor version, such as `3.11`."""


def ensure(engine: engines.Engine) -> Base:
    """The base image, made when the engine does not have it. Raises `errors.CannotRunHere` when it cannot be made."""
    chosen = os.environ.get("BEMA_BASE")
    if chosen:
        return Base(chosen, _python_of(chosen))
    release = _release(Path("/etc/os-release").read_text())
    suite = release.get("VERSION_CODENAME", "")
    if release.get("ID") != "debian" or suite not in _PYTHONS:
        return Base("python:3.13-slim", "3.13")
    digest = hashlib.sha256(repr((suite, _PACKAGES, _OPTIONS)).encode()).hexdigest()[:12]
    base = Base(f"localhost/bema-base:{digest}", _PYTHONS[suite])
    if not engine.has(base.reference):
        rootfs = paths.cache() / "images" / f"base-{digest}.rootfs.tar"
        if not rootfs.exists():
            _make_rootfs(suite, rootfs)
        with stages.stage(f"base image {base.reference}"):
            engine.from_tar(rootfs, base.reference)
    return base


def source_files(suite: str, files: Iterable[Path]) -> list[Path]:
    """Those of apt's source files that are about the Debian suite itself, not about a third party's for it."""
    pattern = re.compile(rf"(?<![\w-]){re.escape(suite)}(?![\w-])")
    return [path for path in files if pattern.search(path.read_text())]


def _make_rootfs(suite: str, rootfs: Path) -> None:
    packages.ensure({"mmdebstrap": "mmdebstrap"})
    sources = source_files(suite, _apt_files())
    if not sources:
        raise errors.CannotRunHere(f"apt of this machine has no source for {suite}; set BEMA_BASE to an image")
    rootfs.parent.mkdir(parents=True, exist_ok=True)
    # mmdebstrap tells the format by the name's end.
    draft = rootfs.with_name(f"{rootfs.stem}.{os.getpid()}.draft.tar")
    options = [f"--aptopt={line}" for line in _acquire_options(commands.run(["apt-config", "dump"]))]
    command: list[str | Path] = ["mmdebstrap", "--quiet", "--variant=minbase", f"--include={','.join(_PACKAGES)}"]
    command += [*_OPTIONS, *options, suite, draft, *sources]
    with stages.stage(f"Debian {suite} root file system with Python (under a minute)"):
        try:
            commands.run(command, seconds=1200)
            draft.rename(rootfs)
        finally:
            draft.unlink(missing_ok=True)


def _apt_files() -> list[Path]:
    folder = Path("/etc/apt/sources.list.d")
    files = [Path("/etc/apt/sources.list"), *sorted(folder.glob("*.list")), *sorted(folder.glob("*.sources"))]
    return [path for path in files if path.is_file()]


def _acquire_options(dump: str) -> list[str]:
    """How this machine's apt reaches its sources: proxies, certificates, time-outs."""
    wanted = re.compile(r"^Acquire::(http|https|ftp)::[^ ]+ \".+\";$", re.IGNORECASE)
    return [line for line in dump.splitlines() if wanted.match(line)]


def _release(text: str) -> dict[str, str]:
    pairs = (line.partition("=") for line in text.splitlines() if "=" in line)
    return {key: value.strip('"') for key, _, value in pairs}


def _python_of(reference: str) -> str:
    found = re.search(r"python:(\d+\.\d+)", reference)
    if not found:
        raise errors.CannotRunHere(f"BEMA_BASE has to name its Python, as python:3.13-slim does; found {reference}")
    return found.group(1)
