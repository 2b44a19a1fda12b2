"""One suite for the kernel's tables: on the fakes, on the real kernel and on each WireGuard (`--wireguard`).

What a turn relies on: what was applied is observed, an applied difference leaves no difference, others' things stay.
"""

import asyncio
import sys
from collections.abc import Callable
from dataclasses import replace
from ipaddress import ip_interface
from typing import Any

import pytest

from tests.builders import key, nets
from tests.contract.tables import LINK, PRIVATE, Bench, Table, brought_to, peer, real
from tests.lab.namespaces import Place
from tests.lab.wait import eventually
from wigglenet_operator.errors import KernelError, MissingLink
from wigglenet_operator.kernel.network import NodeNetwork
from wigglenet_operator.kernel.sysctls import SysctlTable
from wigglenet_operator.model.changes import diff
from wigglenet_operator.model.desired import Device, Link, Route, RouteKey, RouteKind


def routes(kind: RouteKind, networks: str) -> dict[RouteKey, Route]:
    metrics = {4: 0, 6: 1024} if kind is RouteKind.TUNNEL else {4: 0xFFFFFFFF, 6: 0xFFFFFFFF}
    return {RouteKey(to=n, metric=metrics[n.version]): Route(kind=kind) for n in nets(networks)}


STATES: dict[str, list[dict[Any, Any]]] = {
    "link": [{LINK: Link(mtu=1420)}, {LINK: Link(mtu=1280)}, {LINK: Link(mtu=8920)}, {LINK: Link(mtu=1420, up=False)}],
    "addresses": [
        dict.fromkeys(map(ip_interface, texts.split()))
        for texts in ("10.1.0.1/32 fd00:1::1/128", "fd00:1::1/128", "10.1.0.1/32 10.2.0.1/32 fd00:2::1/128", "")
    ],
    "device": [{LINK: Device(public_key=PRIVATE.public, port=port, mark=port % 3)} for port in (24601, 24602, 24601)],
    "peers": [
        {key("b"): peer(1, "10.2.0.0/24 fd00:2::/64 192.0.2.2/32")},
        {key("b"): peer(1, "10.2.0.0/24"), key("c"): peer(2, "fd00:2::/64 10.3.0.0/24", address="2001:db8::3")},
        {key("b"): peer(1, "10.2.0.0/24"), key("c"): peer(3, "fd00:2::/64 10.3.0.0/24", address="192.0.2.3", keepalive=25)},
        {key("c"): peer(3, ""), key("d"): peer(4, "10.2.0.0/24 10.3.0.0/25 fd00:2::/64")},
        {key(f"n{i}"): peer(i % 9, f"10.{i // 256}.{i % 256}.0/24 fd00:{i:x}::/64") for i in range(450)},
        {},
    ],
    "tunnel": [
        routes(RouteKind.TUNNEL, text)
        for text in ("10.2.0.0/24 fd00:2::/64", "10.2.0.0/24 10.2.0.0/23 10.2.0.7/32", "fd00:2::7/128 0.0.0.0/1", "")
    ],
    "closed": [
        routes(RouteKind.CLOSED, text)
        for text in ("10.2.0.0/24 fd00:2::/64", "10.2.0.0/24 10.2.0.0/23 10.2.0.7/32", "fd00:2::7/128", "")
    ],
}


@pytest.mark.parametrize("kind", STATES)
def test_what_was_applied_is_observed_and_leaves_no_difference(kind: str, bench: Callable[[str], Bench]) -> None:
    async def walk(table: Table) -> None:
        for state in STATES[kind] + STATES[kind][::-1]:
            await brought_to(table, state)
            assert await table.observe() == state

    bench(kind).run(walk)


@pytest.mark.parametrize("kind", ["closed", "tunnel"])
def test_a_listing_without_a_change_is_the_same_object(kind: str, bench: Callable[[str], Bench]) -> None:
    async def walk(table: Table) -> None:
        first, second = STATES[kind][:2]
        for state in (first, second, first):
            await brought_to(table, state)
            listed = await table.observe()
            assert listed == state
            assert await table.observe() is listed

    bench(kind).run(walk)


def test_a_route_through_our_link_by_anybody_is_taken_over(wireguard: Place) -> None:
    wireguard.run("ip", "route", "add", "10.2.0.0/24", "dev", LINK, "proto", "static")
    wanted = routes(RouteKind.TUNNEL, "10.2.0.0/24")

    async def take(table: Table) -> None:
        (found,) = (await table.observe()).values()
        assert not found.ours
        await brought_to(table, wanted)
        assert await table.observe() == wanted

    Bench(wireguard, real("tunnel", wireguard)).run(take)
    assert "proto 157" in wireguard.run("ip", "route", "show", "dev", LINK)


def test_a_foreign_route_in_the_way_is_named_and_the_others_are_written(wireguard: Place) -> None:
    wireguard.batch(
        "link add eth9 type veth peer name eth8", "link set eth9 up", "link set eth8 up", "route add 10.2.0.0/24 dev eth9"
    )
    wanted = routes(RouteKind.TUNNEL, "10.1.0.0/24 10.2.0.0/24 10.3.0.0/24 fd00:2::/64")

    async def write(table: Table) -> None:
        with pytest.raises(KernelError, match=r"10\.2\.0\.0/24.*File exists"):
            await brought_to(table, wanted)
        assert set(await table.observe()) == set(wanted) - set(routes(RouteKind.TUNNEL, "10.2.0.0/24"))

    Bench(wireguard, real("tunnel", wireguard)).run(write)
    assert "eth9" in wireguard.run("ip", "route", "show", "10.2.0.0/24")


def test_foreign_routes_and_addresses_are_neither_seen_nor_removed(wireguard: Place) -> None:
    wireguard.batch(
        "link add eth9 type veth peer name eth8",
        "link set eth9 up",
        "addr add 192.0.2.1/24 dev eth9",
        "route add unreachable 10.9.0.0/24",
        "route add 10.8.0.0/24 dev eth9",
    )
    before = wireguard.run("ip", "route") + wireguard.run("ip", "-4", "addr")

    async def empty(table: Table) -> None:
        assert await table.observe() == {}
        await brought_to(table, {})

    for kind in ("closed", "addresses", "tunnel"):
        Bench(wireguard, real(kind, wireguard)).run(empty)
    assert wireguard.run("ip", "route") + wireguard.run("ip", "-4", "addr") == before


def test_without_a_link_routes_and_addresses_are_empty_and_writing_says_what_is_missing(place: Place) -> None:
    async def write(table: Table) -> None:
        assert await table.observe() == {}
        with pytest.raises(MissingLink, match="link wigglenet does not exist"):
            await table.apply(diff({}, {RouteKey(to=next(iter(nets("10.2.0.0/24"))), metric=0): Route(kind=RouteKind.TUNNEL)}))

    Bench(place, real("tunnel", place)).run(write)


def test_the_counters_of_a_peer_are_no_difference() -> None:
    one = peer(1, "10.2.0.0/24")

    assert not diff({key("b"): one}, {key("b"): replace(one, handshake=5, received=7, sent=9)})


def test_an_unreachable_route_in_our_place_is_taken_over(wireguard: Place) -> None:
    wireguard.run("ip", "route", "add", "unreachable", "10.2.0.0/24", "metric", "4294967295", "proto", "static")
    wireguard.run("ip", "route", "add", "unreachable", "10.7.0.0/24", "metric", "7")
    wanted = routes(RouteKind.CLOSED, "10.2.0.0/24 fd00:2::/64")

    async def take(table: Table) -> None:
        (found,) = (await table.observe()).values()
        assert not found.ours
        await brought_to(table, wanted)
        assert await table.observe() == wanted

    Bench(wireguard, real("closed", wireguard)).run(take)
    assert "unreachable 10.7.0.0/24" in wireguard.run("ip", "route")


def test_an_address_that_cannot_be_written_does_not_stop_the_others(wireguard: Place) -> None:
    wireguard.run("sysctl", "-qw", f"net.ipv6.conf.{LINK}.disable_ipv6=1")

    async def write(table: Table) -> None:
        with pytest.raises(KernelError, match="fd00:1::1"):
            await brought_to(table, dict.fromkeys(map(ip_interface, ("fd00:1::1/128", "10.1.0.1/32"))))
        assert set(await table.observe()) == {ip_interface("10.1.0.1/32")}

    Bench(wireguard, real("addresses", wireguard)).run(write)


def test_without_a_single_route_the_listing_is_empty(place: Place) -> None:
    """The kernel makes the main table with its first route, and `lo` has not been up here."""
    listing = "from wigglenet_operator.kernel.routes import dump_routes; print(dump_routes(kind=7))"

    assert place.run("unshare", "--net", sys.executable, "-c", listing) == "[]\n"


ADVERTISE = """
import socket, struct
s = socket.socket(socket.AF_INET6, socket.SOCK_RAW, socket.IPPROTO_ICMPV6)
s.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_HOPS, 255)
s.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, b"eth8")
s.sendto(struct.pack("!BBHBBHII", 134, 0, 0, 64, 0, 1800, 0, 0), ("ff02::1", 0, 0, socket.if_nametoindex("eth8")))
"""
"""A router advertisement (RFC 4861, section 4.2): type 134, hop limit 64, a default route for 1,800 s."""


@pytest.mark.parametrize("reset", [False, True], ids=["forwarding off", "accept_ra reset by somebody"])
def test_an_advertised_default_route_outlives_that_this_node_becomes_a_router(place: Place, *, reset: bool) -> None:
    place.batch("link add eth9 type veth peer name eth8")
    place.run("sysctl", "-qw", *(f"net.ipv6.conf.{link}.accept_dad=0" for link in ("eth8", "eth9")))
    place.run("sysctl", "-qw", "net.ipv6.conf.eth9.accept_ra_from_local=1")
    place.batch("link set eth8 up", "link set eth9 up")

    def routed() -> bool:
        return "proto ra" in place.run("ip", "-6", "route", "show", "default")

    def advertised() -> bool:
        place.run(sys.executable, "-c", ADVERTISE)
        return routed()

    eventually(advertised, what="a default route is advertised")
    if reset:
        place.run("sysctl", "-qw", "net.ipv6.conf.eth9.accept_ra=2", "net.ipv6.conf.all.forwarding=1")
        place.run("sysctl", "-qw", "net.ipv6.conf.eth9.accept_ra=1")

    async def become_a_router() -> None:
        network = NodeNetwork(LINK)
        wanted = {"net/ipv4/ip_forward": "1", "net/ipv6/conf/all/forwarding": "1"}
        table = SysctlTable(wanted, network.advertised, lambda _: None)
        assert network.advertised() == {"eth9"}
        actual = await table.observe()
        listening = {name: "2" for name in actual if name.endswith("accept_ra")}
        await brought_to(table, wanted | listening)
        assert await table.observe() == wanted | listening

    with place.network():
        asyncio.run(become_a_router())
    assert routed()
    assert place.run("sysctl", "-n", "net.ipv6.conf.eth9.accept_ra").strip() == "2"
