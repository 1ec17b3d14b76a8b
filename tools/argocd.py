"""What Argo CD has to be told about Steps, made from `deploy/argocd/health.lua`."""

from __future__ import annotations

from tools.cluster import paths

SCRIPT = paths.REPOSITORY / "deploy/argocd/health.lua"

_CONFIG_MAP = """\
# Generated from health.lua; change that and run `make gen`. Merge it into the ConfigMap of your Argo CD:
# kubectl -n argocd patch configmap argocd-cm --type merge --patch-file deploy/argocd/argocd-cm.yaml
data:
  resource.customizations.health.bema.dev_Step: |
"""


def config_map() -> str:
    """A patch for Argo CD's own ConfigMap, with the health of a Step."""
    script = SCRIPT.read_text(encoding="utf-8")
    return _CONFIG_MAP + "".join(f"    {line}".rstrip() + "\n" for line in script.splitlines())
