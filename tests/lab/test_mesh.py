"""What pods see of a healthy cluster, and what the underlay sees of the pods."""

import json
import secrets
import time
from typing import Any

import pytest

from tests.lab.capture import kinds
from tests.lab.lab import Lab
from tests.lab.pod import PACE
from tests.lab.timing import LAB
from tests.lab.transfer import sent_and_received
from tests.lab.wait import SLOWNESS, eventually
from wigglenet_operator import __version__


def test_every_pod_reaches_every_other_by_icmp(lab: Lab) -> None:
    assert [f"{a.name} to {b.addresses[v]}" for a, b, v in lab.pairs() if not a.pings(b.addresses[v])] == []
    assert len(list(lab.pairs())) == 12


def test_every_pod_reaches_every_other_by_tcp(lab: Lab) -> None:
    content = secrets.token_bytes(40_000)

    assert all(sent_and_received(a, b, v, content) == content for a, b, v in lab.pairs())


def test_the_mtu_passes_exactly(lab: Lab) -> None:
    a, b = lab.pods()[:2]

    assert {node.mtu() for node in lab.nodes.values()} == {1420}
    for version in (4, 6):
        assert a.pings(b.addresses[version], size=1420)
        assert not a.pings(b.addresses[version], size=1421)


def test_the_underlay_sees_wireguard_and_what_finds_neighbours_and_nothing_of_the_pods(lab: Lab) -> None:
    marker = secrets.token_bytes(24)
    capture = lab.capture()
    for one, other, version in lab.pairs():
        assert one.pings(other.addresses[version])
        assert sent_and_received(one, other, version, marker * 20) == marker * 20
    packets = capture.stop()

    assert set(kinds(packets)) <= {"wireguard", "arp", "nd", "mld"}
    assert kinds(packets)["wireguard"] > 100
    assert not [p for p in packets if p.of_pods]
    assert not [p for p in packets if marker in p.frame or marker[:12] in p.frame]


def test_a_capture_sees_what_pods_send_in_clear(lab: Lab) -> None:
    """The judge of the test above can find guilty: a pod network put on the underlay by hand is seen."""
    a = lab.nodes["a"]
    capture = lab.capture()
    a.place.batch("addr add 10.1.200.1/32 dev eth0")
    a.place.run("ping", "-c", "1", "-W", "1", "-I", "10.1.200.1", "192.0.2.250", check=False)
    a.place.batch("neigh replace 192.0.2.250 lladdr 02:00:00:00:00:01 dev eth0")
    a.place.run("ping", "-c", "1", "-W", "1", "-p", "6d61726b6572", "-I", "10.1.200.1", "192.0.2.250", check=False)
    packets = capture.stop()
    a.place.batch("addr del 10.1.200.1/32 dev eth0", "neigh del 192.0.2.250 dev eth0")

    assert [p for p in packets if p.of_pods and b"marker" in p.frame]
    assert "other" in kinds(packets)


def test_each_node_says_in_its_status_that_it_is_ready(lab: Lab) -> None:
    def status(name: str) -> dict[str, Any]:
        told: dict[str, Any] = json.loads(lab.annotations(name).get("wigglenet/status", "{}"))
        return told

    expected = {
        "phase": "Ready",
        "version": __version__,
        "wireguard": lab.wireguard.value,
        "mtu": 1420,
        "peers": 2,
        "handshaken": 2,
    }
    for name in lab.nodes:
        eventually(lambda n=name: status(n) == {**expected, "problems": []}, what=f"{name} is ready", seconds=75)  # type: ignore[misc]  # a minute old
        assert list(status(name)) == [*expected, "problems"]


def test_no_agent_ever_logged_its_key(lab: Lab) -> None:
    for node in lab.nodes.values():
        key = node.path("/etc/wigglenet/private.key").read_text().strip()
        assert len(key) == 44
        assert key[:5] not in node.log()


def test_the_start_up_line_says_what_is_not_there_yet(lab: Lab) -> None:
    for node in lab.nodes.values():
        assert "masquerade=ipv4,ipv6 filter=off network_policy=not-yet" in node.log()


def test_a_turn_that_finds_nothing_to_do_writes_nothing(lab: Lab) -> None:
    """Over a whole resync: no link, address or route event on any node, no write to any Node but a status that was due."""
    versions = {name: lab.api.admin.get(f"/api/v1/nodes/{name}")["metadata"]["resourceVersion"] for name in lab.nodes}
    monitors = {
        name: node.place.popen("timeout", str(LAB.resync + 1), "ip", "monitor", "link", "address", "route")
        for name, node in lab.nodes.items()
    }
    events = {name: process.communicate()[0] for name, process in monitors.items()}

    assert events == dict.fromkeys(lab.nodes, "")
    after = {name: lab.api.admin.get(f"/api/v1/nodes/{name}")["metadata"]["resourceVersion"] for name in lab.nodes}
    changed = {name for name in lab.nodes if versions[name] != after[name]}
    assert all(lab.annotations(name)["wigglenet/status"].count('"handshaken":2') for name in changed)


@pytest.mark.parametrize(
    "command",
    [
        "ip link set wigglenet mtu 1300",
        "ip addr del 10.1.11.1/32 dev wigglenet",
        "ip route del 10.1.12.0/24 dev wigglenet",
        "ip route del fd00:10:1:c::/64 dev wigglenet",
        "ip route del unreachable 10.1.12.0/24",
        "ip link set wigglenet down",
    ],
)
def test_what_is_changed_by_hand_is_back(lab: Lab, command: str) -> None:
    a = lab.nodes["a"]

    def state() -> str:
        shown = (
            a.place.run("ip", family, *what) for family in ("-4", "-6") for what in (("addr", "show", "wigglenet"), ("route",))
        )
        return "\n".join(
            sorted(line for text in shown for line in text.splitlines() if "fe80" not in line and "ff00" not in line)
        )

    before = state()
    a.place.run(*command.split())

    eventually(lambda: state() == before, what=f"repaired: {command}")
    lab.expect_mesh()


def test_a_removed_peer_is_back_within_a_resync(lab: Lab) -> None:
    a = lab.nodes["a"]
    peers = a.wireguard()
    key = next(iter(peers))
    a.place.run("wg", "set", "wigglenet", "peer", key, "remove")
    assert key not in a.wireguard()

    eventually(lambda: key in a.wireguard(), what="the peer is back", seconds=LAB.resync + 2)
    lab.expect_mesh()


def test_annotations_that_somebody_removed_are_back(lab: Lab) -> None:
    before = lab.annotations("b")
    lab.api.admin.patch(
        "/api/v1/nodes/b", {"metadata": {"annotations": {"wigglenet/public-key": None, "wigglenet/pod-cidrs": "[]"}}}
    )

    eventually(
        lambda: (
            {k: v for k, v in lab.annotations("b").items() if "status" not in k}
            == {k: v for k, v in before.items() if "status" not in k}
        ),
        what="the annotations are back",
    )
    lab.expect_mesh()


def test_without_the_link_traffic_stops_and_nothing_leaves_in_clear_and_it_is_back_soon(lab: Lab) -> None:
    pods = lab.pods()
    a, b = pods[0], pods[1]
    capture = lab.capture()
    streams = [a.stream(b.addresses[v]) for v in (4, 6)]
    eventually(lambda: b.pings(a.addresses[4]), what="traffic flows")
    cut = time.monotonic()
    lab.nodes["a"].place.run("ip", "link", "del", "wigglenet")
    for version in (4, 6):
        eventually(lambda v=version: a.pings(b.addresses[v], seconds=0.05), what="traffic is back", seconds=3)  # type: ignore[misc]  # pings are bool
    dark = time.monotonic() - cut
    results = [stream.stop() for stream in streams]
    packets = capture.stop()

    assert all(lost for _, lost in results), "the cut was not felt"
    assert not [p for p in packets if p.of_pods]
    assert set(kinds(packets)) <= {"wireguard", "arp", "nd", "mld"}
    assert all(len(lost) * PACE < 1.0 * SLOWNESS for _, lost in results), f"dark for {results} echoes, {dark:.2f} s"
    lab.expect_mesh()
