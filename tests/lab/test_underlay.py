"""The mesh over networks as they are: routers, one family only, links that lose, dawdle and go, advertised routes."""

import json
import secrets
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import pytest

from tests.lab.capture import kinds
from tests.lab.lab import Lab
from tests.lab.node import LabNode
from tests.lab.transfer import sent_and_received
from tests.lab.underlay import FAR, ONLY_IPV4, ONLY_IPV6, UNDERLAY, Segment, Wire
from tests.lab.wait import eventually

LOSSY = Wire(delay_ms=10, loss_percent=5)
ADVERTISED_SECONDS = 5
"""How long an advertised default route lasts, shorter than a test waits and longer than from one advertisement to the next."""


def endpoints(node: LabNode) -> list[str]:
    return [peer.endpoint for peer in node.wireguard().values()]


def test_the_mesh_spans_two_subnets_with_a_router_between(empty_lab: Lab) -> None:
    lab, far = empty_lab, empty_lab.add_segment(FAR)
    router = lab.add_router(UNDERLAY, far)
    for name, segment in (("a", UNDERLAY), ("b", UNDERLAY), ("c", far), ("d", far)):
        lab.add_node(name, segment=segment, router=router)

    lab.expect_mesh()
    capture = lab.capture()
    assert all(one.pings(other.addresses[version]) for one, other, version in lab.pairs())
    packets = capture.stop()

    assert kinds(packets)["wireguard"]
    assert not [p for p in packets if p.of_pods]


@pytest.mark.parametrize("segment", [ONLY_IPV4, ONLY_IPV6], ids=lambda segment: segment.name)
def test_pods_of_both_families_talk_over_an_underlay_of_one(empty_lab: Lab, segment: Segment) -> None:
    lab = empty_lab
    lab.add_segment(segment)
    nodes = [lab.add_node(name, segment=segment) for name in "ab"]

    lab.expect_mesh()

    assert [endpoints(node) for node in nodes] == [
        [f"[{other.addresses[0]}]:24601" if segment is ONLY_IPV6 else f"{other.addresses[0]}:24601"]
        for other in reversed(nodes)
    ]
    assert {version for _, _, version in lab.pairs()} == {4, 6}


def test_a_transfer_completes_over_a_link_that_loses_and_dawdles(empty_lab: Lab) -> None:
    lab = empty_lab
    lab.add_node("a")
    lab.add_node("b", wire=LOSSY)
    lab.expect_mesh()
    a, b = lab.pods()
    content = secrets.token_bytes(1_000_000)

    assert a.round_trip(b.addresses[4]) >= 2 * LOSSY.delay_ms / 1000, "the link does not dawdle"
    stream = a.stream(b.addresses[6])
    with ThreadPoolExecutor(4) as pool:
        transfers = [
            pool.submit(sent_and_received, one, other, version, content, seconds=60) for one, other, version in lab.pairs()
        ]
    arrived = [transfer.result() for transfer in transfers]
    _, lost = stream.stop()

    assert lost, "the link does not lose"
    assert arrived == [content] * 4


def _cable(lab: Lab, node: LabNode) -> tuple[Callable[[], None], Callable[[], None]]:
    """The far end of its link goes and comes: carrier lost, addresses kept."""
    return partial(lab.place.batch, f"link set u-{node.name} down"), partial(lab.place.batch, f"link set u-{node.name} up")


def _interface(_: Lab, node: LabNode) -> tuple[Callable[[], None], Callable[[], None]]:
    """As `ip link set eth0 down` does: the kernel takes the IPv6 address away, who configures the link gives it back."""
    up = partial(node.place.batch, "link set eth0 up", f"addr add {node.addresses[1]}/64 dev eth0 nodad")
    return partial(node.place.batch, "link set eth0 down"), up


@pytest.mark.parametrize("what", [_cable, _interface], ids=["cable", "interface"])
def test_the_mesh_is_back_after_the_link_without_a_restart(
    empty_lab: Lab, what: Callable[[Lab, LabNode], tuple[Callable[[], None], Callable[[], None]]]
) -> None:
    lab = empty_lab
    _, b = lab.add_node("a"), lab.add_node("b")
    lab.expect_mesh()
    one, other = lab.pods()
    agents = [node.agent_pid() for node in lab.nodes.values()]
    down, up = what(lab, b)

    down()
    for version in (4, 6):
        eventually(lambda v=version: not one.pings(other.addresses[v], seconds=0.1), what="the link is away")  # type: ignore[misc]  # bool
    up()
    lab.expect_mesh()

    assert [node.agent_pid() for node in lab.nodes.values()] == agents


def advertised_routes(node: LabNode) -> list[int]:
    """For how many seconds more each default route by router advertisement lasts."""
    routes = json.loads(node.place.run("ip", "-6", "-json", "route", "show", "default", "proto", "ra"))
    return [int(route["expires"]) for route in routes]


@pytest.fixture
def advertised(empty_lab: Lab) -> tuple[Lab, LabNode]:
    """A node on a segment whose router advertises itself, which has heard it; its agent is not started."""
    router = empty_lab.add_router(UNDERLAY)
    a = empty_lab.add_node("a", agent=False)
    router.advertise(UNDERLAY, lifetime_seconds=ADVERTISED_SECONDS)
    eventually(lambda: advertised_routes(a), what="the node has an advertised default route")
    return empty_lab, a


def watch_routes(node: LabNode) -> Callable[[], str]:
    """What has happened to IPv6 routes so far; nothing from now on is missed."""
    log = "/run/monitor.log"
    node.place.popen("ip", "-6", "monitor", "route", log=log)

    def said() -> str:
        node.place.batch("route replace unreachable 2001:db8:ff::/64")
        return node.path(log).read_text()

    eventually(said, what="routes are watched")
    return node.path(log).read_text


def renewed(node: LabNode) -> bool:
    """Whether an advertisement, as comes every 3 to 4 s, makes the route last longer."""
    eventually(lambda: advertised_routes(node) < [3], what="the route has little time left, or is gone")
    eventually(lambda: advertised_routes(node) in ([], [4], [5]), what="the route is renewed, or gone")
    return bool(advertised_routes(node))


def test_a_node_keeps_its_advertised_default_route_when_the_agent_turns_forwarding_on(advertised: tuple[Lab, LabNode]) -> None:
    lab, a = advertised
    events = watch_routes(a)
    lab.start(a)
    a.wait_ready()

    assert a.place.run("sysctl", "-n", "net.ipv6.conf.all.forwarding") == "1\n"
    assert all(renewed(a) for _ in range(3)), "the route lasts no longer than the first advertisement said"
    assert "Deleted default" not in events()


def test_a_node_keeps_its_advertised_default_route_when_cleanup_turns_forwarding_off(advertised: tuple[Lab, LabNode]) -> None:
    """Also if that was on for another link: turning it on there again drops a route that has come since it was turned on."""
    lab, a = advertised
    a.place.run("sysctl", "-qw", "net.ipv6.conf.api0.forwarding=1")
    eventually(lambda: advertised_routes(a), what="the route, which that has dropped, has come again")
    lab.start(a)
    a.wait_ready()
    a.place.run("ip", "-6", "route", "flush", "default")
    eventually(lambda: advertised_routes(a), what="the route has come again")
    events = watch_routes(a)
    a.stop_agent()
    if a.wireguard_kind() == "tun":
        a.abandon_wireguard()
    status, said = a.cleanup()

    assert status == 0, said
    settings = [f"net.ipv6.conf.{name}" for name in ("all.forwarding", "api0.forwarding", "eth0.accept_ra")]
    assert a.place.run("sysctl", "-n", *settings).split() == ["0", "1", "1"]
    assert renewed(a)
    assert "Deleted default" not in events()


def test_forwarding_alone_takes_an_advertised_default_route_away(advertised: tuple[Lab, LabNode]) -> None:
    """The test above can fail: this is what the agent has to prevent."""
    _, a = advertised
    events = watch_routes(a)
    a.place.run("sysctl", "-qw", "net.ipv6.conf.all.forwarding=1")

    eventually(lambda: not advertised_routes(a), what="the route is gone")
    eventually(lambda: "Deleted default" in events(), what="that is seen")


def test_an_agent_starts_without_a_name_server_that_answers(empty_lab: Lab) -> None:
    """Its queries leave by the default route, and nothing comes back."""
    node = empty_lab.add_node("a", agent=False)
    node.place.batch("route add default via 192.0.2.250", "neigh add 192.0.2.250 lladdr 02:00:00:00:00:01 dev eth0")
    node.path("/run/resolv.conf").write_text("nameserver 203.0.113.53\n")
    node.place.run("mount", "--bind", "/run/resolv.conf", "/etc/resolv.conf")
    node.place.run("hostname", "unheard-of")
    empty_lab.start(node)

    node.wait_ready(seconds=10)
