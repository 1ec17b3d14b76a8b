"""What the tools for clusters take from a command line, and the manifests that a person applies by hand."""

from __future__ import annotations

import re

import yaml

from tools.cluster import __main__ as cluster
from tools.cluster import paths


def test_the_words_after_kubectl_are_kubectls() -> None:
    chosen = cluster._chosen(["--name", "mine", "kubectl", "-n", "bema-system", "get", "pods", "--name", "x"])
    assert (chosen.name, chosen.command) == ("mine", "kubectl")
    assert chosen.arguments == ["-n", "bema-system", "get", "pods", "--name", "x"]


def test_the_manifests_can_be_joined_and_their_images_moved_as_the_readme_says() -> None:
    files = sorted((paths.REPOSITORY / "deploy").glob("*.yaml"))
    joined = re.sub("bema-[a-z]*:0.1.0", r"registry/\g<0>", "".join(file.read_text() for file in files))
    assert "sed 's#bema-[a-z]*:0.1.0#REGISTRY/&#'" in (paths.REPOSITORY / "deploy/README.md").read_text()
    items = [item for item in yaml.safe_load_all(joined) if item]
    alone = [item for file in files for item in yaml.safe_load_all(file.read_text()) if item]
    assert [(item["kind"], item["metadata"]["name"]) for item in items] == [
        (item["kind"], item["metadata"]["name"]) for item in alone
    ]
    assert items[0]["kind"] == "Namespace"
    assert re.findall("registry/bema-[a-z]*", joined) == [
        "registry/bema-nats",
        "registry/bema-operator",
        "registry/bema-runtime",
    ]
