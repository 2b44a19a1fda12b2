"""What can happen to a node, as a table: the harm, what the world does about it, and what that may cost."""

import os
import signal
import time
from collections.abc import Mapping
from datetime import datetime
from itertools import count
from pathlib import Path
from typing import Any

from tests.lab.lab import Lab
from tests.lab.node import CONFLIST, LINK, LOG, LabNode
from tests.lab.strike import IDENTITY, KEY, Act, Fault, neighbour
from tests.lab.wait import eventually

NUMBERS = count(1)
UNSEEN = "ip route del unreachable {own4}"
"""Breaks what nobody feels; who repairs it, works."""
CLOSED = "ip route del unreachable {v4}; ip route del unreachable {v6} metric 4294967295"
"""Of IPv6 routes the type does not matter on deletion, so it would take the first."""


def run(script: str) -> Act:
    """Run a shell script on the node; {own4}, {v4} and {v6} are a pod network of its own and those of its neighbour."""

    def act(lab: Lab, node: LabNode) -> None:
        v4, v6 = neighbour(lab, node).pod_cidrs
        node.place.run("sh", "-ec", script.format(own4=node.pod_cidrs[0], v4=v4, v6=v6))

    return act


def then(*acts: Act) -> Act:
    """One after the other."""

    def act(lab: Lab, node: LabNode) -> None:
        for one in acts:
            one(lab, node)

    return act


def annotate(lab: Lab, name: str, values: Mapping[str, str | None]) -> None:
    """Change a Node's annotations by hand."""
    lab.api.admin.patch(f"/api/v1/nodes/{name}", {"metadata": {"annotations": values}})


def spoken(node: LabNode) -> int:
    """How long the log is by now, in bytes."""
    return node.path(LOG).stat().st_size


def says(node: LabNode, *words: str, since: int) -> None:
    """Wait until one line of the log, from there on, has all the words."""

    def said() -> bool:
        with node.path(LOG).open("rb") as log:
            log.seek(since)
            return any(all(word in line for word in words) for line in log.read().decode().splitlines())

    eventually(said, what=f"the agent of {node.name} says {words}", seconds=20)


def stop_agent(_lab: Lab, node: LabNode) -> None:
    assert node.stop_agent() == 0


def works_without_api_server(lab: Lab, node: LabNode) -> None:
    lab.api.stop()
    run(UNSEEN)(lab, node)
    closed = f"unreachable {node.pod_cidrs[0]}"
    eventually(lambda: closed in node.place.run("ip", "route"), what=f"{node.name} is repaired without an API server")


def delete_node_object(lab: Lab, node: LabNode) -> None:
    lab.api.admin.delete_node(node.name)
    eventually(lambda: node.conflist() is None, what=f"{node.name} takes no pods without a Node")


def register_in_parts(lab: Lab, node: LabNode) -> None:
    """By a kubelet that does not know its addresses yet; then controllers give networks, and at last it gets a token."""
    others = {one: spoken(one) for one in lab.nodes.values() if one is not node}
    lab.api.admin.create_node(node.name)
    annotate(lab, node.name, {"wigglenet/node-ips": "no list"})
    for one, since in others.items():
        says(one, f"problem: node {node.name}", "wigglenet/node-ips", since=since)
    annotate(lab, node.name, {"wigglenet/node-ips": None})
    lab.api.admin.complete_node(node.name, node.pod_cidrs, [str(a) for a in node.addresses])
    lab.give_credentials(node)


def damage_key(_lab: Lab, node: LabNode) -> None:
    for aside in node.path(KEY).parent.glob("*.corrupt-*"):
        aside.unlink()
    node.path(KEY).write_text("garbage")


def damaged_key_is_aside(_lab: Lab, node: LabNode) -> bool:
    return [path.read_text() for path in node.path(KEY).parent.glob("private.key.corrupt-*")] == ["garbage"]


def remove_peer(lab: Lab, node: LabNode) -> None:
    v4 = neighbour(lab, node).pod_cidrs[0]
    (key,) = (key for key, peer in node.wireguard().items() if v4 in peer.allowed_ips)
    node.place.run("wg", "set", LINK, "peer", key, "remove")


def foreign_route(version: int) -> Act:
    """In the place of ours, by a router that is not there, so that nothing leaves in clear."""

    def act(lab: Lab, node: LabNode) -> None:
        since, network = spoken(node), neighbour(lab, node).pod_cidrs[version == 6]
        via = "2001:db8::fa metric 1024" if version == 6 else "192.0.2.250"
        node.place.run(*f"ip -{version} route replace {network} dev eth0 proto static via {via}".split())
        says(node, f"problem: route {network} dev eth0", since=since)

    return act


def kill_wireguard(_lab: Lab, node: LabNode) -> None:
    pid = node.wireguard_pid()
    os.kill(pid, signal.SIGKILL)
    eventually(lambda: not Path(f"/proc/{pid}").exists(), what="wireguard-go has ended, and its link with it")


def hang_wireguard(lab: Lab, node: LabNode) -> None:
    since = spoken(node)
    os.kill(node.wireguard_pid(), signal.SIGSTOP)
    run(UNSEEN)(lab, node)
    says(node, "WireGuard device", "no answer", since=since)


def start_second_agent(_lab: Lab, node: LabNode) -> None:
    status, said = node.second_agent()
    assert status, "a second agent ended well"
    assert "another agent" in said


def start_api_server(lab: Lab, _node: LabNode) -> None:
    """And have every agent show that it listens again."""
    lab.api.start()
    for name in lab.nodes:
        annotate(lab, name, {"wigglenet/node-ips": None})


def aged(lab: Lab, name: str) -> bool:
    """Whether the Node was created in an earlier second than this."""
    created = lab.api.admin.get(f"/api/v1/nodes/{name}")["metadata"]["creationTimestamp"]
    return datetime.fromisoformat(created).timestamp() <= time.time() - 1


def create_malformed_node(lab: Lab, node: LabNode) -> None:
    eventually(lambda: all(aged(lab, name) for name in lab.nodes), what="every Node is older than one that is created now")
    since = {one: spoken(one) for one in lab.nodes.values()}
    name = f"malformed-{next(NUMBERS)}"  # of one that was there a moment ago nothing new is told
    lab.api.admin.create_node(name, ["0.0.0.0/0", node.pod_cidrs[1]])
    annotate(lab, name, {"wigglenet/public-key": "no key"})
    for one, start in since.items():
        for word in ("wigglenet/public-key", "0.0.0.0/0", node.pod_cidrs[1]):
            says(one, f"problem: node {name}", word, since=start)


def delete_malformed_nodes(lab: Lab, _node: LabNode) -> None:
    names = [node["metadata"]["name"] for node in lab.api.admin.get("/api/v1/nodes")["items"]]
    for name in names:
        if name.startswith("malformed"):
            lab.api.admin.delete_node(name)


def touched(command: str) -> Act:
    """Change the firewall's table; the agent says who did."""

    def act(lab: Lab, node: LabNode) -> None:
        since = spoken(node)
        run(command)(lab, node)
        says(node, "table inet wigglenet was changed", "process nft", since=since)

    return act


def sysctl(setting: str) -> Act:
    return run(f"sysctl -qw {setting}")


AGENT: dict[str, Any] = {"heal": lambda _lab, node: node.start_agent(), "seconds": 20.0, "restarts": True}
DARK: dict[str, Any] = {"concerns": "node", "seconds": 1.0, "dark": 1.0}
ROUTE: dict[str, Any] = {"concerns": "neighbour", "seconds": 1.0, "dark": 1.0}
FAULTS = (
    Fault(name="the agent is stopped and started", harm=then(stop_agent, run(UNSEEN)), **AGENT),
    Fault(name="the agent is killed and started", harm=then(lambda _lab, node: node.kill(), run(UNSEEN)), **AGENT),
    Fault(name="a second agent is started by mistake", harm=start_second_agent, seconds=1.0),
    Fault(
        name="the API server is away for a while",
        harm=works_without_api_server,
        heal=start_api_server,
        seconds=15.0,
        alone=True,
        anywhere=True,
    ),
    Fault(  # before the next one, after which others remember for a minute what the Node said
        name="the annotations are removed by hand",
        harm=lambda lab, node: annotate(lab, node.name, dict.fromkeys(IDENTITY)),
        seconds=2.0,
        alone=True,
    ),
    Fault(
        name="the Node object is deleted and registered anew",
        harm=delete_node_object,
        heal=Lab.register,
        seconds=2.0,
        alone=True,
    ),
    Fault(
        name="the Node object is deleted and registered in parts",
        harm=delete_node_object,
        heal=register_in_parts,
        seconds=2.0,
        alone=True,
    ),
    Fault(
        name="a malformed Node is created",
        harm=create_malformed_node,
        heal=delete_malformed_nodes,
        seconds=1.0,
        alone=True,
        anywhere=True,
    ),
    Fault(name="the key file is removed", harm=run(f"rm {KEY}"), seconds=1.0),
    Fault(name="the key file is damaged", harm=damage_key, healed=damaged_key_is_aside, seconds=1.0),
    Fault(name="the CNI file is removed", harm=run(f"rm {CONFLIST}"), seconds=1.0),
    Fault(name="the CNI file is edited", harm=run(f"echo >> {CONFLIST}"), seconds=1.0),
    Fault(name="the link is deleted", harm=run(f"ip link del {LINK}"), **DARK),
    Fault(name="the link is set down", harm=run(f"ip link set {LINK} down"), **DARK),
    Fault(
        name="the link is renamed",
        # The agent may set it up between the two, and give it its name again before the third.
        harm=run(f"until ip link set {LINK} down && ip link set {LINK} name foo; do :; done; ip link set foo up || :"),
        **DARK,
    ),
    Fault(name="the MTU is changed", harm=run(f"ip link set {LINK} mtu 1300"), seconds=1.0),
    # With the last IPv4 address of a link the kernel removes its IPv4 routes (net/ipv4/fib_frontend.c, fib_inetaddr_event).
    Fault(name="the IPv4 address is removed", harm=run(f"ip -4 addr flush dev {LINK}"), **DARK),
    Fault(name="the IPv6 address is removed", harm=run(f"ip -6 addr flush dev {LINK} scope global"), seconds=1.0),
    Fault(name="a peer is removed", harm=remove_peer, concerns="neighbour", seconds=11.0, dark=11.0),
    Fault(name="an IPv4 route is removed", harm=run(f"ip route del {{v4}} dev {LINK}"), **ROUTE),
    Fault(name="an IPv6 route is removed", harm=run(f"ip route del {{v6}} dev {LINK}"), **ROUTE),
    Fault(name="closed routes are removed", harm=run(CLOSED), seconds=1.0),
    Fault(
        name="a foreign IPv4 route is in the way", harm=foreign_route(4), heal=run("ip route del {v4} proto static"), **ROUTE
    ),
    Fault(
        name="a foreign IPv6 route is in the way", harm=foreign_route(6), heal=run("ip route del {v6} proto static"), **ROUTE
    ),
    Fault(name="IPv4 forwarding is switched off", harm=sysctl("net.ipv4.ip_forward=0"), **DARK),
    Fault(name="IPv6 forwarding is switched off", harm=sysctl("net.ipv6.conf.all.forwarding=0"), **DARK),
    Fault(name="rp_filter is set to strict", harm=sysctl(f"net.ipv4.conf.{LINK}.rp_filter=1"), **DARK),
    Fault(name="the firewall is flushed", harm=touched("nft flush ruleset"), seconds=1.0),
    Fault(name="the firewall's table is deleted", harm=touched("nft delete table inet wigglenet"), seconds=1.0),
    Fault(
        name="a rule is put into the firewall",
        harm=touched("nft insert rule inet wigglenet wt_forward ip saddr {v4} drop"),
        concerns="neighbour",
        seconds=1.0,
        dark=1.0,
    ),
    Fault(
        name="an element is removed from the firewall",
        harm=touched("nft delete element inet wigglenet wt_own4 {{ {own4} }}"),
        seconds=1.0,
    ),
    Fault(name="wireguard-go is killed", harm=kill_wireguard, userspace=True, **DARK),
    Fault(
        name="wireguard-go hangs",
        harm=hang_wireguard,
        heal=lambda _lab, node: os.kill(node.wireguard_pid(), signal.SIGCONT),
        burst=True,  # more than the buffers of the others' sockets hold (212 kB; they count it as RcvbufErrors)
        alone=True,  # a handshake that is lost meanwhile is tried again after 5 s only (WireGuard's REKEY_TIMEOUT)
        userspace=True,
        **DARK,
    ),
)
