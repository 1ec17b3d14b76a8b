"""Running `kubectl` against one cluster and no other, whatever the caller's environment says."""

import os
from pathlib import Path

from tools.cluster import builds

_FOREIGN = ("kubeconfig", "http_proxy", "https_proxy", "all_proxy", "kubernetes_master")


def command(kubeconfig: Path, *arguments: str) -> list[str | Path]:
    """The whole command line; kubeconfig and the cache beside it are the cluster's own."""
    own = [f"--kubeconfig={kubeconfig}", f"--cache-dir={kubeconfig.parent}/kubectl-cache"]
    return [builds.programs().base / "kubectl", *own, *arguments]


def environment() -> dict[str, str]:
    """The caller's environment without what leads kubectl elsewhere: kubeconfigs, proxies, preferences."""
    kept = {key: value for key, value in os.environ.items() if key.lower() not in _FOREIGN}
    return {**kept, "KUBERC": "off"}
