"""The programs that build images: docker where an engine answers, else buildah. The only module that runs them."""

import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from tools.cluster import commands, packages

_SECONDS = 1800


class Engine(Protocol):
    """What we need of a program that builds images. All methods raise `errors.CommandFailed`."""

    @property
    def name(self) -> str:
        """What to call it in messages."""

    def has(self, reference: str) -> bool:
        """Whether an image of that name is in the engine's store."""

    def from_tar(self, rootfs: Path, reference: str) -> None:
        """Make an image whose only layer is a tar of a root file system."""

    def build(self, dockerfile: Path, context: Path, reference: str, arguments: dict[str, str]) -> None:
        """Build a Dockerfile with build arguments, and name the result."""

    def save(self, reference: str, archive: Path) -> None:
        """Write the image to an archive that containerd imports under the same name."""


def find() -> Engine:
    """The engine of this machine. Raises `errors.CannotRunHere` when there is none."""
    if shutil.which("docker") and not commands.attempt(["docker", "version"], seconds=20).returncode:
        return Docker()
    packages.ensure({"buildah": "buildah", "mmdebstrap": "mmdebstrap"})
    return Buildah()


@dataclass(frozen=True)
class Docker:
    """A docker command whose engine answers."""

    @property
    def name(self) -> str:
        return "docker"

    def has(self, reference: str) -> bool:
        return not commands.attempt(["docker", "image", "inspect", reference]).returncode

    def from_tar(self, rootfs: Path, reference: str) -> None:
        commands.run(["docker", "import", rootfs, reference], seconds=_SECONDS)

    def build(self, dockerfile: Path, context: Path, reference: str, arguments: dict[str, str]) -> None:
        named: list[str | Path] = ["--file", dockerfile, "--tag", reference, *_arguments(arguments)]
        commands.run(["docker", "build", "--quiet", *named, context], seconds=_SECONDS)

    def save(self, reference: str, archive: Path) -> None:
        commands.run(["docker", "save", "--output", archive, reference], seconds=_SECONDS)


@dataclass(frozen=True)
class Buildah:
    """buildah as root. `chroot` isolation needs neither a runtime nor cgroups, and our builds need no more."""

    @property
    def name(self) -> str:
        return "buildah"

    def has(self, reference: str) -> bool:
        return not commands.attempt(["buildah", "inspect", "--type", "image", reference]).returncode

    def from_tar(self, rootfs: Path, reference: str) -> None:
        with tempfile.TemporaryDirectory(dir=rootfs.parent) as folder:
            context = Path(folder)
            (context / "rootfs.tar").hardlink_to(rootfs)
            dockerfile = context / "Dockerfile"
            dockerfile.write_text("FROM scratch\nADD rootfs.tar /\n")
            self.build(dockerfile, context, reference, {})

    def build(self, dockerfile: Path, context: Path, reference: str, arguments: dict[str, str]) -> None:
        command = ["buildah", "bud", "--isolation", "chroot", "--layers", "--format", "oci"]
        named: list[str | Path] = ["--file", dockerfile, "--tag", reference, *_arguments(arguments)]
        commands.run([*command, *named, context], seconds=_SECONDS)

    def save(self, reference: str, archive: Path) -> None:
        target = f"oci-archive:{archive}:{reference}"
        commands.run(["buildah", "push", "--quiet", reference, target], seconds=_SECONDS)


def _arguments(arguments: dict[str, str]) -> list[str]:
    return [word for key, value in sorted(arguments.items()) for word in ("--build-arg", f"{key}={value}")]
