"""Which cluster, as whom, in which namespace: from kubeconfig files, as `kubectl` finds and merges them.

Of several files the first that has a name, or a current context, wins. `choose` is pure; `find` reads the files.
"""

from __future__ import annotations

import copy
import difflib
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from bema.contract import errors

VARIABLE = "KUBECONFIG"
DEFAULT = Path(".kube") / "config"
ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")
"""Where a pod finds its ServiceAccount."""

_FILES = {"cluster": ("certificate-authority",), "user": ("client-certificate", "client-key", "tokenFile")}
"""Keys that hold a path, relative to the file that they are in."""


class KubeconfigInvalid(errors.BemaError):
    """No kubeconfig, or one that does not lead to a cluster."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """What the command line asks for."""

    kubeconfig: Path | None = None
    context: str | None = None
    namespace: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """One cluster as one user, and a namespace there."""

    context: str
    """For people: the context's name, or that this is a pod."""
    namespace: str
    server: str
    config: Mapping[str, Any] | None
    """A kubeconfig of this context alone, its paths absolute. None: the ServiceAccount of the pod."""


@dataclass(frozen=True, slots=True)
class File:
    """A kubeconfig file as it is."""

    path: Path
    content: Mapping[str, Any]


def find(wanted: Wanted, environment: Mapping[str, str], home: Path) -> Place:
    """The place that is meant. Raises `KubeconfigInvalid`."""
    paths, is_certain = candidates(wanted, environment, home)
    if is_certain and not paths[0].is_file():
        raise KubeconfigInvalid(f"--kubeconfig: expected a file, found none: {paths[0]}")
    files = [_read(path) for path in paths if path.is_file()]
    if files:
        return choose(files, wanted)
    if wanted.context is None and "KUBERNETES_SERVICE_HOST" in environment and ACCOUNT.is_dir():
        return _pod(wanted, environment)
    raise KubeconfigInvalid(
        f"expected a kubeconfig, found none: no --kubeconfig, and no file at {' or '.join(map(str, paths))}; "
        f"whoever runs the cluster gives you one; for Steps on this machine there is `bema dev`"
    )


def candidates(wanted: Wanted, environment: Mapping[str, str], home: Path) -> tuple[list[Path], bool]:
    """Where to look, and whether the one file there must exist."""
    if wanted.kubeconfig is not None:
        return [wanted.kubeconfig], True
    listed = [Path(part).expanduser() for part in environment.get(VARIABLE, "").split(os.pathsep) if part]
    return listed or [home / DEFAULT], False


def _read(path: Path) -> File:
    try:
        content = yaml.safe_load(path.read_text("utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise KubeconfigInvalid(f"{path}: expected a kubeconfig in YAML: {' '.join(str(error).split())}") from error
    if content is not None and not isinstance(content, dict):
        raise KubeconfigInvalid(f"{path}: expected a kubeconfig, found {type(content).__name__}")
    return File(path, content or {})


def _pod(wanted: Wanted, environment: Mapping[str, str]) -> Place:
    try:
        own = (ACCOUNT / "namespace").read_text("utf-8").strip()
    except OSError:
        own = ""
    host, port = environment["KUBERNETES_SERVICE_HOST"], environment.get("KUBERNETES_SERVICE_PORT", "443")
    return Place(
        context="(this pod's ServiceAccount)",
        namespace=wanted.namespace or own or "default",
        server=f"https://{host}:{port}",
        config=None,
    )


def choose(files: Sequence[File], wanted: Wanted) -> Place:
    """The context that is asked for, else the current one. Raises `KubeconfigInvalid`."""
    where = ", ".join(str(file.path) for file in files)
    names = list(dict.fromkeys(str(item.get("name")) for file in files for item in _entries(file, "contexts")))
    name = wanted.context or next((str(found) for file in files if (found := file.content.get("current-context"))), "")
    if not name:
        raise KubeconfigInvalid(
            f"expected a current context in {where}, found none; name one with --context: {_listed(names)}"
        )
    if name not in names:
        near = difflib.get_close_matches(name, names, n=1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise KubeconfigInvalid(f"expected a context named {name!r} in {where}, found {_listed(names)}{hint}")
    context = _member(files, "context", name, where)
    cluster = _member(files, "cluster", str(context.get("cluster")), where, f"context {name!r} names it")
    user: Mapping[str, Any] = {}
    if context.get("user"):
        user = _member(files, "user", str(context["user"]), where, f"context {name!r} names it")
    if found := sorted(key for key in user if key == "as" or key.startswith("as-")):
        raise KubeconfigInvalid(
            f"user {context['user']!r} in {where}: expected credentials alone, found {', '.join(found)}; "
            "this version does not act as somebody else"
        )
    if not cluster.get("server"):
        raise KubeconfigInvalid(f"cluster {context.get('cluster')!r} in {where}: expected the server's URL, found none")
    return Place(
        context=name,
        namespace=wanted.namespace or str(context.get("namespace") or "default"),
        server=str(cluster["server"]).rstrip("/"),
        config={
            "current-context": "chosen",
            "contexts": [{"name": "chosen", "context": {"cluster": "chosen", "user": "chosen"}}],
            "clusters": [{"name": "chosen", "cluster": cluster}],
            "users": [{"name": "chosen", "user": user}],
        },
    )


def _entries(file: File, section: str) -> list[Mapping[str, Any]]:
    found = file.content.get(section) or []
    if not isinstance(found, list) or not all(isinstance(item, dict) for item in found):
        raise KubeconfigInvalid(f"{file.path}: {section}: expected a list of objects, found {found!r}")
    return found


def _member(files: Sequence[File], kind: str, name: str, where: str, why: str = "") -> Mapping[str, Any]:
    """A context, cluster or user by its name, with absolute paths."""
    for file in files:
        for item in _entries(file, f"{kind}s"):
            if item.get("name") == name:
                return _absolute(item.get(kind) or {}, kind, file.path.absolute().parent)
    raise KubeconfigInvalid(f"expected a {kind} named {name!r} in {where}, found none{f'; {why}' if why else ''}")


def _absolute(entry: Mapping[str, Any], kind: str, folder: Path) -> Mapping[str, Any]:
    found = dict(copy.deepcopy(entry))
    for key in _FILES.get(kind, ()):
        if found.get(key):
            found[key] = str(folder / found[key])
    command = found.get("exec", {}).get("command", "") if kind == "user" else ""
    if "/" in command:
        found["exec"]["command"] = str(folder / command)
    return found


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names) or "no context"
