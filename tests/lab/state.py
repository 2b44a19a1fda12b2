"""The state of a node that an agent configures, as a value: equal states mean that a node is as before."""

import json
from collections.abc import Mapping
from typing import Any

from tests.lab.lab import Lab
from tests.lab.node import CONFLIST, KEY, LINK, LabNode, text_of
from tests.lab.sources import NODE_IPS, POD_CIDRS, PUBLIC_KEY

IDENTITY = (PUBLIC_KEY, NODE_IPS, POD_CIDRS)
"""The annotations that other agents configure a peer by."""
COMMANDS = f"""ip -json addr; ip -json -4 route; ip -json -6 route
sysctl -n net.ipv4.ip_forward net.ipv6.conf.all.forwarding net.ipv4.conf.{LINK}.rp_filter
wg show {LINK} allowed-ips; nft -s list table inet wigglenet"""


def node_state(lab: Lab, node: LabNode) -> Mapping[str, object]:
    """Links, addresses, routes, peers, settings, files and annotations of a node.

    Values that differ without a cause are left out: link indices, link-local addresses, handshakes, the status annotation.
    """
    lines = node.place.run("sh", "-c", COMMANDS, check=False).splitlines()
    addresses, four, six = (json.loads(line) for line in lines[:3])
    key, annotations = text_of(node.path(KEY)), lab.annotations(node.name)
    return {
        "links": {link["ifname"]: _link(link) for link in addresses},
        "routes": sorted(json.dumps(route, sort_keys=True) for route in four + six if _is_lasting(lab, route)),
        "settings and peers": sorted(" ".join(sorted(line.split())) for line in lines[3:]),
        "CNI file": text_of(node.path(CONFLIST)),
        "key": None if key is None else hash(key),  # a failing test must not print the key
        "annotations": {name: annotations.get(name) for name in IDENTITY},
    }


def _is_lasting(lab: Lab, route: Mapping[str, Any]) -> bool:
    """Whether a route is neither the kernel's own nor an unreachable route to a removed node, which stays for ten minutes."""
    removed = route.get("type") == "unreachable" and not any(route["dst"] in node.pod_cidrs for node in lab.nodes.values())
    return not removed and not route["dst"].startswith("fe80")


def _link(shown: Mapping[str, Any]) -> tuple[object, ...]:
    local = sorted(f"{a['local']}/{a['prefixlen']}" for a in shown["addr_info"] if a["scope"] != "link")
    return shown["mtu"], "UP" in shown["flags"], local
