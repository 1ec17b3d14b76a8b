"""Images for the nodes: the pause image, and the import of archives into a running node."""

import hashlib
import io
import json
import platform
import tarfile
from pathlib import Path

from tools.cluster import boxes, commands, errors, paths, waits

_ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64"}


def load(layout: paths.Layout, identity: str, index: int, archive: Path) -> list[str]:
    """Import an OCI or Docker archive into a node, and wait until its kubelet can use it. The images' names.

    Raises `errors.CommandFailed` when the archive is missing or names no image.
    """
    if not archive.is_file():
        raise errors.CommandFailed(f"there is no image archive {archive}")
    named = names_in(archive)
    if not named:
        raise errors.CommandFailed(f"{archive} names no image; save it under a name, as `localhost/bema-x:dev`")
    _ctr(layout, identity, index, "images", "import", str(archive.resolve()), seconds=300)
    waits.until(
        lambda: _offered(named, _images(layout, identity, index)),
        what=f"containerd to offer {', '.join(named)} to the kubelet",
        seconds=20,
    )
    return named


def names_in(archive: Path) -> list[str]:
    """The images' names in an OCI archive (buildah's) or a Docker archive (docker's, which may be both)."""
    with tarfile.open(archive) as opened:
        members = {member.name.removeprefix("./"): member for member in opened}
        documents = {}
        for name in ("manifest.json", "index.json"):
            content = opened.extractfile(members[name]) if name in members else None
            documents[name] = json.load(content) if content else None
    if documents["manifest.json"]:
        return [name for image in documents["manifest.json"] for name in image["RepoTags"] or []]
    listed = (documents["index.json"] or {}).get("manifests", [])
    annotations = [manifest.get("annotations", {}) for manifest in listed]
    return [name for one in annotations if (name := one.get("org.opencontainers.image.ref.name"))]


def write_single(program: Path, reference: str, archive: Path) -> None:
    """Write an image of one static program and nothing else, as an OCI archive."""
    layer = _tar({program.name: program.read_bytes()}, mode=0o755)
    architecture = _ARCHITECTURES.get(platform.machine(), platform.machine())
    config = {
        "architecture": architecture,
        "os": "linux",
        "config": {"Entrypoint": [f"/{program.name}"], "User": "65535:65535"},
        "rootfs": {"type": "layers", "diff_ids": [_digest(layer)]},
    }
    blobs: dict[str, bytes] = {}
    manifest = {
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": _blob(blobs, "application/vnd.oci.image.config.v1+json", json.dumps(config).encode()),
        "layers": [_blob(blobs, "application/vnd.oci.image.layer.v1.tar", layer)],
    }
    described = _blob(blobs, "application/vnd.oci.image.manifest.v1+json", json.dumps(manifest).encode())
    index = {
        "schemaVersion": 2,
        "manifests": [{**described, "annotations": {"org.opencontainers.image.ref.name": reference}}],
    }
    files = {"oci-layout": b'{"imageLayoutVersion": "1.0.0"}', "index.json": json.dumps(index).encode()}
    files |= {f"blobs/sha256/{digest}": data for digest, data in blobs.items()}
    archive.write_bytes(_tar(files, mode=0o644))


def wait_for_containerd(layout: paths.Layout, identity: str, index: int) -> None:
    """Wait until the node's containerd answers, with its Kubernetes part."""
    command = [*boxes.enter(identity, index), *_ctr_words(layout, index), "version"]
    waits.until(
        lambda: commands.attempt(command).returncode == 0,
        what=f"containerd on node {index} to answer (log: {layout.logs(index)}/containerd.log)",
        seconds=20,
    )


def _offered(wanted: list[str], found: dict[str, str]) -> bool:
    """Whether containerd's Kubernetes part has taken note of the images, which it does a moment after the import."""
    return all("io.cri-containerd.image=managed" in found.get(name, "") for name in wanted)


def _ctr_words(layout: paths.Layout, index: int) -> list[str]:
    return ["ctr", "--address", str(layout.containerd_socket(index)), "--namespace", "k8s.io"]


def _ctr(layout: paths.Layout, identity: str, index: int, *arguments: str, seconds: float = 60) -> str:
    return boxes.run(identity, index, *_ctr_words(layout, index), *arguments, seconds=seconds)


def _images(layout: paths.Layout, identity: str, index: int) -> dict[str, str]:
    """The images of a node: name → the line that `ctr` shows, labels included."""
    lines = _ctr(layout, identity, index, "images", "list").splitlines()[1:]
    return {line.split()[0]: line for line in lines if line.strip()}


def _blob(blobs: dict[str, bytes], media_type: str, data: bytes) -> dict[str, object]:
    digest = _digest(data)
    blobs[digest.removeprefix("sha256:")] = data
    return {"mediaType": media_type, "digest": digest, "size": len(data)}


def _digest(data: bytes) -> str:
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


def _tar(files: dict[str, bytes], *, mode: int) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for name, data in files.items():
            member = tarfile.TarInfo(name)
            member.size, member.mode = len(data), mode
            archive.addfile(member, io.BytesIO(data))
    return buffer.getvalue()
