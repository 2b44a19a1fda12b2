"""What is the largest packet that fits, who is told, and what becomes of TCP where nobody is told."""

import hashlib
import secrets
from collections.abc import Iterator
from functools import partial
from typing import Any

import pytest

from tests.lab.lab import ApiKind, Lab
from tests.lab.node import LabNode
from tests.lab.pod import Pod
from tests.lab.transfer import mss_told, sent_and_received
from tests.lab.underlay import FAR, ICMP_ERRORS, UNDERLAY
from tests.lab.wait import eventually
from wigglenet_operator.model.facts import WireGuardKind

TEN_MEGABYTES = 10_000_000
TCP_HEADERS = {4: 40, 6: 60}
"""IP's and TCP's, without options."""


def conflist_mtu(node: LabNode) -> int:
    """What new pods get."""
    return int((node.conflist() or {"plugins": [{"mtu": 0}]})["plugins"][0]["mtu"])


def pod_of_mtu(node: LabNode, mtu: int) -> Pod:
    """One that was started when the underlay carried more."""
    conflist: dict[str, Any] = dict(node.wait_ready())
    ptp, *others = conflist["plugins"]
    pod = node.pod(f"old-{node.name}", conflist={**conflist, "plugins": [{**ptp, "mtu": mtu}, *others]})
    pod.wait_connected()
    return pod


def is_fragment(frame: bytes) -> bool:
    """RFC 791, section 3.1; RFC 8200, section 4.5."""
    kind = frame[12:14]
    return (kind == b"\x08\x00" and bool(int.from_bytes(frame[20:22]) & 0x3FFF)) or (kind == b"\x86\xdd" and frame[20] == 44)


@pytest.fixture(
    scope="module",
    params=[
        (1450, "dualstack", 1370),
        (9000, "dualstack", 8920),
        (1450, "ipv4", 1390),
        (1450, "ipv6", 1370),
        (9000, "ipv4", 8940),
    ],
    ids=lambda param: f"{param[0]}-{param[1]}",
)
def sized(api_kind: ApiKind, request: pytest.FixtureRequest) -> Iterator[tuple[Lab, int]]:
    """Two nodes on an underlay of that MTU, and what the tunnel should have."""
    underlay_mtu, family, expected = request.param
    with Lab(api=api_kind, wireguard=WireGuardKind(request.config.getoption("--wireguard"))) as made:
        for name in "ab":
            node = made.add_node(name, agent=False, underlay_mtu=underlay_mtu)
            node.environment["WG_IP_FAMILY"] = family
            made.start(node)
        made.expect_mesh()
        yield made, expected


@pytest.mark.parametrize("version", [4, 6])
def test_exactly_the_largest_packet_passes_and_the_sender_of_a_longer_one_is_told(sized: tuple[Lab, int], version: int) -> None:
    lab, mtu = sized
    a, b = lab.pods()
    larger = pod_of_mtu(lab.nodes["a"], mtu + 64)

    assert {node.mtu() for node in lab.nodes.values()} == {mtu}
    assert {conflist_mtu(node) for node in lab.nodes.values()} == {mtu}
    for pod in (a, larger):
        assert pod.pings(b.addresses[version], size=mtu)
        assert pod.told_too_long(b.addresses[version], size=mtu) == 0
        assert not pod.pings(b.addresses[version], size=mtu + 1)
        assert pod.told_too_long(b.addresses[version], size=mtu + 1) == mtu


def test_the_largest_packet_crosses_the_underlay_in_one_piece(sized: tuple[Lab, int]) -> None:
    lab, mtu = sized
    capture = lab.capture()
    assert all(one.pings(other.addresses[version], size=mtu) for one, other, version in lab.pairs())
    packets = capture.stop()

    assert len([p for p in packets if len(p.frame) > mtu]) >= 8
    assert not [p for p in packets if is_fragment(p.frame)]


def test_link_conflist_and_mss_follow_the_underlay_together(empty_lab: Lab) -> None:
    lab = empty_lab
    nodes = [lab.add_node(name) for name in "ab"]
    lab.expect_mesh()
    one, other = (pod_of_mtu(node, 9000) for node in nodes)

    for underlay_mtu in (1500, 1450, 9000, 1500):
        for node in nodes:
            lab.set_mtu(node, underlay_mtu)
        told_together(nodes, (one, other), mtu=underlay_mtu - 80)


def told_together(nodes: list[LabNode], pods: tuple[Pod, Pod], *, mtu: int) -> None:
    """Links, new pods and old pods' connections all have that MTU."""
    one, other = pods
    for node in nodes:
        eventually(lambda n=node: n.mtu() == conflist_mtu(n) == mtu, what=f"{node.name} has {mtu}")  # type: ignore[misc]  # bool
    for version, headers in TCP_HEADERS.items():
        assert [mss_told(one, other, version), mss_told(other, one, version)] == [mtu - headers] * 2
        eventually(lambda v=version: one.pings(other.addresses[v], size=mtu), what=f"{mtu} bytes pass")  # type: ignore[misc]  # bool


def test_the_mtu_that_a_router_advertises_counts_for_ipv6(empty_lab: Lab) -> None:
    lab = empty_lab
    lab.add_router(UNDERLAY).advertise(UNDERLAY, lifetime_seconds=600, mtu=1400)
    for name in "ab":
        node = lab.add_node(name, agent=False)
        node.environment["WG_IP_FAMILY"] = "ipv6"
        told = partial(node.place.run, "sysctl", "-n", "net.ipv6.conf.eth0.mtu")
        eventually(lambda: told() == "1400\n", what=f"{name} has heard the router")  # noqa: B023 - at once
        lab.start(node)
    lab.expect_mesh()

    assert {node.mtu() for node in lab.nodes.values()} == {1320}
    capture = lab.capture()
    assert all(one.pings(other.addresses[version], size=1320) for one, other, version in lab.pairs())
    assert not [p for p in capture.stop() if is_fragment(p.frame)]


def drop_errors(pod: Pod) -> None:
    """Nobody tells this pod what does not fit."""
    chain = "add chain inet deaf input { type filter hook input priority 0; }"
    pod.run("nft", f"add table inet deaf; {chain}; " + "; ".join(f"add rule inet deaf input {rule}" for rule in ICMP_ERRORS))


@pytest.mark.parametrize(("near", "far"), [(1450, 1450), (9000, 9000), (9000, 1450)])
@pytest.mark.parametrize("started_with", [None, 9000], ids=["as-told", "larger"])
def test_ten_megabytes_arrive_where_every_icmp_error_is_dropped(
    empty_lab: Lab, near: int, far: int, started_with: int | None
) -> None:
    lab = empty_lab
    router = lab.add_router(UNDERLAY, lab.add_segment(FAR))
    router.refuse(*ICMP_ERRORS)
    a = lab.add_node("a", router=router, underlay_mtu=near)
    b = lab.add_node("b", segment=FAR, router=router, underlay_mtu=far)
    lab.expect_mesh()
    pods = [pod_of_mtu(node, started_with) for node in (a, b)] if started_with else lab.pods()
    for pod in pods:
        drop_errors(pod)
    content = secrets.token_bytes(TEN_MEGABYTES)

    one, other = pods
    for sender, receiver in ((one, other), (other, one)):
        for version in (4, 6):
            arrived = sent_and_received(sender, receiver, version, content)
            assert len(arrived) == TEN_MEGABYTES, f"{sender.name} to {receiver.name} IPv{version}"
            assert hashlib.sha256(arrived).digest() == hashlib.sha256(content).digest()


def test_a_transfer_of_too_large_segments_stops_where_errors_are_dropped(empty_lab: Lab) -> None:
    """The test above can fail: without the agent's clamping nothing gets through."""
    lab = empty_lab
    nodes = [lab.add_node(name) for name in "ab"]
    lab.expect_mesh()
    one, other = (pod_of_mtu(node, 1500) for node in nodes)
    drop_errors(one)
    for node in nodes:
        node.kill()
        node.place.run("nft", "delete", "table", "inet", "wigglenet")

    assert len(sent_and_received(one, other, 6, bytes(TEN_MEGABYTES), seconds=2)) < TEN_MEGABYTES
