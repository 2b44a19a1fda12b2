"""Links, addresses and routes by own bytes: the same as pyroute2 reads, and without garbage for the links of pods."""

import asyncio
import gc
import socket
from collections.abc import Iterator
from ipaddress import ip_address, ip_interface
from typing import Any

import pytest
from pyroute2 import IPRoute
from pyroute2.netlink.exceptions import NetlinkError

from tests.builders import cluster, config, ips, node
from tests.contract.tables import PRIVATE
from tests.lab.namespaces import Place
from wigglenet_operator.agent.mesh import Mesh
from wigglenet_operator.agent.steps import observe
from wigglenet_operator.kernel.addresses import Address, dump_addresses
from wigglenet_operator.kernel.link import dump_links
from wigglenet_operator.kernel.routes import RTM_F_FIB_MATCH, look_up_routes


@pytest.fixture
def crowded(place: Place) -> Place:
    """A place with links of several kinds, addresses of every scope, and routes with and without an MTU."""
    place.batch("link add eth0 type veth peer name eth1", "link set eth0 mtu 1450 up", "link set eth1 up")
    place.batch("link add br0 type bridge", "link set br0 up", "link add ip0 type veth peer name ip1", "link set ip0 up")
    place.run("sysctl", "-qw", "net.ipv6.conf.eth0.mtu=1400", "net.ipv6.conf.br0.disable_ipv6=1")
    place.batch(
        "addr add 192.0.2.1/24 dev eth0",
        "addr add 192.0.2.2/24 dev eth0",
        "addr add 198.51.100.1 peer 198.51.100.2 dev ip0",
        "addr add 2001:db8::1/64 dev eth0 nodad",
        "addr add 2001:db8::2/64 dev eth0 nodad preferred_lft 0",
        "addr add 2001:db8::3 peer 2001:db8::4/128 dev eth0 nodad",
        "addr add 169.254.9.9/16 scope link dev eth0",
    )
    place.batch(
        "route add 198.18.0.0/24 dev eth0 mtu 1380",
        "route add 2001:db8:5::/64 dev eth0 mtu 1300",
        "route add unreachable 198.18.1.0/24",
        "route add 198.18.2.0/24 nexthop dev eth0 nexthop dev eth1",
    )
    return place


def attribute(message: Any, *names: str) -> Any:
    """An attribute of what pyroute2 has decoded; None if it is not there."""
    for name in names:
        message = message.get_attr(name) if hasattr(message, "get_attr") else (message or {}).get(name)
    return message


def test_the_mtus_of_links_are_those_that_pyroute2_reads(crowded: Place) -> None:
    with crowded.network():
        with IPRoute() as route:
            links = route.get_links()
        found = {link.number: link for link in dump_links()}

    v6 = ("IFLA_AF_SPEC", "AF_INET6", "IFLA_INET6_CONF")
    expected = {(link["index"], 4): attribute(link, "IFLA_MTU") for link in links}
    expected |= {
        (link["index"], 6): conf["mtu"] if (conf := attribute(link, *v6)) else attribute(link, "IFLA_MTU") for link in links
    }
    mtus = {(number, version): link.mtus[version == 6] for number, link in found.items() for version in (4, 6)}
    assert mtus == expected
    assert {number: link.name for number, link in found.items()} == {
        link["index"]: attribute(link, "IFLA_IFNAME") for link in links
    }
    assert {number for number, link in found.items() if link.up} == {link["index"] for link in links if link["flags"] & 1}
    assert len({*mtus.values()}) >= 3, "the links are too much alike to prove anything"


def test_addresses_are_those_that_pyroute2_reads(crowded: Place) -> None:
    with crowded.network():
        with IPRoute() as route:
            messages = route.get_addr()
        addresses = dump_addresses()
        eth0 = socket.if_nametoindex("eth0")
        of_one = dump_addresses(eth0)

    expected = [
        Address(
            link=m["index"],
            interface=ip_interface(f"{m.get_attr('IFA_LOCAL') or m.get_attr('IFA_ADDRESS')}/{m['prefixlen']}"),
            scope=m["scope"],
            flags=m.get_attr("IFA_FLAGS"),
        )
        for m in messages
    ]
    assert sorted(addresses, key=str) == sorted(expected, key=str)
    assert sorted(of_one, key=str) == sorted((a for a in addresses if a.link == eth0), key=str)
    assert {ip_interface("198.51.100.1/32"), ip_interface("2001:db8::3/128")} <= {a.interface for a in addresses}


def test_a_link_that_does_not_exist_has_no_address(place: Place) -> None:
    with place.network():
        assert dump_addresses(4711) == []


def test_route_look_ups_answer_as_pyroute2_does(crowded: Place) -> None:
    asked = ips("192.0.2.9 198.18.0.9 198.18.1.9 198.18.2.9 203.0.113.9 2001:db8::9 2001:db8:5::9 2001:db8:9::9 192.0.2.1")
    with crowded.network():
        with IPRoute() as route:
            expected = {a: way for a in asked if (way := by_pyroute2(route, str(a))) is not None}
        found = look_up_routes(asked)

    assert found == expected
    assert {mtu for mtu, _ in found.values()} >= {0, 1380, 1300}
    assert ip_address("198.18.1.9") not in found, "unreachable"


def by_pyroute2(route: Any, address: str) -> tuple[int, int] | None:
    try:
        (found,) = route.route("get", dst=address, flags=RTM_F_FIB_MATCH)
    except NetlinkError:
        return None
    metrics = found.get_attr("RTA_METRICS")
    return (metrics.get_attr("RTAX_MTU") or 0) if metrics else 0, found.get_attr("RTA_OIF") or 0


@pytest.fixture
def without_collection() -> Iterator[None]:
    """Python collects no cycle meanwhile, so that every one that is made can be counted."""
    gc.collect()
    gc.disable()
    yield
    gc.enable()


PASSES, LINKS = 20, 80


def left_behind(place: Place) -> int:
    """Objects that 20 passes over this node's tables and facts leave to the garbage collector."""
    seen = cluster(*(node(name, internal=f"192.0.2.{number} 2001:db8::{number}") for number, name in enumerate("abc", 1)))

    async def passes() -> int:
        async with Mesh.watched(config(), PRIVATE.public) as mesh:

            async def one() -> None:
                await observe(mesh.tables(), mesh.tables())
                await mesh.look(seen)

            await one()  # fills caches
            gc.collect()
            before = len(gc.get_objects())
            for _ in range(PASSES):
                await one()
            return len(gc.get_objects()) - before

    with place.network():
        return asyncio.run(passes())


@pytest.mark.usefixtures("without_collection")
def test_a_pass_leaves_no_garbage_for_the_links_of_pods(wireguard: Place) -> None:
    few = left_behind(wireguard)
    wireguard.batch(*(f"link add veth{i} type veth peer name p{i}" for i in range(LINKS // 2)))
    wireguard.batch(*(f"addr add 10.9.0.{i + 1}/32 dev veth{i}" for i in range(LINKS // 2)))

    many = left_behind(wireguard)

    # Programs and time-outs leave a varying few; a message of pyroute2 leaves some 150 for each link.
    assert many - few < LINKS * PASSES, f"{few} objects with few links, {many} with {LINKS} more"
