"""What Argo CD has to be told about our kinds, made from `deploy/argocd/health.lua`."""

from __future__ import annotations

from bema.contract import crds
from tools.cluster import paths

SCRIPT = paths.REPOSITORY / "deploy/argocd/health.lua"

_CONFIG_MAP = """\
# Generated from health.lua; change that and run `make gen`. Merge it into the ConfigMap of your Argo CD:
# kubectl -n argocd patch configmap argocd-cm --type merge --patch-file deploy/argocd/argocd-cm.yaml
data:
"""

_ENTRY = "  resource.customizations.health.bema.dev_{}: |\n"


def config_map() -> str:
    """A patch for Argo CD's own ConfigMap, with the health of each kind: one script says it for all of them."""
    script = "".join(f"    {line}".rstrip() + "\n" for line in SCRIPT.read_text(encoding="utf-8").splitlines())
    return _CONFIG_MAP + "".join(_ENTRY.format(kind.kind) + script for kind in crds.ALL)
