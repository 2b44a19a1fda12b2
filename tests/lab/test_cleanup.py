"""`cleanup`: what the product made is gone, what it changed is as before, and nothing else is touched."""

import json
from collections.abc import Mapping
from typing import Any

import pytest

from tests.lab.lab import Lab
from tests.lab.node import CONFLIST, KEY, LINK, LabNode
from tests.lab.wait import eventually
from wigglenet_operator.plan.desired import ENDPOINT, STATUS

NATIVE = {"NATIVE_ROUTING_IPV4": "on", "NATIVE_ROUTING_IPV6": "on"}
HARDENED = ("net.ipv4.conf.all.accept_redirects=0", "net.ipv4.conf.eth0.forwarding=1", "net.ipv6.conf.eth0.forwarding=1")
"""What the kernel forgets when forwarding is turned on, and does not bring back when it is turned off."""
SHOWN = """ip -4 route show table all; ip -6 route show table all; ip rule; ip -6 rule; nft -s list ruleset
sysctl -a 2>/dev/null | grep '^net[.]' | grep -v nf_conntrack_count
find /etc/cni /etc/wigglenet /run/wigglenet /run/cni-ipam-state 2>/dev/null | sort; cat /etc/cni/net.d/* 2>/dev/null"""
SOMEBODYS = "table inet somebodys { chain some { ct state established accept; }; }"
"""It has the kernel load conntrack, whose settings come with it and stay."""
VOLATILE = {"ifindex", "link_index", "valid_life_time", "preferred_life_time"}


def look(lab: Lab, node: LabNode) -> dict[str, Any]:
    """All of the node, and of its Node, that the product could have changed."""
    links = json.loads(node.place.run("ip", "-json", "-details", "addr"))
    found = lab.api.admin.get(f"/api/v1/nodes/{node.name}")
    return {
        "links": {link["ifname"]: _steady(link) for link in links},
        "node": {**found, "metadata": {"labels": found["metadata"].get("labels")}},
        "annotations": found["metadata"].get("annotations") or {},
        **dict.fromkeys(node.place.run("sh", "-c", SHOWN).splitlines(), True),
    }


def _steady(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: _steady(v) for k, v in value.items() if k not in VOLATILE}
    return [_steady(v) for v in value] if isinstance(value, list) else value


ONLY = {"FIREWALL_ONLY": "on"}
OTHER = {"WIGGLENET_PRIVKEY_PATH": "/etc/wigglenet/other.key", "CNI_CONFIG_PATH": "/etc/cni/net.d/20-other.conflist"}
MODES: dict[str, tuple[Mapping[str, str], Mapping[str, str]]] = {
    "tunnel": ({}, {}),
    "native": (NATIVE, NATIVE),
    "firewall only": (ONLY, ONLY),
    "tunnel, then native": ({}, NATIVE),
    "tunnel, then firewall only": ({}, ONLY),
    "other names": (OTHER, OTHER),
}
"""The settings that a node runs with, and those that it is cleaned up with."""


def machine(lab: Lab, name: str, settings: Mapping[str, str] | None = None) -> LabNode:
    """A node as a kubelet leaves it, with what is others'."""
    node = lab.add_node(name, agent=False, environment=settings)
    node.path("/etc/cni/net.d").mkdir(parents=True, exist_ok=True)
    node.path("/etc/cni/net.d/99-other.conf").write_text("{}")
    lab.api.admin.patch(f"/api/v1/nodes/{name}", {"metadata": {"annotations": {ENDPOINT: str(node.addresses[0])}}})
    node.place.run("nft", "-f", "-", stdin=SOMEBODYS)
    eventually(lambda: "tentative" not in node.place.run("ip", "addr"), what="its addresses can be used")
    return node


def start(lab: Lab, node: LabNode, settings: Mapping[str, str]) -> None:
    """Start what the node runs, until it has done everything once."""
    if settings in (NATIVE, ONLY):
        node.start_agent()
    else:
        lab.start(node)

    def told() -> bool:
        if settings is ONLY:
            return "inet wigglenet" in node.place.run("nft", "list", "tables")
        return STATUS in lab.annotations(node.name)

    eventually(told, what=f"{node.name} has told of itself, or has its firewall", seconds=90)


def stop(node: LabNode) -> None:
    """End agent and container of the implementation, which itself goes on as long as its link does."""
    node.stop_agent()
    if node.wireguard_kind() == "tun":
        node.abandon_wireguard()


def pod_comes_and_goes(node: LabNode) -> None:
    path = node.environment.get("CNI_CONFIG_PATH", CONFLIST)
    pod = node.pod(conflist=json.loads(node.path(path).read_text()))
    pod.wait_connected()
    node.pods.pop(pod.name).delete()


@pytest.mark.parametrize(("ran", "cleaned"), MODES.values(), ids=MODES.keys())
def test_after_cleanup_a_node_is_as_before_the_first_start(
    empty_lab: Lab, ran: Mapping[str, str], cleaned: Mapping[str, str]
) -> None:
    lab, node = empty_lab, machine(empty_lab, "a", ran)
    node.place.run("sysctl", "-qw", *HARDENED)
    before = look(lab, node)
    other = machine(lab, "b", ran)
    start(lab, node, ran)
    start(lab, other, ran)
    if ran is not ONLY:
        pod_comes_and_goes(node)
    if ran in ({}, OTHER):
        eventually(lambda: len(node.wireguard()) == 1, what="a has its peer")
    node.environment |= cleaned
    key = node.path(node.environment.get("WIGGLENET_PRIVKEY_PATH", KEY))

    stop(node)
    assert node.cleanup()[0] == 0
    assert key.exists() is (ran in ({}, OTHER)), "other nodes may know it"
    status, said = node.cleanup("--purge")
    assert (status, differences(before, look(lab, node))) == (0, {}), said
    assert node.cleanup("--purge") == (0, "nothing to remove\n")


@pytest.fixture
def meshed(empty_lab: Lab) -> tuple[Lab, LabNode]:
    """A node with a pod that works, and another one."""
    node = machine(empty_lab, "a")
    start(empty_lab, node, {})
    empty_lab.add_node("b")
    empty_lab.expect_mesh()
    return empty_lab, node


def test_beside_an_agent_nothing_is_removed_and_a_dry_run_says_what_would_be(meshed: tuple[Lab, LabNode]) -> None:
    lab, node = meshed
    before = look(lab, node)

    status, said = node.cleanup("--purge")
    assert status == 1
    assert said.endswith("end it first: kubectl -n kube-system delete ds -l app.kubernetes.io/name=wigglenet-operator\n")
    status, would = node.cleanup("--purge", "--dry-run")
    assert status == 0
    assert differences(before, look(lab, node)) == {}
    lab.expect_mesh()
    stop(node)
    status, did = node.cleanup("--purge")
    assert status == 0
    assert would.replace("would remove", "removed").replace("would restore", "restored") == did
    assert {line.split()[1] for line in did.splitlines()[1:]} >= {CONFLIST, "route", "link", "table", KEY, "annotation"}
    assert did.startswith("pods with addresses of this network: 1 (10.1.11.2, fd00:10:1:b::2)")


def test_what_cannot_be_removed_is_named_and_the_rest_goes(meshed: tuple[Lab, LabNode]) -> None:
    """And is removed when it can be: as after a crash half-way."""
    lab, node = meshed
    stop(node)
    node.place.run("mount", "--bind", "/etc/cni/net.d", "/etc/cni/net.d")
    node.place.run("mount", "-o", "remount,bind,ro", "/etc/cni/net.d")
    lab.api.stop()

    status, said = node.cleanup()
    assert status == 1
    named = [line for line in said.splitlines() if line.startswith("NOT REMOVED")]
    assert [line.split(":")[0] for line in named] == [f"NOT REMOVED {CONFLIST}", "NOT REMOVED annotations of node a"]
    assert "Read-only file system" in named[0]
    assert LINK not in node.place.run("ip", "link")
    assert "unreachable" not in node.place.run("ip", "route")
    assert node.place.run("nft", "list", "tables") == "table inet somebodys\n"

    lab.api.start()
    node.place.run("umount", "/etc/cni/net.d")
    status, said = node.cleanup()
    assert status == 0
    assert f"removed {CONFLIST}\n" in said
    assert lab.annotations("a").keys() == {ENDPOINT}


def test_what_is_not_ours_stays_and_is_named(empty_lab: Lab) -> None:
    lab, node = empty_lab, machine(empty_lab, "a", NATIVE)
    start(lab, node, NATIVE)
    node.stop_agent()
    node.place.batch(f"link add {LINK} type bridge", f"link set {LINK} up", f"route add 203.0.113.0/24 dev {LINK}")
    node.place.run("sysctl", "-qw", "net.ipv6.conf.all.forwarding=2")
    links, routes = (node.place.run("ip", *what) for what in (("link",), ("route",)))

    status, said = node.cleanup()
    assert status == 0
    assert f"left link {LINK}: it is no WireGuard (bridge), so it is not ours\n" in said
    assert "left net/ipv6/conf/all/forwarding = 2: somebody else has set it since\n" in said
    assert "restored net/ipv4/ip_forward = 0\n" in said
    assert (links, routes) == tuple(node.place.run("ip", *what) for what in (("link",), ("route",)))
    assert node.place.run("sysctl", "-n", "net.ipv6.conf.all.forwarding") == "2\n"


def test_settings_are_those_before_the_first_of_several_starts(empty_lab: Lab) -> None:
    lab, node = empty_lab, machine(empty_lab, "a", NATIVE)
    start(lab, node, NATIVE)
    for _ in range(2):
        node.kill()
        node.place.run("sysctl", "-qw", "net.ipv4.conf.all.accept_redirects=0", "net.ipv4.ip_forward=0")
        node.start_agent()
        eventually(lambda: node.place.run("sysctl", "-n", "net.ipv4.ip_forward") == "1\n", what="the agent works", seconds=20)
    node.kill()

    assert node.cleanup()[0] == 0
    assert node.place.run("sysctl", "-n", "net.ipv4.ip_forward", "net.ipv4.conf.all.accept_redirects") == "0\n1\n"


def differences(one: Mapping[Any, Any], other: Mapping[Any, Any]) -> dict[Any, Any]:
    """What is not in both."""
    keys = {**one, **other}
    return {key: (one.get(key), other.get(key)) for key in keys if one.get(key) != other.get(key)}
