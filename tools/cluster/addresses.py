"""The addresses of a cluster: one /16 for nodes, services and pods, chosen so that it touches nothing in use. Pure."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from ipaddress import IPv4Address, IPv4Network

from tools.cluster import errors


@dataclass(frozen=True)
class Plan:
    """How a block is divided: nodes in the first /24, services in the second /18, pods in the upper half."""

    block: IPv4Network

    @cached_property
    def nodes(self) -> IPv4Network:
        return IPv4Network((self.block.network_address, 24))

    @cached_property
    def services(self) -> IPv4Network:
        return IPv4Network((self.block.network_address + (64 << 8), 18))

    @cached_property
    def pods(self) -> IPv4Network:
        return IPv4Network((self.block.network_address + (128 << 8), 17))

    @property
    def host(self) -> IPv4Address:
        """The machine's own address on the cluster's bridge; pods reach the machine by it."""
        return self.nodes[1]

    @property
    def api_service(self) -> IPv4Address:
        return self.services[1]

    @property
    def dns(self) -> IPv4Address:
        return self.services[10]

    def node(self, index: int) -> IPv4Address:
        """The address of node `index`, counted from 1."""
        return self.nodes[1 + index]

    def node_pods(self, index: int) -> IPv4Network:
        """The pods' network of node `index`."""
        return IPv4Network((self.pods.network_address + (index << 8), 24))

    @property
    def api_url(self) -> str:
        return f"https://{self.node(1)}:6443"


def candidates() -> Iterator[IPv4Network]:
    """The blocks to try, in order: a quiet part of 10/8, then the benchmark range for machines whose VPN takes 10/8."""
    for second in range(160, 250):
        yield IPv4Network(f"10.{second}.0.0/16")
    yield IPv4Network("198.18.0.0/16")
    yield IPv4Network("198.19.0.0/16")


def choose(taken: Iterable[IPv4Network], wanted: IPv4Network | None = None) -> Plan:
    """A plan on the first candidate that overlaps nothing in `taken`, or on `wanted`.

    Raises `errors.Refused` when `wanted` overlaps, or when nothing is free.
    """
    in_use = list(taken)
    if wanted is not None:
        return Plan(_checked(wanted, in_use))
    for block in candidates():
        if not any(block.overlaps(other) for other in in_use):
            return Plan(block)
    raise errors.Refused(
        "no free /16 for the cluster's addresses: routes or links of this machine overlap all of 10.160-249/16 and "
        "198.18/15; name a free one with --block"
    )


def _checked(block: IPv4Network, in_use: list[IPv4Network]) -> IPv4Network:
    if block.prefixlen != 16:
        raise errors.Refused(f"a cluster's block is a /16; found {block}")
    for other in in_use:
        if block.overlaps(other):
            raise errors.Refused(
                f"the block {block} overlaps {other}, which this machine already routes; choose another"
            )
    return block
