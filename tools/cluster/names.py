"""Every name on the machine that belongs to a cluster, as a function of the cluster's name and identity."""

import hashlib
import re

from tools.cluster import errors

LINK_LENGTH = 15  # the kernel's limit without its closing zero
NODE_LIMIT = 99  # a link's name has room for two digits


def checked(name: str) -> str:
    """The cluster's name itself, if it can be one; else `errors.Refused`."""
    if not re.fullmatch(r"[a-z]([a-z0-9-]{0,18}[a-z0-9])?", name):
        raise errors.Refused(
            f"a cluster's name has 1 to 20 characters of a-z, 0-9 and '-', starts with a letter and does not end "
            f"with '-'; found {name!r}"
        )
    return name


def bridge(name: str) -> str:
    """The bridge on the host that joins the nodes."""
    short = name if len(name) <= 8 else name[:3] + hashlib.sha256(name.encode()).hexdigest()[:5]
    return f"bm-{short}"


def veth(name: str, node: int) -> str:
    """The host's end of a node's cable. A cluster's name has no '_', so this never equals another cluster's bridge."""
    return f"{bridge(name)}_{node}"


def node(index: int) -> str:
    return f"n{index}"


def cgroup(name: str, identity: str) -> str:
    """The cgroup below which everything of the cluster's pods lives. The identity makes it ours beyond doubt."""
    return f"bema-{name}-{identity[:8]}"


def mark(identity: str, index: int) -> str:
    """The environment entry that all processes of a node's box carry, and nothing else on the machine."""
    return f"BEMA_BOX={identity}.{index}"
