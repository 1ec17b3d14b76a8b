"""Wheels for images: our distributions, built here, and what they depend on, in the versions of the constraints file.

They are laid out in the build context, so that an image builds without a network:

    build/wheels/<image>/own/*.whl            changes with every change of ours
    build/wheels/<image>/dependencies/*.whl   changes with the constraints file
"""

import hashlib
import importlib.util
import os
import platform
import re
import shutil
import sys
import zipfile
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from email.parser import HeaderParser
from pathlib import Path

from tools.cluster import commands, errors, paths, stages

_NEWEST_GLIBC = 36  # Debian 12's; an image with an older one is not supported
_OLDEST_GLIBC = 17
_EPOCH = "1577836800"  # 2020-01-01: a wheel is the same file whenever it is built


@dataclass(frozen=True)
class Request:
    """What goes into an image."""

    own: Sequence[Path] = ()
    """Folders of distributions, each with a pyproject.toml."""
    requirements: Sequence[str] = ()
    """Further distributions by name."""
    constraints: Path = paths.REPOSITORY / "constraints.txt"
    python: str = "3.11"
    """The version of Python in the image."""


def prepare(request: Request, destination: Path) -> None:
    """Fill `destination` with `own/` and `dependencies/`, from the cache where possible; nothing else stays in them.

    Raises `errors.CommandFailed` with pip's words when a distribution does not build or a wheel cannot be had.
    """
    own = [_own_wheel(folder.resolve()) for folder in request.own]
    _mirror(own, destination / "own")
    _mirror(_dependencies(request, own), destination / "dependencies")


def source_digest(folder: Path) -> str:
    """A digest of everything in a distribution's folder that can get into its wheel."""
    digest = hashlib.sha256()
    for path in sorted(folder.rglob("*")):
        relative = path.relative_to(folder)
        ignored = any(part.startswith(".") or part in ("__pycache__", "build", "dist") for part in relative.parts)
        if path.is_file() and not ignored and not any(part.endswith(".egg-info") for part in relative.parts):
            digest.update(f"{relative}\0{path.stat().st_size}\0".encode() + path.read_bytes())
    return digest.hexdigest()[:16]


def platforms(machine: str) -> list[str]:
    """The platform tags that run on the image, best first. pip does not derive the older ones by itself."""
    numbered = [f"manylinux_2_{minor}_{machine}" for minor in range(_NEWEST_GLIBC, _OLDEST_GLIBC - 1, -1)]
    return [*numbered, f"manylinux2014_{machine}", f"linux_{machine}"]


def requirements_of(wheel: Path) -> list[str]:
    """What a wheel's metadata say that it depends on."""
    with zipfile.ZipFile(wheel) as archive:
        name = next(name for name in archive.namelist() if name.endswith(".dist-info/METADATA"))
        return HeaderParser().parsestr(archive.read(name).decode()).get_all("Requires-Dist", [])


def _own_wheel(folder: Path) -> Path:
    target = paths.cache() / "wheels" / "own" / f"{folder.parent.name}-{folder.name}-{source_digest(folder)}"
    if not target.is_dir():
        with stages.stage(f"wheel of {folder.parent.name}/{folder.name}"):
            _make(target, lambda draft: _pip(*_wheel_command(folder, draft)))
    return _single(target)


def _wheel_command(folder: Path, draft: Path) -> list[str | Path]:
    # Isolation fetches the build backend for each wheel; with the backend at hand that is a waste, and needs a network.
    isolation = ["--no-build-isolation"] if importlib.util.find_spec("hatchling") else []
    return ["wheel", "--quiet", "--no-deps", *isolation, "--wheel-dir", draft, folder]


def _dependencies(request: Request, own: Sequence[Path]) -> list[Path]:
    wanted = sorted({*request.requirements, *(line for wheel in own for line in requirements_of(wheel))})
    constraints = request.constraints.read_text()
    key = repr((wanted, constraints, request.python, platform.machine(), [wheel.name for wheel in own]))
    target = paths.cache() / "wheels" / "dependencies" / hashlib.sha256(key.encode()).hexdigest()[:16]
    if not target.is_dir():
        with stages.stage(f"wheels that {_names(own, request)} depend on"):
            _make(target, lambda draft: _download(request, own, draft))
    return sorted(target.glob("*.whl"))


def _download(request: Request, own: Sequence[Path], draft: Path) -> None:
    tags = [word for tag in platforms(platform.machine()) for word in ("--platform", tag)]
    target = ["--python-version", request.python, "--implementation", "cp", *tags, "--only-binary", ":all:"]
    links = [word for wheel in own for word in ("--find-links", str(wheel.parent))]
    places = ["--dest", str(draft), "--constraint", str(request.constraints), *links]
    _pip("download", "--quiet", *places, *target, *map(str, own), *request.requirements)
    for wheel in own:
        (draft / wheel.name).unlink(missing_ok=True)


def _pip(*arguments: str | Path) -> None:
    environment = dict(os.environ, SOURCE_DATE_EPOCH=_EPOCH, PIP_DISABLE_PIP_VERSION_CHECK="1")
    commands.run([sys.executable, "-m", "pip", *arguments], seconds=900, env=environment)


def _make(target: Path, fill: Callable[[Path], None]) -> None:
    """Fill a folder of the cache all or nothing."""
    draft = target.with_name(f"{target.name}.{os.getpid()}.draft")
    draft.mkdir(parents=True)
    try:
        fill(draft)
        draft.rename(target)
    except OSError:
        if not target.is_dir():  # else another process was faster
            raise
    finally:
        shutil.rmtree(draft, ignore_errors=True)


def _single(folder: Path) -> Path:
    found = list(folder.glob("*.whl"))
    if len(found) != 1:
        raise errors.CommandFailed(f"expected one wheel in {folder}, found {len(found)}; remove that folder")
    return found[0]


def _mirror(files: Iterable[Path], folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    wanted = {path.name: path for path in files}
    for stray in set(os.listdir(folder)) - set(wanted):
        (folder / stray).unlink()
    for name, path in wanted.items():
        if not (folder / name).exists() or (folder / name).read_bytes() != path.read_bytes():
            shutil.copyfile(path, folder / name)


def _names(own: Sequence[Path], request: Request) -> str:
    return " and ".join([*(re.split("-", wheel.name)[0] for wheel in own), *request.requirements])
