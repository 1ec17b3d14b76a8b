"""Which cluster is meant: kubeconfig files merged as `kubectl` merges them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from bema.clusters import calls
from bema.clusters.errors import NoAccess
from bema_cli import kubeconfigs
from bema_cli.kubeconfigs import File, KubeconfigInvalid, Wanted


def config(name: str, *, current: bool = True, namespace: str | None = None, **user: Any) -> dict[str, Any]:
    context = {"cluster": name, "user": name, **({"namespace": namespace} if namespace else {})}
    return {
        **({"current-context": name} if current else {}),
        "contexts": [{"name": name, "context": context}],
        "clusters": [{"name": name, "cluster": {"server": f"https://{name}:6443/", "certificate-authority": "ca.crt"}}],
        "users": [{"name": name, "user": user}],
    }


def file(path: str, content: dict[str, Any]) -> File:
    return File(Path(path), content)


def test_the_current_context_its_namespace_and_paths_beside_the_file() -> None:
    found = kubeconfigs.choose([file("/home/a/config", config("blue", namespace="shop", tokenFile="t"))], Wanted())
    assert (found.context, found.server, found.namespace) == ("blue", "https://blue:6443", "shop")
    assert found.config is not None
    assert found.config["clusters"][0]["cluster"]["certificate-authority"] == "/home/a/ca.crt"
    assert found.config["users"][0]["user"]["tokenFile"] == "/home/a/t"


def test_what_is_asked_for_wins() -> None:
    files = [file("/a", config("blue", namespace="shop")), file("/b", config("green"))]
    found = kubeconfigs.choose(files, Wanted(context="green", namespace="blog"))
    assert (found.context, found.server, found.namespace) == ("green", "https://green:6443", "blog")
    assert kubeconfigs.choose(files, Wanted(context="green")).namespace == "default"


def test_of_several_files_the_first_wins() -> None:
    other = config("blue")
    other["clusters"][0]["cluster"]["server"] = "https://other"
    files = [file("/a", config("blue", current=False)), file("/b", config("green")), file("/c", other)]
    assert kubeconfigs.choose(files, Wanted()).context == "green"
    assert kubeconfigs.choose(files, Wanted(context="blue")).server == "https://blue:6443"


def test_a_program_for_credentials_beside_the_file() -> None:
    beside = kubeconfigs.choose([file("/a/config", config("blue", exec={"command": "./login"}))], Wanted())
    on_path = kubeconfigs.choose([file("/a/config", config("blue", exec={"command": "login"}))], Wanted())
    found = [place.config["users"][0]["user"]["exec"]["command"] for place in (beside, on_path) if place.config]
    assert found == ["/a/login", "login"]


def without(section: str) -> dict[str, Any]:
    return {**config("blue"), section: []}


@pytest.mark.parametrize(
    ("content", "wanted", "message"),
    [
        (config("blue"), Wanted(context="bleu"), "named 'bleu' in /a, found blue; did you mean 'blue'?"),
        (config("blue", current=False), Wanted(), "expected a current context in /a, found none; .* --context: blue"),
        ({}, Wanted(), "expected a current context in /a, found none; .* no context"),
        (without("clusters"), Wanted(), "expected a cluster named 'blue' in /a, found none; context 'blue' names it"),
        (without("users"), Wanted(), "expected a user named 'blue' in /a, found none; context 'blue' names it"),
        (config("blue", **{"as": "root"}), Wanted(), "user 'blue' in /a: expected credentials alone, found as;"),
        ({**config("blue"), "contexts": 7}, Wanted(), "/a: contexts: expected a list of objects, found 7"),
    ],
)
def test_what_is_wrong_is_said(content: dict[str, Any], wanted: Wanted, message: str) -> None:
    with pytest.raises(KubeconfigInvalid, match=message):
        kubeconfigs.choose([file("/a", content)], wanted)


def test_where_it_is_looked_for(tmp_path: Path) -> None:
    given, listed, usual = tmp_path / "given", tmp_path / "listed", tmp_path / kubeconfigs.DEFAULT
    usual.parent.mkdir()
    environment = {"KUBECONFIG": f"{tmp_path / 'missing'}:{listed}"}
    for path in (usual, listed, given):
        path.write_text(yaml.safe_dump(config(path.name)))
    assert kubeconfigs.find(Wanted(kubeconfig=given), environment, tmp_path).context == "given"
    assert kubeconfigs.find(Wanted(), environment, tmp_path).context == "listed"
    assert kubeconfigs.find(Wanted(), {}, tmp_path).context == "config"


def program(tmp_path: Path, text: str) -> dict[str, Any]:
    """The config of a place whose credentials a program gives."""
    path = tmp_path / "login"
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o700)
    found = config("blue", exec={"command": "./login", "apiVersion": "client.authentication.k8s.io/v1"})
    found["clusters"][0]["cluster"] = {"server": "http://blue"}
    place = kubeconfigs.choose([File(tmp_path / "config", found)], Wanted())
    assert place.config is not None
    return dict(place.config)


async def test_a_program_gives_the_credentials(tmp_path: Path) -> None:
    said = '{"apiVersion": "client.authentication.k8s.io/v1", "kind": "ExecCredential", "status": {"token": "secret"}}'
    access = await calls.from_config(program(tmp_path, f"echo '{said}'"))
    assert access.api_key == {"BearerToken": "Bearer secret"}


async def test_a_program_that_fails_is_no_reason_to_go_on_without_credentials(tmp_path: Path) -> None:
    with pytest.raises(NoAccess, match=r"exec: process returned 3.*not today"):
        await calls.from_config(program(tmp_path, "echo not today >&2; exit 3"))


async def test_a_certificate_that_is_none(tmp_path: Path) -> None:
    place = kubeconfigs.choose([file(str(tmp_path / "config"), config("blue"))], Wanted())
    assert place.config is not None
    with pytest.raises(NoAccess, match=r"what the kubeconfig presents cannot be used: File does not exists: .*/ca.crt"):
        await calls.from_config(place.config)


def test_no_kubeconfig_is_said_with_where_it_was_looked_for(tmp_path: Path) -> None:
    with pytest.raises(KubeconfigInvalid, match=f"found none: no --kubeconfig, and no file at {tmp_path}/.kube/config"):
        kubeconfigs.find(Wanted(), {}, tmp_path)
    with pytest.raises(KubeconfigInvalid, match=f"--kubeconfig: expected a file, found none: {tmp_path}/x"):
        kubeconfigs.find(Wanted(kubeconfig=tmp_path / "x"), {}, tmp_path)


def test_a_file_that_is_none(tmp_path: Path) -> None:
    path = tmp_path / "config"
    path.write_text("[a")
    with pytest.raises(KubeconfigInvalid, match="expected a kubeconfig in YAML"):
        kubeconfigs.find(Wanted(kubeconfig=path), {}, tmp_path)
    path.write_text("- a")
    with pytest.raises(KubeconfigInvalid, match="expected a kubeconfig, found list"):
        kubeconfigs.find(Wanted(kubeconfig=path), {}, tmp_path)
