"""The volume provisioner: a folder on the node for each claim of class `local-path`, gone when the claim is deleted.

Usage: `python -m tools.cluster.provisioners --server URL --authority FILE --certificate FILE --key FILE
--volumes NODE=FOLDER …`, as a component of the first node's box. `decide` is pure; the rest watches and acts.
"""

import argparse
import re
import shutil
import sys
import threading
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from tools.cluster.api_clients import Api, ApiError, Json

STORAGE_CLASS = "local-path"
PROVISIONER = "bema.dev/local-path"
SELECTED_NODE = "volume.kubernetes.io/selected-node"
PROVISIONED_BY = "pv.kubernetes.io/provisioned-by"
_CLAIMS = "/api/v1/persistentvolumeclaims"
_VOLUMES = "/api/v1/persistentvolumes"


@dataclass(frozen=True)
class Create:
    """Make the folder, then the volume."""

    volume: Json
    folder: Path


@dataclass(frozen=True)
class Remove:
    """Delete the data, then the volume."""

    name: str
    folder: Path


Action = Create | Remove


def decide(claims: Iterable[Json], volumes: Iterable[Json], folders: Mapping[str, Path]) -> list[Action]:
    """What to do, from the claims and volumes as they are and each node's folder for volumes."""
    existing = {volume["metadata"]["name"]: volume for volume in volumes}
    actions: list[Action] = []
    for claim in claims:
        name = f"pvc-{claim['metadata']['uid']}"
        node = claim["metadata"].get("annotations", {}).get(SELECTED_NODE)
        if _wants_volume(claim) and name not in existing and node in folders:
            folder = folders[node] / name
            actions.append(Create(volume_for(claim, name, node, folder), folder))
    for name, volume in existing.items():
        node = _node_of(volume)
        if _is_over(volume) and node in folders and re.fullmatch(r"pvc-[0-9a-f-]{36}", name):
            # Computed from the name, not read from the object: nobody can point us at another folder.
            actions.append(Remove(name, folders[node] / name))
    return actions


def volume_for(claim: Json, name: str, node: str, folder: Path) -> Json:
    """The volume that satisfies a claim on a node."""
    meta, spec = claim["metadata"], claim["spec"]
    expression = {"key": "kubernetes.io/hostname", "operator": "In", "values": [node]}
    return {
        "apiVersion": "v1",
        "kind": "PersistentVolume",
        "metadata": {"name": name, "annotations": {PROVISIONED_BY: PROVISIONER}},
        "spec": {
            "capacity": {"storage": spec["resources"]["requests"]["storage"]},
            "accessModes": spec["accessModes"],
            "persistentVolumeReclaimPolicy": "Delete",
            "storageClassName": STORAGE_CLASS,
            "volumeMode": "Filesystem",
            "hostPath": {"path": str(folder), "type": "Directory"},
            "nodeAffinity": {"required": {"nodeSelectorTerms": [{"matchExpressions": [expression]}]}},
            "claimRef": {
                "apiVersion": "v1",
                "kind": "PersistentVolumeClaim",
                "namespace": meta["namespace"],
                "name": meta["name"],
                "uid": meta["uid"],
            },
        },
    }


def act(api: Api, action: Action) -> None:
    """Do it. Doing it twice does no harm."""
    match action:
        case Create(volume, folder):
            folder.mkdir(parents=True, exist_ok=True)
            # Containers run as any user; the folder above is closed to everybody else on the machine.
            folder.chmod(0o777)
            _ignoring(409, api, "POST", _VOLUMES, volume)
            log(f"made {volume['metadata']['name']} for {volume['spec']['claimRef']['name']}")
        case Remove(name, folder):
            if folder.exists():
                shutil.rmtree(folder)
            _ignoring(404, api, "DELETE", f"{_VOLUMES}/{name}", None)
            log(f"removed {name} and its data")


def main() -> None:
    """Watch claims and volumes; act on every change, and once in a while in case one was missed."""
    parser = argparse.ArgumentParser()
    for option in ("--server", "--authority", "--certificate", "--key"):
        parser.add_argument(option, required=True)
    parser.add_argument("--volumes", action="append", required=True, metavar="NODE=FOLDER")
    chosen = parser.parse_args()
    api = Api(chosen.server, Path(chosen.authority), Path(chosen.certificate), Path(chosen.key))
    folders = {node: Path(folder) for node, folder in (text.split("=", 1) for text in chosen.volumes)}
    changed = threading.Event()
    for path in (_CLAIMS, _VOLUMES):
        threading.Thread(target=_listen, args=(api, path, changed), daemon=True).start()
    while True:
        changed.wait(30)
        changed.clear()
        try:
            for action in decide(api.get(_CLAIMS)["items"], api.get(_VOLUMES)["items"], folders):
                act(api, action)
        except (ApiError, OSError) as failed:
            log(f"{failed}; trying again")
            time.sleep(1)
            changed.set()


def log(text: str) -> None:
    """One line of the component's log."""
    print(f"{time.strftime('%H:%M:%S')} {text}", file=sys.stderr, flush=True)


def _listen(api: Api, path: str, changed: threading.Event) -> None:
    while True:
        try:
            for _ in api.watch(path):
                changed.set()
        except ApiError as broken:
            log(f"{broken}; watching again")
            time.sleep(1)


def _ignoring(code: int, api: Api, method: str, path: str, body: Json | None) -> None:
    try:
        api.request(method, path, body)
    except ApiError as refused:
        if refused.code != code:
            raise


def _wants_volume(claim: Json) -> bool:
    spec = claim["spec"]
    return bool(
        spec.get("storageClassName") == STORAGE_CLASS
        and not spec.get("volumeName")
        and spec.get("volumeMode", "Filesystem") == "Filesystem"
        and not claim["metadata"].get("deletionTimestamp")
    )


def _is_over(volume: Json) -> bool:
    return bool(
        volume["metadata"].get("annotations", {}).get(PROVISIONED_BY) == PROVISIONER
        and volume.get("status", {}).get("phase") == "Released"
        and volume["spec"].get("persistentVolumeReclaimPolicy") == "Delete"
    )


def _node_of(volume: Json) -> str:
    terms = volume["spec"].get("nodeAffinity", {}).get("required", {}).get("nodeSelectorTerms", [])
    for term in terms:
        for expression in term.get("matchExpressions", []):
            if expression["key"] == "kubernetes.io/hostname":
                return str(expression["values"][0])
    return ""


if __name__ == "__main__":
    main()
