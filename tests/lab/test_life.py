"""Nodes and agents that come, go and are replaced, and the lab itself, that leaves nothing behind."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from ipaddress import ip_network
from pathlib import Path

import pytest

import wigglenet_operator
from tests.lab.lab import Lab
from tests.lab.node import CONFLIST, LOG, LabNode
from tests.lab.pod import PACE, Pod
from tests.lab.wait import SLOWNESS, eventually
from wigglenet_operator.model.facts import IPNetwork
from wigglenet_operator.plan.cni import render_conflist

ROOT = Path(__file__).parents[2]


def networks(node: LabNode) -> list[IPNetwork]:
    return [ip_network(text) for text in node.pod_cidrs]


@pytest.fixture
def fourth(lab: Lab) -> Iterator[tuple[LabNode, Pod]]:
    """Node d with a pod, before it has an agent."""
    node = lab.add_node("d", agent=False)
    pod = node.pod("pod-d", conflist=json.loads(render_conflist(networks(node), mtu=1420)))
    pod.wait_connected()
    yield node, pod
    if "d" in lab.nodes:
        lab.remove_node("d")


@pytest.mark.alone
def test_a_joining_nodes_pod_reaches_all_others_soon_after_its_annotations_appear(
    lab: Lab, fourth: tuple[LabNode, Pod]
) -> None:
    node, pod = fourth
    others = [p for p in lab.pods() if p is not pod]
    lab.start(node)
    eventually(lambda: "wigglenet/public-key" in lab.annotations("d"), what="d is announced")
    announced = time.monotonic()
    for other in others:
        for version in (4, 6):
            eventually(lambda o=other, v=version: pod.pings(o.addresses[v], seconds=0.05), what=f"d reaches {other.name}")  # type: ignore[misc]  # pings are bool
    took = time.monotonic() - announced

    assert took < 1.0 * SLOWNESS, f"{took:.2f} s\n{lab.story()}"
    assert all(other.pings(pod.addresses[version]) for other in others for version in (4, 6))


def test_a_node_that_leaves_is_forgotten_by_all_after_a_minute_and_stays_closed(lab: Lab, fourth: tuple[LabNode, Pod]) -> None:
    node, _ = fourth
    lab.start(node)
    eventually(lambda: "wigglenet/public-key" in lab.annotations("d"), what="d is announced", seconds=20)
    key = lab.annotations("d")["wigglenet/public-key"]
    staying = [n for name, n in lab.nodes.items() if name != "d"]
    for other in staying:
        eventually(lambda o=other: key in o.wireguard(), what=f"{other.name} has d as a peer")  # type: ignore[misc]  # bool
    lab.remove_node("d")
    gone = time.monotonic()

    for other in staying:
        eventually(lambda o=other: key not in o.wireguard(), what=f"{other.name} has no peer d", seconds=90)  # type: ignore[misc]  # bool
        eventually(lambda o=other: not o.routes() & set(node.pod_cidrs), what=f"{other.name} has no route to d")  # type: ignore[misc]  # bool
        assert f"unreachable {node.pod_cidrs[0]}" in other.place.run("ip", "route")
    lingered = time.monotonic() - gone
    assert lingered > node.timing.departed_node / 2, "a Node that is registered anew at once would have lost packets"
    lab.expect_mesh()


def test_an_agent_that_is_stopped_and_started_costs_no_packet(lab: Lab) -> None:
    a = lab.nodes["a"]
    with lab.no_loss():
        assert a.stop_agent() == 0
        a.start_agent()
        eventually(lambda: a.log().count("started version") >= 2, what="the new agent runs")
        settled(a)


def test_an_agent_that_is_killed_costs_no_packet(lab: Lab) -> None:
    b = lab.nodes["b"]
    with lab.no_loss():
        b.kill()
        b.start_agent()
        settled(b)


def test_an_agent_from_another_installation_takes_over_without_a_lost_packet(lab: Lab) -> None:
    c = lab.nodes["c"]
    other = c.path("/run/other-installation/wigglenet_operator")
    shutil.copytree(Path(wigglenet_operator.__file__).parent, other)
    with lab.no_loss():
        c.stop_agent()
        c.execute_agent(pythonpath="/run/other-installation")
        settled(c)
    assert "/run/other-installation" in Path(f"/proc/{c.agent_pid()}/environ").read_text()


def settled(node: LabNode) -> None:
    """Wait until the newest agent has seen the cluster: what is removed now is put back."""
    node.place.run("ip", "route", "del", "unreachable", node.pod_cidrs[0])
    eventually(
        lambda: f"unreachable {node.pod_cidrs[0]}" in node.place.run("ip", "route"),
        what=f"{node.name}'s agent works",
        seconds=20,
    )


def test_a_restarted_agent_changes_nothing_in_an_unchanged_cluster(lab: Lab) -> None:
    a = lab.nodes["a"]
    conflist, key = a.path(CONFLIST), a.path("/etc/wigglenet/private.key")
    before = (
        conflist.stat().st_ino,
        conflist.stat().st_mtime_ns,
        key.read_text(),
        lab.annotations("a")["wigglenet/public-key"],
    )
    a.stop_agent()
    a.path(LOG).write_text("")
    a.start_agent()
    settled(a)

    after = (conflist.stat().st_ino, conflist.stat().st_mtime_ns, key.read_text(), lab.annotations("a")["wigglenet/public-key"])
    assert after == before
    (turn,) = eventually(lambda: [line for line in a.log().splitlines() if "converged" in line], what="the repair is logged")
    assert "converged closed=+1 took_ms" in turn, "the only thing to write was what was removed by hand"


@pytest.mark.kernel_wireguard
def test_a_node_moves_between_kernel_and_userspace_when_its_link_is_removed(lab: Lab) -> None:
    """On the administrator's word alone; key, port and peers stay, and less than a second is lost."""
    c = lab.nodes["c"]
    identity = c.place.run("wg", "show", "wigglenet", "public-key"), c.place.run("wg", "show", "wigglenet", "listen-port")

    def restarted(implementation: str) -> None:
        c.stop_agent()
        c.environment["WIGGLENET_WG_IMPLEMENTATION"] = implementation
        c.start_agent()
        settled(c)

    def told(text: str) -> bool:
        return text in lab.annotations("c")["wigglenet/status"]

    def moved(kind: str) -> bool:
        return c.wireguard_kind() == kind and len(c.wireguard()) == 2

    for implementation, kind, problem in (
        ("userspace", "tun", "it is held by kernel WireGuard, not by userspace as set; to switch: ip link del wigglenet"),
        ("auto", "wireguard", "kernel WireGuard is available; to switch: stop the implementation, ip link del wigglenet"),
    ):
        with lab.no_loss():
            restarted(implementation)
        assert c.wireguard_kind() != kind, "a working link was converted"
        eventually(lambda p=problem: told(p), what="the status tells how to switch", seconds=90)  # type: ignore[misc]  # bool
        pairs = [pair for pair in lab.pairs() if "c" in pair[0].name]
        streams = [one.stream(other.addresses[version]) for one, other, version in pairs]
        if implementation == "userspace":
            c.start_wireguard()
            c.place.run("ip", "link", "del", "wigglenet")
        else:
            c.stop_wireguard()
        eventually(lambda k=kind: moved(k), what=f"{kind} has link and peers")  # type: ignore[misc]  # bool
        lab.expect_mesh()
        results = [stream.stop() for stream in streams]
        assert all(len(lost) * PACE < 1.0 * SLOWNESS for _, lost in results), f"dark for {results} echoes"
        after = c.place.run("wg", "show", "wigglenet", "public-key"), c.place.run("wg", "show", "wigglenet", "listen-port")
        assert after == identity
    restarted(lab.wireguard.value)
    eventually(lambda: not told("to switch"), what="the problem is solved", seconds=90)


def test_pods_are_removed_by_the_plugins(lab: Lab) -> None:
    a = lab.nodes["a"]
    pod = a.pod("short-lived")
    eventually(lambda: pod.pings(lab.pods()[1].addresses[6]), what="the new pod is connected")
    pod.delete()
    del a.pods["short-lived"]

    leases = {p.name for p in a.path("/run/cni-ipam-state/wigglenet").iterdir()}
    assert not {str(address) for address in pod.addresses.values()} & leases


STORY = """
import signal, sys, time
from tests.lab.lab import Lab
signal.signal(signal.SIGINT, signal.default_int_handler)  # it is ignored under a job in the background
with Lab() as lab:
    lab.add_node("x").wait_ready()
    print(lab.place.pid, lab.nodes["x"].place.pid, lab.nodes["x"].agent_pid(), flush=True)
    time.sleep(60)
"""


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT], ids=lambda s: s.name)
def test_a_killed_lab_leaves_nothing_behind(number: signal.Signals, lab: Lab, tmp_path: Path) -> None:
    """Beside another lab, which does not notice."""
    before = machine()
    environment = {**os.environ, "TMPDIR": str(tmp_path)}
    process = subprocess.Popen([sys.executable, "-c", STORY], cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True)
    assert process.stdout
    pids = [int(word) for word in process.stdout.readline().split()]
    assert len(pids) == 3
    process.send_signal(number)
    process.wait(20)
    process.stdout.close()

    for pid in pids:
        eventually(lambda p=pid: not alive(p), what=f"process {pid} has ended")  # type: ignore[misc]  # bool
    assert machine() == before
    assert list(tmp_path.iterdir()) == []
    lab.expect_mesh()


def alive(pid: int) -> bool:
    """Whether a process runs; one that waits for its parent to notice does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def machine() -> dict[str, str]:
    """What a lab could have changed of the machine's network."""
    commands = {
        "links": "ip -br link",
        "routes": "ip route",
        "routes6": "ip -6 route",
        "rules": "ip rule",
        "namespaces": "ip netns",
    }
    shown = {
        name: subprocess.run(text.split(), capture_output=True, text=True, check=True).stdout for name, text in commands.items()
    }
    forwarding = Path("/proc/sys/net/ipv6/conf/all/forwarding").read_text() + Path("/proc/sys/net/ipv4/ip_forward").read_text()
    return {**shown, "forwarding": forwarding, "etc": str(Path("/etc/wigglenet").exists())}
