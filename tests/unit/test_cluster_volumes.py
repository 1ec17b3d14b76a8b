"""The volume provisioner's decisions, as whole objects."""

from pathlib import Path
from typing import Any

import pytest

from tools.cluster import provisioners
from tools.cluster.provisioners import Create, Remove

FOLDERS = {"n1": Path("/nodes/n1"), "n2": Path("/nodes/n2")}
UID = "11111111-2222-3333-4444-555555555555"
NAME = f"pvc-{UID}"


def claim(**changes: Any) -> dict[str, Any]:
    spec = {
        "storageClassName": "local-path",
        "accessModes": ["ReadWriteOnce"],
        "resources": {"requests": {"storage": "1Gi"}},
        "volumeMode": "Filesystem",
    }
    meta: dict[str, Any] = {"namespace": "shop", "name": "data", "uid": UID}
    meta["annotations"] = {provisioners.SELECTED_NODE: changes.pop("node", "n1")}
    if changes.pop("deleted", False):
        meta["deletionTimestamp"] = "2026-01-01T00:00:00Z"
    return {"metadata": meta, "spec": {**spec, **changes}}


def volume(phase: str = "Released", **changes: Any) -> dict[str, Any]:
    made = provisioners.volume_for(claim(), NAME, "n1", FOLDERS["n1"] / NAME)
    return {**made, "status": {"phase": phase}, **changes}


def test_a_claim_with_a_node_gets_a_folder_and_a_volume_on_that_node() -> None:
    assert provisioners.decide([claim(node="n2")], [], FOLDERS) == [
        Create(
            folder=Path(f"/nodes/n2/{NAME}"),
            volume={
                "apiVersion": "v1",
                "kind": "PersistentVolume",
                "metadata": {
                    "name": NAME,
                    "annotations": {"pv.kubernetes.io/provisioned-by": "bema.dev/local-path"},
                },
                "spec": {
                    "capacity": {"storage": "1Gi"},
                    "accessModes": ["ReadWriteOnce"],
                    "persistentVolumeReclaimPolicy": "Delete",
                    "storageClassName": "local-path",
                    "volumeMode": "Filesystem",
                    "hostPath": {"path": f"/nodes/n2/{NAME}", "type": "Directory"},
                    "nodeAffinity": {
                        "required": {
                            "nodeSelectorTerms": [
                                {
                                    "matchExpressions": [
                                        {"key": "kubernetes.io/hostname", "operator": "In", "values": ["n2"]}
                                    ]
                                }
                            ]
                        }
                    },
                    "claimRef": {
                        "apiVersion": "v1",
                        "kind": "PersistentVolumeClaim",
                        "namespace": "shop",
                        "name": "data",
                        "uid": UID,
                    },
                },
            },
        )
    ]


@pytest.mark.parametrize(
    ("claims", "volumes"),
    [
        pytest.param([claim(storageClassName="fast")], [], id="of another class"),
        pytest.param([claim(storageClassName=None)], [], id="of no class"),
        pytest.param([claim(volumeName="mine")], [], id="bound already"),
        pytest.param([claim(volumeMode="Block")], [], id="a block device"),
        pytest.param([claim(deleted=True)], [], id="being deleted"),
        pytest.param([claim(node=None)], [], id="no consumer yet"),
        pytest.param([claim(node="n9")], [], id="a node that is not ours"),
        pytest.param([claim()], [volume("Available")], id="its volume is there already"),
    ],
)
def test_a_claim_is_left_alone(claims: list[dict[str, Any]], volumes: list[dict[str, Any]]) -> None:
    assert provisioners.decide(claims, volumes, FOLDERS) == []


def test_a_released_volume_goes_with_its_data() -> None:
    assert provisioners.decide([], [volume()], FOLDERS) == [Remove(NAME, Path(f"/nodes/n1/{NAME}"))]


def test_the_folder_to_remove_is_not_read_from_the_volume() -> None:
    lured = volume()
    lured["spec"]["hostPath"]["path"] = "/etc"
    assert provisioners.decide([], [lured], FOLDERS) == [Remove(NAME, Path(f"/nodes/n1/{NAME}"))]


@pytest.mark.parametrize(
    "kept",
    [
        pytest.param(volume("Bound"), id="in use"),
        pytest.param(volume(metadata={"name": NAME}), id="made by somebody else"),
        pytest.param(volume(metadata={**volume()["metadata"], "name": "../../etc"}), id="with a name not of ours"),
        pytest.param(volume(spec={**volume()["spec"], "persistentVolumeReclaimPolicy": "Retain"}), id="to be retained"),
        pytest.param(volume(spec={**volume()["spec"], "nodeAffinity": {}}), id="on no node"),
    ],
)
def test_a_volume_is_kept(kept: dict[str, Any]) -> None:
    assert provisioners.decide([], [kept], FOLDERS) == []
