"""Nodes that say what they should not, through the API server as it lets them: each is named, and nobody else notices."""

import json
from functools import partial

from tests.lab.lab import Lab
from tests.lab.node import LabNode
from tests.lab.wait import eventually

NODES = "/api/v1/nodes"
LARGE = 250_000
"""Characters: all annotations of an object may have 256 KiB."""
KEY, CIDRS, IPS = "wigglenet/public-key", "wigglenet/pod-cidrs", "wigglenet/node-ips"
TAKEN = "taken"
"""Stands for what node a has."""
MALFORMED = (
    *({KEY: text} for text in ("", "x", "A" * 44, "\x1b[2J", "A" * LARGE)),
    *({CIDRS: text} for text in ("", "null", "{}", "[1", "[[]]", "[null]", '"10.9.0.0/24"', "[" * LARGE)),
    *({CIDRS: f'["{net}"]'} for net in ("0.0.0.0/0", "::/0", "10.9.0.0", "10.9.0.0/99", "fe80::/64", "::ffff:10.9.0.0/120")),
    *({IPS: f'["{ip}"]'} for ip in ("fe80::1%eth0", "::ffff:192.0.2.9", "192.0.2.999", "127.0.0.1", "")),
    {IPS: json.dumps(["192.0.2.1"] * 10 + ["x"] * 20_000)},
    {KEY: TAKEN},
    {CIDRS: TAKEN},
    {IPS: TAKEN},
)


def names_all(node: LabNode, names: list[str]) -> bool:
    """Whether the node's agent has told of a problem with each of these Nodes."""
    log = node.log()
    return all(f"problem: node {name}: " in log for name in names)


def test_malformed_nodes_are_named_by_every_agent_and_cost_nobody_a_packet(lab: Lab) -> None:
    pids = {name: node.agent_pid() for name, node in lab.nodes.items()}
    peers = {name: set(node.wireguard()) for name, node in lab.nodes.items()}
    a = lab.nodes["a"]
    taken = {KEY: lab.annotations("a")[KEY], CIDRS: json.dumps(a.pod_cidrs), IPS: json.dumps([str(ip) for ip in a.addresses])}
    names = [f"malformed-{number}" for number in range(len(MALFORMED))]
    with lab.no_loss():
        for name, notes in zip(names, MALFORMED, strict=True):
            lab.api.admin.create_node(name)
            said = {at: taken[at] if text == TAKEN else text for at, text in notes.items()}
            lab.api.admin.patch(f"{NODES}/{name}", {"metadata": {"annotations": said}})
        for node in lab.nodes.values():
            eventually(partial(names_all, node, names), what=f"{node.name} names every one", seconds=20)
        assert {name: set(node.wireguard()) for name, node in lab.nodes.items()} == peers
        for name in names:
            lab.api.admin.delete_node(name)
    assert {name: node.agent_pid() for name, node in lab.nodes.items()} == pids
    assert all(max(map(len, node.log().splitlines())) < 1000 for node in lab.nodes.values())
    lab.expect_mesh()
