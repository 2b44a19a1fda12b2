"""`status` and `diff` as people run them: on healthy and faulty nodes, without agent or API server, and from anywhere."""

import base64
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.lab.faults.cluster import delete_node_object
from tests.lab.faults.fault import Fault, run, values
from tests.lab.faults.node import set_peer, sysctl
from tests.lab.lab import Lab
from tests.lab.namespaces import Place, children, installation
from tests.lab.node import CONFLIST, KEY, LINK, LabNode
from tests.lab.state import node_state
from tests.lab.wait import eventually
from wigglenet_operator.model.facts import WireGuardKind
from wigglenet_operator.model.timing import PRODUCTION

MARKER = "/run/wigglenet/boot"
COMMAND = (sys.executable, "-m", "wigglenet_operator")


def ask(node: LabNode, *words: str) -> tuple[int, str]:
    """Exit status of a command on the node, in the agent's environment, and all that it said."""
    return node.command(*words)


def is_well(node: LabNode) -> bool:
    return ask(node, "status")[0] == 0


def files(node: LabNode) -> dict[str, object]:
    """Inode, times and mode of each file of the agent and of its directory: they differ when somebody has written it."""
    found: dict[str, object] = {}
    for path in (KEY, CONFLIST, MARKER):
        for each in (node.path(path), node.path(path).parent):
            stat = each.stat() if each.exists() else None
            found[str(each)] = stat and (stat.st_ino, stat.st_mtime_ns, stat.st_ctime_ns, stat.st_mode)
    return found


@pytest.fixture
def node(lab: Lab) -> Iterator[LabNode]:
    """A healthy node; it is restored after the test, and healthy again."""
    found = lab.nodes["a"]
    lab.expect_mesh()
    eventually(lambda: is_well(found), what="node a is well", seconds=30)
    yield found
    found.place.run("ip", "link", "set", "api0", "up")
    if found._agent is None:  # noqa: SLF001 - the test has taken it away
        found.start_agent()
    eventually(lambda: is_well(found), what=f"node a is well again:\n{ask(found, 'status')[1]}", seconds=60)


def test_a_healthy_node_shows_link_peers_routes_firewall_and_pod_networks(lab: Lab, node: LabNode) -> None:
    status, said = ask(node, "status")
    found = json.loads(ask(node, "status", "-o", "json")[1])

    assert status == 0, said
    assert said.splitlines()[0] == "node a  well"
    assert found["well"] is True
    assert found["agent"]["ready"] is True
    assert {peer["node"] for peer in found["peers"]} == lab.nodes.keys() - {"a"}
    assert all(peer["handshake"] and peer["received"] and peer["sent"] for peer in found["peers"])
    assert found["link"]["publicKey"] == lab.annotations("a")["wigglenet/public-key"]
    assert set(found["routes"]["tunnel"]) == node.routes()
    assert set(found["podNetworks"]) == set(node.pod_cidrs)
    assert found["firewall"]["elements"]["own4"] == 1
    assert found["cni"]["there"]


def test_status_and_diff_leave_a_node_and_its_agent_alone(lab: Lab, node: LabNode) -> None:
    before, stats, said = node_state(lab, node), files(node), node.log()

    assert ask(node, "diff") == (0, "nothing would be changed\n")
    assert ask(node, "status")[0] == 0
    assert node_state(lab, node) == before
    assert files(node) == stats
    assert node.log() == said


def test_a_dead_agents_node_is_shown_by_the_kernel_and_the_api_server(lab: Lab, node: LabNode) -> None:
    node.kill()

    status, said = ask(node, "status")

    assert status == 1
    assert "no agent is at work" in said
    assert f"{LINK} up" in said
    assert all(f"\n{name} " in said for name in lab.nodes if name != "a")
    assert "cannot be told" not in said


def test_an_agent_without_its_api_server_still_knows_its_peers(lab: Lab, node: LabNode) -> None:
    node.place.run("ip", "link", "set", "api0", "down")

    _, said = ask(node, "status")

    assert "agent         ready" in said
    assert all(f"\n{name} " in said for name in lab.nodes if name != "a")
    assert "cannot be told" not in said


def test_with_neither_agent_nor_api_server_the_kernel_is_shown(node: LabNode) -> None:
    node.kill()
    node.place.run("ip", "link", "set", "api0", "down")

    status, said = ask(node, "status")

    assert status == 1
    assert "cannot be told list Nodes: " in said
    for key in node.wireguard():
        assert f"\n{key} " in said
    status, said = ask(node, "diff")
    assert status == 3
    assert "list Nodes: " in said


def test_an_agent_that_hangs_is_told_from_one_that_is_dead(node: LabNode) -> None:
    node.freeze()
    try:
        status, said = ask(node, "status")
    finally:
        node.thaw()

    assert status == 1
    assert "the agent does not answer" in said


def test_a_node_without_its_link_is_shown(lab: Lab, node: LabNode) -> None:
    node.kill()
    if lab.wireguard is WireGuardKind.USERSPACE:
        node.stop_wireguard()
    else:
        node.place.run("ip", "link", "del", LINK)
    try:
        status, said = ask(node, "status")
        found, would = ask(node, "diff")
    finally:
        if lab.wireguard is WireGuardKind.USERSPACE:
            node.start_wireguard()

    assert status == 1
    assert f"there is no link {LINK}" in said
    assert found in {1, 3}
    assert f"link + {LINK}" in would or "cannot be told device: no WireGuard answers" in would


@dataclass(frozen=True)
class DiffRow:
    """A fault, and the change that `diff` shows of it; `values` are substituted in the text."""

    fault: Fault
    shown: str


DIFFS = (
    DiffRow(Fault("the MTU is changed", run(f"ip link set {LINK} mtu 1300")), f"link ~ {LINK} mtu 1300 -> 1420"),
    DiffRow(Fault("a tunnel route is removed", run(f"ip route del {{peer4}} dev {LINK}")), f"route + {{peer4}} dev {LINK}"),
    DiffRow(Fault("an unreachable route is removed", run("ip route del unreachable {peer4}")), "route + {peer4} unreachable"),
    DiffRow(
        Fault("there is another route into the tunnel", run(f"ip route add 10.222.0.0/24 dev {LINK}")),
        f"route - 10.222.0.0/24 dev {LINK} (of another protocol)",
    ),
    DiffRow(
        Fault("the IPv4 address is removed", run(f"ip addr del {{gateway4}}/32 dev {LINK}")),
        f"address + {{gateway4}}/32 dev {LINK}",
    ),
    DiffRow(Fault("a peer has keepalives", set_peer("persistent-keepalive", "7")), "peer ~ b keepalive 0"),
    DiffRow(Fault("the port is changed", run(f"wg set {LINK} listen-port 1234")), f"device ~ {LINK} port 1234 -> 24601"),
    DiffRow(Fault("a peer is removed", set_peer("remove")), "peer + b endpoint "),
    DiffRow(
        Fault("an element is put into the firewall", run("nft add element inet wigglenet wt_pods4 '{{ 10.9.9.0 }}'")),
        "set element - wt_pods4: 10.9.9.0",
    ),
    DiffRow(Fault("a rule is put into the firewall", run("nft add rule inet wigglenet wt_forward accept")), "    - accept"),
    DiffRow(Fault("the firewall's table is deleted", run("nft delete table inet wigglenet")), "table + inet wigglenet: "),
    DiffRow(
        Fault("IPv4 forwarding is switched off", sysctl("net.ipv4.ip_forward=0")),
        "setting ~ net/ipv4/ip_forward 0 -> 1",
    ),
    DiffRow(Fault("the CNI file is edited", run(f"sed -i s/1420/1300/ {CONFLIST}")), f"file ~ {CONFLIST}\n    - "),
    DiffRow(Fault("the CNI file is removed", run(f"rm {CONFLIST}")), f"file + {CONFLIST}"),
    DiffRow(Fault("the key file is removed", run(f"rm {KEY}")), f"file + {KEY}: (a new key)"),
)
"""Each fault is injected in addition to the ones before it; the agent repairs all of them in the end."""


def test_diff_shows_each_fault_and_writes_nothing(lab: Lab, node: LabNode) -> None:
    whole = node_state(lab, node)
    private = node.path(KEY).read_bytes()
    node.kill()
    for row in DIFFS:
        row.fault.inject(lab, node)
        before, stats = node_state(lab, node), files(node)

        status, said = ask(node, "diff")

        assert status == 1, row.fault
        assert row.shown.format_map(values(lab, node)) in said, f"{row.fault}\n{said}"
        assert node_state(lab, node) == before, row.fault
        assert files(node) == stats, row.fault
        assert private.decode().strip() not in said
    assert {change["table"] for change in json.loads(ask(node, "diff", "-o", "json")[1])["changes"]} >= {"key", "cni", "peers"}
    node.path(KEY).write_bytes(private)
    node.path(KEY).chmod(0o600)
    node.start_agent()
    eventually(lambda: node_state(lab, node) == whole, what="the agent repairs what diff has named", seconds=30)
    eventually(lambda: ask(node, "diff")[0] == 0, what="nothing is left", seconds=20)


def test_a_missing_annotation_is_named(lab: Lab, node: LabNode) -> None:
    node.kill()
    lab.api.admin.patch("/api/v1/nodes/a", {"metadata": {"annotations": {"wigglenet/pod-cidrs": None}}})

    status, said = ask(node, "diff")

    assert status == 1
    assert f"annotation + wigglenet/pod-cidrs={json.dumps(sorted(node.pod_cidrs, reverse=True), separators=(',', ':'))}" in said
    assert "wigglenet/pod-cidrs" not in lab.annotations("a")


def test_a_lost_key_file_of_an_agent_at_work_is_no_new_key(lab: Lab, node: LabNode) -> None:
    """The agent remembers it; frozen, it does not put it back at once."""
    key = lab.annotations("a")["wigglenet/public-key"]
    node.freeze()
    try:
        node.path(KEY).unlink()
        status, said = ask(node, "diff")
    finally:
        node.thaw()

    assert (status, said) == (1, f"file + {KEY}: the key of {key}\n")


def test_diff_says_that_a_running_agent_keeps_a_node_that_was_deleted_a_moment_ago(lab: Lab, node: LabNode) -> None:
    """`diff` does not know the deleted Node, the agent does: it may come back unchanged."""
    gone = list(lab.nodes.values())[1]
    with Fault("the Node object is deleted", delete_node_object, repair=Lab.register).injected(lab, gone):
        status, said = ask(node, "diff")
        json_said = json.loads(ask(node, "diff", "-o", "json")[1])
        peers = node.wireguard()

    assert (status, len(peers)) == (1, len(lab.nodes) - 1)
    doubt = f"routes and firewall elements of a Node for {PRODUCTION.departed_node:g} s after the Node was deleted"
    assert doubt in said
    assert [doubt in sentence for sentence in json_said["untold"]] == [True]
    eventually(lambda: ask(node, "diff") == (0, "nothing would be changed\n"), what="the Node is back", seconds=20)


def test_watch_shows_one_block_after_the_other_and_ends_on_ctrl_c(node: LabNode) -> None:
    log = "/run/watch.log"
    watch = node.place.popen(*COMMAND, "status", "--watch", log=log, env=node.environment)

    eventually(lambda: node.path(log).read_text().count("node a  well\n") >= 2, what="two looks", seconds=20)
    for pid in children(watch.pid):
        os.kill(pid, signal.SIGINT)

    assert watch.wait(10) == 0
    assert "Traceback" not in node.path(log).read_text()


@pytest.mark.parametrize(
    ("environment", "told"),
    [
        ({"NATIVE_ROUTING_IPV4": "on", "NATIVE_ROUTING_IPV6": "on"}, "none wanted: native routing"),
        ({"FIREWALL_ONLY": "on"}, "none wanted: firewall only"),
    ],
    ids=["native routing", "firewall only"],
)
def test_a_node_without_a_tunnel_is_well(empty_lab: Lab, environment: dict[str, str], told: str) -> None:
    node = empty_lab.add_node("a", agent=False, environment=environment)
    node.start_agent()

    eventually(lambda: is_well(node), what="it is well", seconds=30)
    assert told in ask(node, "status")[1]
    eventually(lambda: ask(node, "diff")[0] == 0, what="nothing would be changed", seconds=10)


def kubeconfig(lab: Lab) -> Path:
    """What an administrator has at home; of somebody who may read Nodes."""
    ca = base64.b64encode(lab.api.ca_pem.encode()).decode()
    token = lab.api.admin.token(lab.api.admin.get("/api/v1/nodes/a"))
    content: dict[str, Any] = {
        "clusters": [{"name": "lab", "cluster": {"server": lab.api.url, "certificate-authority-data": ca}}],
        "users": [{"name": "me", "user": {"token": token}}],
        "contexts": [{"name": "lab", "context": {"cluster": "lab", "user": "me"}}, {"name": "none", "context": {}}],
        "current-context": "lab",
    }
    path = lab.place.path("/run/kubeconfig")
    path.write_text(json.dumps(content))
    return path


def anywhere(place: Place, *words: str) -> tuple[int, str]:
    """The same of a command where there is no NODE_NAME."""
    environment = {**installation(), "KUBECONFIG": "/run/kubeconfig"}  # which the client library reads when it is imported
    done = subprocess.run(place.argv(*COMMAND, *words), env=environment, capture_output=True, text=True, check=False)
    return done.returncode, done.stdout + done.stderr


def test_from_anywhere_each_node_is_a_row_and_one_without_an_agent_is_named(lab: Lab, node: LabNode) -> None:
    kubeconfig(lab)
    eventually(lambda: anywhere(lab.place, "status")[0] == 0, what="the cluster is well", seconds=150)

    rows = [line.split() for line in anywhere(lab.place, "status")[1].splitlines()]
    assert rows[0][:2] == ["NODE", "PHASE"]
    assert [row[:2] for row in rows[1 : len(lab.nodes) + 1]] == [[name, "Ready"] for name in sorted(lab.nodes)]
    assert anywhere(lab.place, "status", "--kubeconfig", "/nowhere")[0] == 2
    lab.api.admin.create_node("z", ["10.1.200.0/24"], ["192.0.2.200"])
    try:
        status, said = anywhere(lab.place, "status")
        found = json.loads(anywhere(lab.place, "status", "-o", "json")[1])
    finally:
        lab.api.admin.delete_node("z")
    assert status == 1
    assert "\nz     no agent" in said
    assert {each["node"]: each["agent"] for each in found["nodes"]} == dict.fromkeys(lab.nodes, True) | {"z": False}
    assert node.name in lab.nodes
