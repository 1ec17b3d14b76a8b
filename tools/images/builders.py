"""Building an image to an archive, at no cost when nothing in it has changed."""

import hashlib
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from tools.cluster import paths, stages
from tools.images import bases, engines

_KEPT = 3
"""How many archives of one image stay in the cache."""


@dataclass(frozen=True)
class Built:
    """An image in an archive that `tools.cluster load` takes."""

    reference: str
    archive: Path

    @property
    def mebibytes(self) -> float:
        """The archive's size, uncompressed layers and all."""
        return self.archive.stat().st_size / 2**20


def build(dockerfile: Path, *, context: Path, reference: str, arguments: Mapping[str, str] | None = None) -> Built:
    """Build `dockerfile` on our base image and save it under `reference` (`localhost/bema-runtime:dev`).

    `arguments` are further build arguments; BASE is set here. Raises `errors.ClusterError`.
    """
    engine = engines.find()
    base = bases.ensure(engine)
    return build_on(base, engine, dockerfile, context=context, reference=reference, arguments=arguments)


def build_on(
    base: bases.Base,
    engine: engines.Engine,
    dockerfile: Path,
    *,
    context: Path,
    reference: str,
    arguments: Mapping[str, str] | None = None,
) -> Built:
    """Like `build`, with a base and an engine that are known already."""
    all_arguments = {**(arguments or {}), "BASE": base.reference}
    digest = content_digest(dockerfile.read_text(), context, repr((reference, sorted(all_arguments.items()))))
    stem = re.sub(r"[^a-z0-9]+", "-", reference.partition(":")[0].rpartition("/")[2])
    archive = paths.cache() / "images" / f"{stem}-{digest}.tar"
    built = Built(reference, archive)
    if archive.exists():
        archive.touch()
        stages.say(f"image {reference}: unchanged ({built.mebibytes:.0f} MiB)")
        return built
    archive.parent.mkdir(parents=True, exist_ok=True)
    with stages.stage(f"image {reference} with {engine.name}"):
        engine.build(dockerfile, context, reference, all_arguments)
        draft = archive.with_name(f"{archive.name}.{os.getpid()}.draft")
        try:
            engine.save(reference, draft)
            draft.rename(archive)
        finally:
            draft.unlink(missing_ok=True)
    stages.say(f"image {reference}: {built.mebibytes:.0f} MiB in {archive}")
    _remove_old(archive.parent, stem)
    return built


def content_digest(dockerfile: str, context: Path, more: str) -> str:
    """A digest of all that decides what an image becomes: the Dockerfile, what it copies in, and its arguments."""
    digest = hashlib.sha256(f"{dockerfile}\0{more}\0".encode())
    for source in copied(dockerfile):
        top = context / source
        for path in sorted([top, *top.rglob("*")]):
            if path.is_file():
                executable = os.access(path, os.X_OK)
                digest.update(f"{path.relative_to(context)}\0{executable}\0".encode())
                digest.update(hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()[:16]


def copied(dockerfile: str) -> list[str]:
    """The paths that a Dockerfile copies from its context."""
    found = []
    for line in re.sub(r"\\\n", " ", dockerfile).splitlines():
        words = line.split()
        if words and words[0].upper() in ("COPY", "ADD") and not any(word.startswith("--from=") for word in words):
            found += [word for word in words[1:-1] if not word.startswith("--")]
    return found


def _remove_old(folder: Path, stem: str) -> None:
    archives = [
        path for path in folder.glob(f"{stem}-*.tar") if re.fullmatch(rf"{stem}-[0-9a-f]{{16}}\.tar", path.name)
    ]
    for path in sorted(archives, key=lambda path: path.stat().st_mtime)[:-_KEPT]:
        path.unlink()
