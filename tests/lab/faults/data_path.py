"""What each fault may cost the data path: a table of faults with the time until recovery and the packets that may be lost."""

import time
from collections.abc import Callable
from dataclasses import KW_ONLY, dataclass
from functools import partial
from typing import Literal

from tests.lab.faults.agent import kill_agent, start_agent, start_second_agent, stop_agent
from tests.lab.faults.api_server import start_api_server_and_remove_annotations, stop_api_server_and_wait_for_repair
from tests.lab.faults.cluster import (
    create_malformed_node,
    delete_malformed_nodes,
    delete_node_object,
    register_in_parts,
    remove_annotations,
)
from tests.lab.faults.fault import Fault, neighbour, run, then
from tests.lab.faults.node import (
    REMOVE_UNREACHABLE,
    change_firewall,
    damage_key,
    damaged_key_is_kept,
    freeze_wireguard,
    kill_wireguard,
    replace_route,
    set_peer,
    sysctl,
    thaw_wireguard,
)
from tests.lab.lab import Lab
from tests.lab.node import CONFLIST, KEY, LINK, LabNode
from tests.lab.state import node_state
from tests.lab.timing import LAB
from tests.lab.traffic import Pair, Window
from tests.lab.wait import SLOWNESS, NotSeenError, eventually

BURST_SECONDS = 0.3 * SLOWNESS
DRAIN_SECONDS = 3.0 * SLOWNESS
"""Until queued packets have been delivered, and a handshake that was lost among them has been tried again."""


@dataclass(frozen=True, repr=False)
class DataPathRow:
    """A fault, and what it may cost; seconds are multiplied by SLOWNESS."""

    fault: Fault
    _: KW_ONLY
    seconds: float
    """From the repair until the node's state is as before the injection."""
    recovered: Callable[[Lab, LabNode], bool] = lambda _lab, _node: True
    """What must be true of the recovered node in addition."""
    affects: Literal["nobody", "node", "neighbour"] = "nobody"
    """The pairs that may lose packets: none, all pairs of the node, or the pair of the node and its neighbour."""
    outage: float = 0.0
    """The seconds after the repair during which these pairs may lose packets."""
    burst: bool = False
    """Whether the repair releases queued packets, which for a moment displace packets of other pairs."""
    alone: bool = False
    """Whether no other fault may exist meanwhile: this one affects the whole lab, or others need what it takes away."""
    anywhere: bool = False
    """Whether the effect is the same on every node."""
    restarts: bool = False
    """Whether the node has a new agent afterwards."""
    userspace: bool = False
    """Whether the fault exists with a userspace WireGuard only."""

    def __repr__(self) -> str:
        return repr(self.fault)

    def pairs(self, lab: Lab, node: LabNode) -> frozenset[Pair]:
        """The pairs that may lose packets."""
        others = {"nobody": [], "node": [*lab.nodes], "neighbour": [neighbour(lab, node).name]}[self.affects]
        return frozenset(Pair({node.name, other}) for other in others if other != node.name)


@dataclass(frozen=True, kw_only=True)
class Recovery:
    """An injected fault from which the node has recovered; times are Unix seconds."""

    row: DataPathRow
    node: str
    pairs: frozenset[Pair]
    injected: float
    """When the injection began."""
    repaired: float
    """When the repair ended."""
    recovered: float

    def strict(self) -> list[Window]:
        """The windows in which packets may be lost if there was no other fault: those of the row."""
        return [Window(self.pairs, self.injected, self.repaired + self.row.outage * SLOWNESS), *self._burst()]

    def loose(self) -> list[Window]:
        """The windows in which packets may be lost if there were other faults at the same time."""
        drain = DRAIN_SECONDS if self.row.burst else SLOWNESS
        return [Window(self.pairs, self.injected, self.recovered + drain), *self._burst()]

    def _burst(self) -> list[Window]:
        return [Window(None, self.repaired, self.repaired + BURST_SECONDS)] if self.row.burst else []


def inject_and_recover(lab: Lab, node: LabNode, row: DataPathRow) -> Recovery:
    """Inject the fault, repair it and wait for recovery; NotSeenError, with the differences noted, if it takes too long."""
    watched = [*lab.nodes.values()] if row.alone else [node]

    def states() -> dict[str, object]:
        return {f"{one.name}'s {what}": seen for one in watched for what, seen in node_state(lab, one).items()}

    now = before = states()

    def recovered() -> bool:
        nonlocal now
        now = states()
        return now == before and row.recovered(lab, node)

    pairs, injected = row.pairs(lab, node), time.time()
    try:
        with row.fault.injected(lab, node):
            pass
        repaired = time.time()
        eventually(recovered, what=f"{node.name} has recovered: {row.fault.name}", seconds=row.seconds)
    except NotSeenError as error:
        changed = [f"{name} before: {before[name]}\n{name} now: {now[name]}" for name in before if before[name] != now[name]]
        error.add_note("\n".join([*changed, lab.story()]))
        raise
    return Recovery(row=row, node=node.name, pairs=pairs, injected=injected, repaired=repaired, recovered=time.time())


REMOVE_UNREACHABLE_ROUTES = "ip route del unreachable {peer4}; ip route del unreachable {peer6} metric 4294967295"
"""The kernel ignores the type when it deletes an IPv6 route; without the metric it would delete the tunnel route."""
RENAME = f"until ip link set {LINK} down && ip link set {LINK} name foo; do :; done; ip link set foo up || :"
"""The agent may set the link up between the first two commands, and rename it back before the third."""
restarts_agent = partial(DataPathRow, seconds=20.0, restarts=True)
no_outage = partial(DataPathRow, seconds=1.0)
node_outage = partial(DataPathRow, affects="node", seconds=1.0, outage=1.0)
neighbour_outage = partial(DataPathRow, affects="neighbour", seconds=1.0, outage=1.0)
cluster_wide = partial(DataPathRow, alone=True, anywhere=True)
of_the_node_object = partial(DataPathRow, seconds=2.0, alone=True)
ROWS = (
    restarts_agent(Fault("the agent is stopped and started", then(stop_agent, run(REMOVE_UNREACHABLE)), start_agent)),
    restarts_agent(Fault("the agent is killed and started", then(kill_agent, run(REMOVE_UNREACHABLE)), start_agent)),
    no_outage(Fault("a second agent is started by mistake", start_second_agent)),
    cluster_wide(
        Fault(
            "the API server is away for a while",
            stop_api_server_and_wait_for_repair,
            repair=start_api_server_and_remove_annotations,
        ),
        seconds=15.0,
    ),
    # This row precedes the next one, after which other agents keep the facts of the Node for a minute.
    of_the_node_object(Fault("the annotations are removed by hand", remove_annotations)),
    of_the_node_object(Fault("the Node object is deleted and registered anew", delete_node_object, repair=Lab.register)),
    of_the_node_object(Fault("the Node object is deleted and registered in parts", delete_node_object, register_in_parts)),
    cluster_wide(Fault("a malformed Node is created", create_malformed_node, repair=delete_malformed_nodes), seconds=1.0),
    no_outage(Fault("the key file is removed", run(f"rm {KEY}"))),
    no_outage(Fault("the key file is damaged", damage_key), recovered=damaged_key_is_kept),
    no_outage(Fault("the CNI file is removed", run(f"rm {CONFLIST}"))),
    no_outage(Fault("the CNI file is edited", run(f"echo >> {CONFLIST}"))),
    node_outage(Fault("the link is deleted", run(f"ip link del {LINK}"))),
    node_outage(Fault("the link is set down", run(f"ip link set {LINK} down"))),
    node_outage(Fault("the link is renamed", run(RENAME))),
    no_outage(Fault("the MTU is changed", run(f"ip link set {LINK} mtu 1300"))),
    # The kernel removes the IPv4 routes of a link with its last IPv4 address (net/ipv4/fib_frontend.c, fib_inetaddr_event).
    node_outage(Fault("the IPv4 address is removed", run(f"ip -4 addr flush dev {LINK}"))),
    no_outage(Fault("the IPv6 address is removed", run(f"ip -6 addr flush dev {LINK} scope global"))),
    DataPathRow(
        Fault("a peer is removed", set_peer("remove")), affects="neighbour", seconds=LAB.resync + 1, outage=LAB.resync + 1
    ),
    neighbour_outage(Fault("an IPv4 route is removed", run(f"ip route del {{peer4}} dev {LINK}"))),
    neighbour_outage(Fault("an IPv6 route is removed", run(f"ip route del {{peer6}} dev {LINK}"))),
    no_outage(Fault("closed routes are removed", run(REMOVE_UNREACHABLE_ROUTES))),
    neighbour_outage(
        Fault("a foreign IPv4 route is in the way", replace_route(4), repair=run("ip route del {peer4} proto static"))
    ),
    neighbour_outage(
        Fault("a foreign IPv6 route is in the way", replace_route(6), repair=run("ip route del {peer6} proto static"))
    ),
    node_outage(Fault("IPv4 forwarding is switched off", sysctl("net.ipv4.ip_forward=0"))),
    node_outage(Fault("IPv6 forwarding is switched off", sysctl("net.ipv6.conf.all.forwarding=0"))),
    node_outage(Fault("rp_filter is set to strict", sysctl(f"net.ipv4.conf.{LINK}.rp_filter=1"))),
    no_outage(Fault("the firewall is flushed", change_firewall("nft flush ruleset"))),
    no_outage(Fault("the firewall's table is deleted", change_firewall("nft delete table inet wigglenet"))),
    neighbour_outage(
        Fault(
            "a rule is put into the firewall",
            change_firewall("nft insert rule inet wigglenet wt_forward ip saddr {peer4} drop"),
        )
    ),
    no_outage(
        Fault(
            "an element is removed from the firewall",
            change_firewall("nft delete element inet wigglenet wt_own4 {{ {own4} }}"),
        )
    ),
    node_outage(Fault("wireguard-go is killed", kill_wireguard), userspace=True),
    node_outage(
        Fault("wireguard-go hangs", freeze_wireguard, repair=thaw_wireguard),
        burst=True,  # the queued packets exceed the socket buffers of other nodes (212 kB; counted as RcvbufErrors)
        alone=True,  # a handshake that is lost meanwhile is repeated after 5 s only (WireGuard's REKEY_TIMEOUT)
        userspace=True,
    ),
)
