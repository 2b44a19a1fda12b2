"""A fault as a row of a table, and what it is to have one happen to a node.

A fault has healed when its node looks as it did before: links, addresses, routes, peers, settings, files, annotations.
"""

import json
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from tests.lab.lab import Lab
from tests.lab.node import CONFLIST, LINK, LabNode, text_of
from tests.lab.traffic import Pair, Window
from tests.lab.wait import SLOWNESS, NotSeenError, eventually

Act = Callable[[Lab, LabNode], None]
KEY = "/etc/wigglenet/private.key"
IDENTITY = ("wigglenet/public-key", "wigglenet/node-ips", "wigglenet/pod-cidrs")
LOOK = f"""ip -json addr; ip -json -4 route; ip -json -6 route
sysctl -n net.ipv4.ip_forward net.ipv6.conf.all.forwarding net.ipv4.conf.{LINK}.rp_filter
wg show {LINK} allowed-ips; nft -s list table inet wigglenet"""
BURST_SECONDS = 0.3 * SLOWNESS
DRAIN_SECONDS = 3.0 * SLOWNESS
"""Until what was queued has been carried, and a handshake that was lost in it been tried again."""


def nothing(_lab: Lab, _node: LabNode) -> None:
    """For what the agent repairs alone."""


@dataclass(frozen=True, kw_only=True, repr=False)
class Fault:
    """A row of the table; seconds are those of a machine of its own."""

    name: str
    harm: Act
    heal: Act = nothing
    """What the world does afterwards, also when the harm failed half-way."""
    healed: Callable[[Lab, LabNode], bool] = lambda _lab, _node: True
    """Beside the looks of the node."""
    seconds: float
    """From the end of harm and heal until all is as before."""
    concerns: Literal["nobody", "node", "neighbour"] = "nobody"
    """Which pairs may lose packets: all with the node, or only it and its neighbour."""
    dark: float = 0.0
    """Until how many seconds after harm and heal they may."""
    burst: bool = False
    """Whether what was queued comes at once when it heals, and drowns for an instant what else others receive."""
    alone: bool = False
    """Whether nothing else may happen meanwhile, for it takes away what others need to start, or is the whole lab's."""
    anywhere: bool = False
    """Whether it does not matter to which node it happens."""
    restarts: bool = False
    """Whether the agent is another one afterwards."""
    userspace: bool = False
    """Whether it is about a userspace WireGuard."""

    def __repr__(self) -> str:
        return f"'{self.name}'"

    def pairs(self, lab: Lab, node: LabNode) -> frozenset[Pair]:
        """Those that may lose packets."""
        others = {"nobody": [], "node": [*lab.nodes], "neighbour": [neighbour(lab, node).name]}[self.concerns]
        return frozenset(Pair({node.name, other}) for other in others if other != node.name)


@dataclass(frozen=True, kw_only=True)
class Strike:
    """A fault that happened; Unix seconds."""

    fault: Fault
    node: str
    pairs: frozenset[Pair]
    began: float
    given_back: float
    """When the world had done its part."""
    healed: float

    def strict(self) -> list[Window]:
        """When packets may be lost by the row."""
        return [Window(self.pairs, self.began, self.given_back + self.fault.dark * SLOWNESS), *self._burst()]

    def loose(self) -> list[Window]:
        """When packets may be lost if other things happen as well."""
        settling = DRAIN_SECONDS if self.fault.burst else SLOWNESS
        return [Window(self.pairs, self.began, self.healed + settling), *self._burst()]

    def _burst(self) -> list[Window]:
        return [Window(None, self.given_back, self.given_back + BURST_SECONDS)] if self.fault.burst else []


def strike(lab: Lab, node: LabNode, fault: Fault) -> Strike:
    """Let it happen, and wait until it has healed; NotSeenError, noting what is different, if it does not in time."""
    watched = [*lab.nodes.values()] if fault.alone else [node]

    def looks() -> dict[str, object]:
        return {f"{one.name}'s {what}": seen for one in watched for what, seen in look(lab, one).items()}

    now = before = looks()

    def healed() -> bool:
        nonlocal now
        now = looks()
        return now == before and fault.healed(lab, node)

    pairs, began = fault.pairs(lab, node), time.time()
    try:
        try:
            fault.harm(lab, node)
        finally:
            fault.heal(lab, node)
        given_back = time.time()
        eventually(healed, what=f"{node.name} has recovered: {fault.name}", seconds=fault.seconds)
    except NotSeenError as error:
        changed = [f"{name} before: {before[name]}\n{name} now: {now[name]}" for name in before if before[name] != now[name]]
        error.add_note("\n".join([*changed, lab.story()]))
        raise
    return Strike(fault=fault, node=node.name, pairs=pairs, began=began, given_back=given_back, healed=time.time())


def look(lab: Lab, node: LabNode) -> Mapping[str, object]:
    """What a node looks like, without what is another each time: indices, link-local addresses, handshakes, the status."""
    lines = node.place.run("sh", "-c", LOOK, check=False).splitlines()
    addresses, four, six = (json.loads(line) for line in lines[:3])
    key, notes = text_of(node.path(KEY)), lab.annotations(node.name)
    return {
        "links": {link["ifname"]: _link(link) for link in addresses},
        "routes": sorted(json.dumps(route, sort_keys=True) for route in four + six if lasts(lab, route)),
        "settings and peers": sorted(" ".join(sorted(line.split())) for line in lines[3:]),
        "CNI file": text_of(node.path(CONFLIST)),
        "key": None if key is None else hash(key),  # never shown
        "annotations": {name: notes.get(name) for name in IDENTITY},
    }


def lasts(lab: Lab, route: Mapping[str, Any]) -> bool:
    """Whether a route is neither the kernel's own nor what is left, for ten minutes, of a node that has gone."""
    left = route.get("type") == "unreachable" and not any(route["dst"] in node.pod_cidrs for node in lab.nodes.values())
    return not left and not route["dst"].startswith("fe80")


def _link(shown: Mapping[str, Any]) -> tuple[object, ...]:
    local = sorted(f"{a['local']}/{a['prefixlen']}" for a in shown["addr_info"] if a["scope"] != "link")
    return shown["mtu"], "UP" in shown["flags"], local


def neighbour(lab: Lab, node: LabNode) -> LabNode:
    """The next one."""
    names = list(lab.nodes)
    return lab.nodes[names[(names.index(node.name) + 1) % len(names)]]
