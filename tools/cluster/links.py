"""The host's links and routes: the only module that runs `ip` on the host. It never replaces and never guesses."""

import json
import secrets
from ipaddress import IPv4Network
from pathlib import Path
from typing import Any

from tools.cluster import commands, errors, journals

# Marks our routes in `ip route`; an unassigned number of rtnetlink's protocol field.
PROTOCOL = "142"


def random_mac() -> str:
    """A locally administered unicast address; 40 random bits are our proof of ownership."""
    return ":".join(f"{part:02x}" for part in (0x02, *secrets.token_bytes(5)))


def networks_in_use() -> list[IPv4Network]:
    """Every IPv4 network that the machine routes or has an address in, the default route left out."""
    found = []
    for route in _json("ip", "-4", "-j", "route", "show", "table", "all"):
        if route["dst"] != "default":
            found.append(IPv4Network(route["dst"], strict=False))
    for link in _json("ip", "-4", "-j", "addr", "show"):
        for address in link.get("addr_info", []):
            found.append(IPv4Network(f"{address['local']}/{address['prefixlen']}", strict=False))
    return [network for network in found if network.prefixlen > 0]


def mac(name: str) -> str | None:
    """The MAC address of a link of the host; None when there is no such link."""
    try:
        return Path(f"/sys/class/net/{name}/address").read_text().strip()
    except FileNotFoundError:
        return None


def refuse_existing(name: str) -> None:
    """Raise `errors.Refused` when a link of that name exists."""
    if mac(name) is not None:
        raise errors.Refused(
            f"the link {name} exists and was not made by this cluster; remove it (`ip link del {name}`) or choose "
            f"another --name"
        )


def add_bridge(link: journals.Link, address: str) -> None:
    """Make the bridge with its address (`10.160.0.1/24`) and set it up."""
    commands.run(["ip", "link", "add", "name", link.name, "address", link.mac, "type", "bridge"])
    commands.run(["ip", "addr", "add", address, "dev", link.name])
    commands.run(["ip", "link", "set", link.name, "up"])


def add_cable(link: journals.Link, bridge: str, pid: int) -> None:
    """Join the network namespace of process `pid`, as its `eth0`, to the bridge."""
    peer = ["peer", "name", "eth0", "netns", str(pid)]
    commands.run(["ip", "link", "add", "name", link.name, "address", link.mac, "type", "veth", *peer])
    commands.run(["ip", "link", "set", link.name, "master", bridge, "up"])


def add_route(route: journals.Route) -> None:
    """Add the route. Raises `errors.Refused` when the machine has one for the same network."""
    command = ["ip", "route", "add", route.network, "via", route.via, "dev", route.device, "proto", PROTOCOL]
    done = commands.attempt(command)
    if "File exists" in done.stderr:
        raise errors.Refused(f"a route to {route.network} exists that was not made by this cluster")
    if done.returncode:
        raise errors.CommandFailed(f"`{commands.shown(command)}`: {done.stderr.strip()}")


def remove(link: journals.Link) -> bool:
    """Remove the link if it is the one on record; whether it was there."""
    if mac(link.name) != link.mac:
        return False
    # A cable's end also goes when the namespace at the other end does; then there is nothing left to do.
    done = commands.attempt(["ip", "link", "del", link.name])
    if done.returncode and mac(link.name) == link.mac:
        raise errors.CommandFailed(f"cannot remove the link {link.name}: {done.stderr.strip()}")
    return True


def remove_route(route: journals.Route) -> bool:
    """Remove the route if it still leads through our bridge with our mark; whether it was there."""
    command = ["ip", "route", "del", route.network, "via", route.via, "dev", route.device, "proto", PROTOCOL]
    return commands.attempt(command).returncode == 0


def _json(*argv: str) -> list[dict[str, Any]]:
    text = commands.run(argv)
    answer: list[dict[str, Any]] = json.loads(text) if text.strip() else []
    return answer
