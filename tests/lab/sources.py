"""Where a node's pod networks come from: the settings, the file, and what everybody makes of it."""

import json
from collections.abc import Collection
from contextlib import suppress
from ipaddress import ip_network
from typing import Literal

from tests.lab.lab import Lab
from tests.lab.node import LINK, LabNode
from tests.lab.wait import NotSeenError, eventually

Source = Literal["none", "spec", "file"]
FILE = "/run/cloud/init/pod-networks"
PUBLIC_KEY, NODE_IPS, POD_CIDRS = "wigglenet/public-key", "wigglenet/node-ips", "wigglenet/pod-cidrs"


def sources(four: Source, six: Source) -> dict[str, str]:
    """The settings."""
    path = {"POD_CIDR_SOURCE_PATH": FILE} if "file" in {four, six} else {}
    return {"POD_CIDR_SOURCE_IPV4": four, "POD_CIDR_SOURCE_IPV6": six, **path}


def filed(node: LabNode, version: int, *, generation: int = 0) -> str:
    """A network of the node's own that no Node object knows."""
    number = 100 + node.number + 70 * generation
    return f"10.1.{number}.0/24" if version == 4 else f"fd00:10:1:{number:x}::/64"


def replace_file(node: LabNode, *lines: str) -> None:
    """In one step, as cloud-init and the kubelet do; directories are made."""
    target = node.path(FILE)
    target.parent.mkdir(parents=True, exist_ok=True)
    written = target.with_name(".pod-networks")
    written.write_text("".join(f"{line}\n" for line in lines))
    written.rename(target)


def announced(lab: Lab, node: LabNode) -> list[str]:
    """The pod networks that the others read on its Node."""
    found: list[str] = json.loads(lab.annotations(node.name).get(POD_CIDRS, "[]"))
    return found


def gateways(node: LabNode) -> set[str]:
    """The addresses of the link but the kernel's own, without their prefix length; none without a link."""
    shown = json.loads(node.place.run("ip", "-json", "addr", "show", "dev", LINK, check=False) or "[]")
    return {address["local"] for link in shown for address in link["addr_info"] if address["scope"] != "link"}


def closed(node: LabNode) -> set[str]:
    """The unreachable routes."""
    return {
        route["dst"]
        for version in ("-4", "-6")
        for route in json.loads(node.place.run("ip", "-json", version, "route", "show", "type", "unreachable") or "[]")
    }


def first_address(network: str) -> str:
    """The gateway of its pods."""
    return str(ip_network(network)[1])


def wait_announced(lab: Lab, node: LabNode, networks: Collection[str], *, seconds: float = 10) -> None:
    """Until the node announces exactly these, has their gateways, and every other node routes them."""
    others = [other for other in lab.nodes.values() if other is not node and other.conflist()]

    def everywhere() -> bool:
        return (
            announced(lab, node) == ordered(networks)
            and gateways(node) == {first_address(n) for n in networks}
            and all(own_routes(other, node) == set(networks) for other in others)
        )

    eventually(everywhere, what=f"{node.name} has, and its peers route, {sorted(networks)}", seconds=seconds)


def own_routes(other: LabNode, node: LabNode) -> set[str]:
    """Which of the networks that the node may ever have another routes into the tunnel."""
    (allowed,) = [
        p.allowed_ips for p in other.wireguard().values() if f"{node.addresses[0]}/32" in p.allowed_ips.split(",")
    ] or [""]
    return other.routes() & set(allowed.split(","))


def ordered(networks: Collection[str]) -> list[str]:
    """As in the annotation: IPv6 first, each family ascending."""
    return [str(n) for n in sorted(map(ip_network, networks), key=lambda n: (-n.version, n))]


def expect_no_problem(node: LabNode) -> None:
    """Soon, and for the reader of a failure which one there is."""
    with suppress(NotSeenError):
        eventually(lambda: not node.problems(), what=f"{node.name} has no problem")
    assert not node.problems()
