"""Addresses and names of a test cluster: disjoint, free, and short enough."""

from ipaddress import IPv4Address, IPv4Network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tools.cluster import addresses, errors, names

PLAN = addresses.Plan(IPv4Network("10.160.0.0/16"))


def test_a_block_is_divided_into_nodes_services_and_pods() -> None:
    assert (PLAN.nodes, PLAN.services, PLAN.pods) == (
        IPv4Network("10.160.0.0/24"),
        IPv4Network("10.160.64.0/18"),
        IPv4Network("10.160.128.0/17"),
    )
    assert (PLAN.host, PLAN.node(1), PLAN.node(3)) == (
        IPv4Address("10.160.0.1"),
        IPv4Address("10.160.0.2"),
        IPv4Address("10.160.0.4"),
    )
    assert (PLAN.api_service, PLAN.dns) == (IPv4Address("10.160.64.1"), IPv4Address("10.160.64.10"))
    assert PLAN.api_url == "https://10.160.0.2:6443"


def test_the_parts_of_a_block_do_not_overlap_for_any_number_of_nodes() -> None:
    pods = [PLAN.node_pods(index) for index in range(1, names.NODE_LIMIT + 1)]
    parts = [PLAN.nodes, PLAN.services, *pods]
    assert all(part.subnet_of(PLAN.block) for part in parts)
    assert all(network.subnet_of(PLAN.pods) for network in pods)
    assert not any(a.overlaps(b) for a in parts for b in parts if a is not b)
    assert PLAN.node(names.NODE_LIMIT) in PLAN.nodes


@pytest.mark.parametrize(
    ("taken", "block"),
    [
        pytest.param([], "10.160.0.0/16", id="nothing taken: the first"),
        pytest.param(["10.160.0.0/16"], "10.161.0.0/16", id="the first taken: the next"),
        pytest.param(["10.160.99.7/32", "10.161.0.0/24"], "10.162.0.0/16", id="one address in a block takes it"),
        pytest.param(["10.0.0.0/8"], "198.18.0.0/16", id="a VPN over all of 10/8: the benchmark range"),
        pytest.param(["10.0.0.0/8", "198.18.0.0/16"], "198.19.0.0/16", id="and its second half"),
    ],
)
def test_the_first_free_block_is_chosen(taken: list[str], block: str) -> None:
    assert addresses.choose([IPv4Network(network) for network in taken]).block == IPv4Network(block)


def test_no_free_block_is_refused_with_the_way_out() -> None:
    with pytest.raises(errors.Refused, match="name a free one with --block"):
        addresses.choose([IPv4Network("10.0.0.0/8"), IPv4Network("198.18.0.0/15")])


@pytest.mark.parametrize(
    ("wanted", "message"),
    [
        pytest.param("10.9.0.0/16", "overlaps 10.9.8.0/24, which this machine already routes", id="in use"),
        pytest.param("10.8.0.0/15", "a cluster's block is a /16; found 10.8.0.0/15", id="of another size"),
    ],
)
def test_a_block_asked_for_is_refused(wanted: str, message: str) -> None:
    with pytest.raises(errors.Refused, match=message):
        addresses.choose([IPv4Network("10.9.8.0/24")], IPv4Network(wanted))


def test_a_free_block_asked_for_is_taken() -> None:
    assert addresses.choose([PLAN.block], IPv4Network("172.20.0.0/16")).block == IPv4Network("172.20.0.0/16")


cluster_names = st.from_regex(r"[a-z]([a-z0-9-]{0,18}[a-z0-9])?", fullmatch=True)


@given(cluster_names, st.integers(1, names.NODE_LIMIT))
def test_link_names_fit_the_kernel(name: str, node: int) -> None:
    assert names.checked(name) == name
    assert len(names.bridge(name)) <= names.LINK_LENGTH
    assert len(names.veth(name, node)) <= names.LINK_LENGTH


@given(cluster_names, cluster_names, st.integers(1, names.NODE_LIMIT))
def test_a_cable_never_has_the_name_of_a_bridge(one: str, other: str, node: int) -> None:
    assert names.veth(one, node) != names.bridge(other)


@pytest.mark.parametrize("name", ["", "1st", "Dev", "dev-", "a_b", "../dev", "a" * 21])
def test_other_names_are_refused(name: str) -> None:
    with pytest.raises(errors.Refused, match="a cluster's name has 1 to 20 characters"):
        names.checked(name)
