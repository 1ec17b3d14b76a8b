"""A cluster as its journal has it: names, addresses and files, and a client for its API server."""

from dataclasses import dataclass
from ipaddress import IPv4Network
from pathlib import Path

from tools.cluster import addresses, api_clients, configs, journals, names, paths


@dataclass(frozen=True)
class Record:
    """What is known of a cluster without asking it anything."""

    layout: paths.Layout
    identity: str
    plan: addresses.Plan
    nodes: int

    @property
    def name(self) -> str:
        return self.layout.name

    @property
    def marks(self) -> list[str]:
        """The marks of its boxes."""
        return [names.mark(self.identity, index) for index in self.indexes]

    @property
    def indexes(self) -> range:
        """The numbers of its nodes, from 1."""
        return range(1, self.nodes + 1)

    def node(self, index: int) -> configs.Node:
        return configs.Node(self.layout, self.plan, self.identity, index, self.nodes)

    def api(self) -> api_clients.Api:
        """The API server, as its administrator."""
        pki = self.layout.certificates
        return api_clients.Api(self.plan.api_url, pki / "ca.crt", pki / "admin.crt", pki / "admin.key")


def of(journal: journals.Journal, layout: paths.Layout) -> Record:
    """The record that a journal begins with."""
    header = journal.header
    return Record(layout, header.identity, addresses.Plan(IPv4Network(header.block)), header.nodes)


def find(name: str) -> Record | None:
    """The record of a cluster that is up, coming up, or left over from a crash; None when there is none."""
    layout = paths.layout(names.checked(name))
    journal = journals.Journal.read(layout.journal)
    return of(journal, layout) if journal else None


def blocks_on_record(root: Path) -> list[IPv4Network]:
    """The blocks of all clusters on record below `root`, up or not."""
    found = (journals.Journal.read(path) for path in root.glob("*.journal"))
    return [IPv4Network(journal.header.block) for journal in found if journal]
