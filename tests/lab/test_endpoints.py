"""Where a peer's packets go: NAT and what it forgets, what the administrator announces, interfaces that come and go."""

import json

import pytest

from tests.lab.lab import Lab
from tests.lab.node import LabNode
from tests.lab.transfer import connection
from tests.lab.underlay import HOME, UNDERLAY
from tests.lab.wait import NotSeenError, eventually

PORT = 24601
FORWARDED = 30000
"""The router's port that leads to a node behind it."""
NOWHERE = "192.0.2.250:9"


def announce(lab: Lab, name: str, endpoint: str | None) -> None:
    """What the administrator does."""
    lab.api.admin.patch(f"/api/v1/nodes/{name}", {"metadata": {"annotations": {"wigglenet/endpoint": endpoint}}})


def endpoint(node: LabNode) -> str:
    """Where the device of a node with one peer sends."""
    return next((peer.endpoint for peer in node.wireguard().values()), "")


def wait_endpoint(node: LabNode, expected: str, *, seconds: float = 10) -> None:
    try:
        eventually(lambda: endpoint(node) == expected, what=f"{node.name} sends to {expected}", seconds=seconds)
    except NotSeenError as error:
        raise NotSeenError(f"{error}, but to {endpoint(node)}\n{node.log()[-4000:]}") from None


def two_nodes(lab: Lab, **environment: str) -> tuple[LabNode, LabNode]:
    """Nodes a and b, with settings."""
    nodes = [lab.add_node(name, agent=False) for name in "ab"]
    for node in nodes:
        node.environment |= environment
        lab.start(node)
    return nodes[0], nodes[1]


class Natted:
    """Node a, and node b behind a router that hides it; a has no way to b's own address."""

    def __init__(self, lab: Lab) -> None:
        home = lab.add_segment(HOME)
        self.lab, self.router = lab, lab.add_router(UNDERLAY, home)
        self.a = lab.add_node("a", agent=False)
        self.b = lab.add_node("b", agent=False, segment=home, router=self.router)
        self.b_address = self.b.addresses[0]
        self.nat = str(self.router.outside(UNDERLAY))

    def start(self) -> None:
        """Start what runs on both."""
        for node in (self.a, self.b):
            self.lab.start(node)


@pytest.fixture
def natted(empty_lab: Lab) -> Natted:
    return Natted(empty_lab)


def test_a_node_behind_a_nat_that_forgets_is_reached_with_keepalive_and_connections_go_on(natted: Natted) -> None:
    natted.router.hide(HOME)
    natted.b.environment["WIGGLENET_KEEPALIVE"] = "1"
    natted.start()
    natted.lab.expect_mesh()
    pod_a, pod_b = natted.lab.pods()

    with connection(pod_a, pod_b, 4) as inward, connection(pod_b, pod_a, 6) as outward:
        for _ in range(3):
            before = endpoint(natted.a)
            assert before.startswith(f"{natted.nat}:")
            natted.router.forget()
            eventually(lambda: endpoint(natted.a) not in {before, ""}, what="a sees b elsewhere")  # noqa: B023 - at once
            natted.a.wait_working()
            assert endpoint(natted.a).startswith(f"{natted.nat}:"), "what was announced has replaced what was seen"
            assert inward()
            assert outward()
    natted.lab.expect_mesh()


def test_without_keepalive_a_node_behind_a_nat_that_forgets_is_lost(natted: Natted) -> None:
    """The test above can fail: until b speaks nobody reaches it."""
    natted.router.hide(HOME)
    natted.start()
    natted.lab.expect_mesh()
    pod_a, pod_b = natted.lab.pods()

    natted.router.forget()
    before = endpoint(natted.a)

    assert not pod_a.pings(pod_b.addresses[4], seconds=2)
    assert endpoint(natted.a) == before


def test_a_node_that_never_speaks_first_is_reached_by_the_port_that_was_announced(natted: Natted) -> None:
    natted.router.hide(HOME, ports=[(FORWARDED, natted.b_address, PORT)], silent=True)
    natted.start()
    for node in (natted.a, natted.b):
        node.wait_ready()
    pod_a, pod_b = natted.lab.pods()
    assert not pod_a.pings(pod_b.addresses[4])

    announce(natted.lab, "b", f"{natted.nat}:{FORWARDED}")

    wait_endpoint(natted.a, f"{natted.nat}:{FORWARDED}")
    natted.lab.expect_mesh()
    assert endpoint(natted.a) == f"{natted.nat}:{FORWARDED}"


def test_a_peer_that_has_gone_silent_elsewhere_is_tried_where_it_is_announced(natted: Natted) -> None:
    """As after roaming; a peer that never shook hands, for else its session would have to be older than 180 s."""
    natted.router.hide(HOME, ports=[(FORWARDED, natted.b_address, PORT)], silent=True)
    announce(natted.lab, "b", f"{natted.nat}:{FORWARDED}")
    natted.start()
    natted.lab.expect_mesh()
    pod_a, pod_b = natted.lab.pods()
    (key,) = natted.a.wireguard()
    natted.router.refuse("meta l4proto udp drop")
    natted.a.place.run("wg", "set", "wigglenet", "peer", key, "remove")
    eventually(lambda: key in natted.a.wireguard(), what="the peer is back", seconds=15)
    natted.a.place.run("wg", "set", "wigglenet", "peer", key, "endpoint", NOWHERE)
    natted.router.refuse()

    stream = pod_a.stream(pod_b.addresses[4], interval=0.2)
    wait_endpoint(natted.a, f"{natted.nat}:{FORWARDED}", seconds=40)
    eventually(lambda: pod_a.pings(pod_b.addresses[4]), what="b is reached again")
    stream.stop()


ANNOUNCED = {
    "192.0.2.99": f"192.0.2.99:{PORT}",
    "192.0.2.99:24602": "192.0.2.99:24602",
    "[2001:db8::99]": f"[2001:db8::99]:{PORT}",
    "2001:db8::99": f"[2001:db8::99]:{PORT}",
    "[2001:db8::99]:24602": "[2001:db8::99]:24602",
}
"""What may be said, and what it means."""
WRONG = (
    "b.example",
    "192.0.2.99:",
    "192.0.2.99:0",
    "192.0.2.99:65536",
    "2001:db8::99:24602:x",
    "10.1.12.7",
    "127.0.0.1",
    "224.0.0.1",
    "fe80::1",
)


def test_the_announced_endpoint_is_used_and_a_wrong_one_is_named_and_skipped(empty_lab: Lab) -> None:
    lab = empty_lab
    a, b = two_nodes(lab)
    lab.expect_mesh()
    own = f"{b.addresses[0]}:{PORT}"

    for said, meant in ANNOUNCED.items():
        announce(lab, "b", said)
        wait_endpoint(a, meant)
    for said in WRONG:
        announce(lab, "b", f"{NOWHERE}")
        wait_endpoint(a, NOWHERE)
        announce(lab, "b", said)
        wait_endpoint(a, own)
        eventually(lambda: said in _last_problem(a), what=f"{said!r} is named")  # noqa: B023 - at once
    lab.expect_mesh()


def _last_problem(node: LabNode) -> str:
    lines = [line for line in node.log().splitlines() if "wigglenet/endpoint" in line]
    return lines[-1] if lines else ""


def test_an_endpoint_that_has_died_and_is_announced_anew_is_used_at_once(empty_lab: Lab) -> None:
    lab = empty_lab
    a, b = two_nodes(lab)
    b.place.batch("addr add 192.0.2.98/24 dev eth0")
    announce(lab, "b", "192.0.2.98")
    lab.expect_mesh()
    pod_a, pod_b = lab.pods()
    stream = pod_a.stream(pod_b.addresses[4])

    b.place.batch("addr del 192.0.2.98/24 dev eth0", "addr add 192.0.2.99/24 dev eth0")
    announce(lab, "b", "192.0.2.99:24601")
    wait_endpoint(a, "192.0.2.99:24601", seconds=3)

    lab.expect_mesh()
    assert stream.stop()[0]


@pytest.mark.parametrize(("family", "version", "mtu"), [("ipv4", 4, 1440), ("ipv6", 6, 1420), ("dualstack", 4, 1420)])
def test_endpoints_are_of_the_family_that_was_set(empty_lab: Lab, family: str, version: int, mtu: int) -> None:
    lab = empty_lab
    a, b = two_nodes(lab, WG_IP_FAMILY=family)
    lab.expect_mesh()

    for node, other in ((a, b), (b, a)):
        (address,) = (one for one in other.addresses if one.version == version)
        assert endpoint(node) == (f"[{address}]:{PORT}" if version == 6 else f"{address}:{PORT}")
        assert node.mtu() == mtu


def test_addresses_of_an_interface_are_announced_while_it_has_them(empty_lab: Lab) -> None:
    """Nothing else says where node b is: its status has no address."""
    lab = empty_lab
    a, b = (lab.add_node(name, agent=False) for name in "ab")
    lab.api.admin.patch("/api/v1/nodes/b/status", {"status": {"addresses": []}})
    b.environment["NODE_IP_INTERFACES"] = "extra"
    lab.start(a)
    lab.start(b)

    wait_node_ips(lab, "b")
    eventually(lambda: "extra" in b.log(), what="the missing interface is named")
    b.place.batch("link add extra type veth peer name other", "link set extra up", "link set other up")
    b.place.batch("addr add 192.0.2.77/32 dev extra", "addr add fe80::77/64 dev extra nodad")
    wait_node_ips(lab, "b", "192.0.2.77")
    wait_endpoint(a, f"192.0.2.77:{PORT}")
    lab.expect_mesh()
    b.place.batch("addr add 2001:db8::77/128 dev extra nodad")
    wait_node_ips(lab, "b", "192.0.2.77", "2001:db8::77")
    b.place.batch("addr del 192.0.2.77/32 dev extra")
    wait_node_ips(lab, "b", "2001:db8::77")
    wait_endpoint(a, f"[2001:db8::77]:{PORT}")
    lab.expect_mesh()
    b.place.batch("link del extra")
    wait_node_ips(lab, "b")
    eventually(lambda: not a.wireguard(), what="a knows no way to b")


def wait_node_ips(lab: Lab, name: str, *expected: str) -> None:
    def announced() -> list[str] | None:
        text = lab.annotations(name).get("wigglenet/node-ips")
        return None if text is None else sorted(json.loads(text))

    eventually(lambda: announced() == sorted(expected), what=f"{name} announces {expected}")
