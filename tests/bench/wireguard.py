"""WireGuard's figures beside their native floors, in pairs.  `nox -s bench` (userspace), `nox -s vm -- --bench` (kernel).

Floors: `wg setconf` and `ip -batch` for bringing up, `wg show dump` for looking, a tunnel made by hand between the same two
hosts for what pods get.
"""

import argparse
import asyncio
import base64
import json
import re
import statistics
import time
from collections.abc import Callable, Coroutine, Mapping, Sequence
from typing import Any

from pyroute2 import AsyncWireGuard

from tests.builders import ips, key, nets
from tests.contract.tables import wireguard_link
from tests.lab.lab import Lab
from tests.lab.namespaces import Place, stop
from tests.lab.node import LabNode
from tests.lab.wait import eventually
from tests.lab.wireguard import make_link
from wigglenet_operator.kernel.keys import generate
from wigglenet_operator.kernel.rtnl import LinkTable, RouteTable, Rtnl
from wigglenet_operator.kernel.wireguard import DeviceTable, PeerTable
from wigglenet_operator.model.changes import diff
from wigglenet_operator.model.desired import Device, Endpoint, Link, Peer, RouteKind
from wigglenet_operator.model.facts import IPAddress, PublicKey, WireGuardKind
from wigglenet_operator.plan.routes import plan_tunnel_routes

LINK = "wigglenet"
PRIVATE = generate()
PEERS = 1000
RUNS = 5
RAW_PORT = 24700
NEAR, RAW = "10.99.0.0", "10.99.0.1"
"""The two ends of the tunnel made by hand (RFC 3021)."""


def main() -> None:
    """Print a line for each figure."""
    parser = argparse.ArgumentParser(prog="nox -s bench --", description=__doc__)
    parser.add_argument("--wireguard", type=WireGuardKind, default=WireGuardKind.KERNEL, help="kernel or userspace")
    arguments = parser.parse_args()
    print(f"{'figure, ' + arguments.wireguard.value + ' WireGuard':<52}{'p50':>9}{'floor':>9}{'ratio':>7}  unit, floor, goal")
    control(arguments.wireguard)
    data(arguments.wireguard)


def row(figure: str, values: Sequence[float], floors: Sequence[float], told: str) -> None:
    """One line; the ratio is the median of the pairs'."""
    ratio = statistics.median(a / b for a, b in zip(values, floors, strict=True))
    middle, floor = statistics.median(values), statistics.median(floors)
    print(f"{figure:<52}{middle:>9.1f}{floor:>9.1f}{ratio:>7.2f}  {told}", flush=True)


def mesh(number: int) -> dict[PublicKey, Peer]:
    """Peers with two pod networks and two node addresses each."""

    def peer(i: int) -> Peer:
        high, low = i >> 8, i & 255
        allowed = f"10.{high}.{low}.0/24 fd00:{i:x}::/64 172.16.{high}.{low}/32 2001:db8::{i:x}/128"
        return Peer(endpoint=Endpoint(address=ips(f"172.16.{high}.{low}")[0], port=24601), allowed_ips=nets(allowed))

    return {key(f"n{i}"): peer(i) for i in range(number)}


class Host:
    """A place with WireGuard of a kind, and the agent's tables on it."""

    def __init__(self, kind: WireGuardKind) -> None:
        self.kind = kind
        self.place = Place("bench")

    def fresh(self) -> None:
        """A new link that is down and has nothing."""
        self.place.run("sh", "-c", f": > /run/empty; wg setconf {LINK} /run/empty; ip link del {LINK}", check=False)
        socket = self.place.path(f"/run/wireguard/{LINK}.sock")
        eventually(lambda: not socket.exists(), what="the old one is gone")
        make_link(self.place, LINK, self.kind)

    def tables(self, work: Callable[..., Coroutine[Any, Any, float]]) -> float:
        """What a coroutine with device, link, peer and route table says."""

        async def run() -> float:
            async with Rtnl(LINK) as rtnl:
                link = wireguard_link(rtnl, self.place, self.kind)
                return await work(
                    DeviceTable(link, PRIVATE), LinkTable(rtnl), PeerTable(link), RouteTable(rtnl, RouteKind.TUNNEL)
                )

        with self.place.network():
            return asyncio.run(run())


def control(kind: WireGuardKind) -> None:
    """Bring up, look, change, take down a thousand peers."""
    host, peers = Host(kind), mesh(PEERS)
    routes = plan_tunnel_routes(n for p in peers.values() for n in p.allowed_ips if n.prefixlen in {24, 64})
    changed = next(iter(peers))
    other = peers | {changed: Peer(endpoint=peers[changed].endpoint, allowed_ips=nets("10.200.0.0/24"), keepalive=25)}

    async def up(device: DeviceTable, link: LinkTable, table: PeerTable, route: RouteTable) -> float:
        start = time.perf_counter()
        await device.apply(diff(await device.observe(), {LINK: Device(public_key=PRIVATE.public, port=24601)}))
        await link.apply(diff(await link.observe(), {LINK: Link(mtu=1420)}))
        await table.apply(diff(await table.observe(), peers))
        await route.apply(diff(await route.observe(), routes))
        return elapsed(start)

    async def look(_: DeviceTable, __: LinkTable, table: PeerTable, ___: RouteTable) -> float:
        await table.observe()  # the first look of an agent pays for all later ones
        start = time.perf_counter()
        assert not diff(await table.observe(), peers)
        return elapsed(start)

    async def change(_: DeviceTable, __: LinkTable, table: PeerTable, ___: RouteTable) -> float:
        changes = diff(await table.observe(), other)
        start = time.perf_counter()
        await table.apply(changes)
        took = elapsed(start)
        await table.apply(diff(other, peers))
        return took

    config = f"[Interface]\nPrivateKey={base64_of(PRIVATE.raw)}\nListenPort=24601\n" + "".join(
        f"[Peer]\nPublicKey={k}\nEndpoint={p.endpoint}\nAllowedIPs={','.join(map(str, p.allowed_ips))}\n"
        for k, p in peers.items()
    )
    batch = "".join(f"route add {r.to} dev {LINK} proto 157 metric {r.metric}\n" for r in routes)
    host.place.path("/run/wg.conf").write_text(config)
    host.place.path("/run/batch").write_text(batch)
    native = f"ip link set {LINK} up mtu 1420 && wg setconf {LINK} /run/wg.conf && ip -batch /run/batch"
    took, floors = [], []
    for _ in range(RUNS):
        host.fresh()
        floors.append(timed(host.place, "sh", "-c", native))
        host.fresh()
        took.append(host.tables(up))
    row(f"bring up {PEERS} peers x 4, {len(routes)} routes", took, floors, "ms; wg setconf + ip -batch; goal ratio 1.3")
    took = [host.tables(look) for _ in range(RUNS)]
    floors = [timed(host.place, "wg", "show", LINK, "dump") for _ in range(RUNS)]
    row(f"observe and diff {PEERS} peers, nothing to do", took, floors, "ms; wg show dump; goal ratio 1.3")
    if kind is WireGuardKind.KERNEL:
        by_library(host)
    took = [host.tables(change) for _ in range(RUNS)]
    floors = [timed(host.place, "wg", "set", LINK, "peer", changed, "persistent-keepalive", "0") for _ in range(RUNS)]
    row("one changed peer of them", took, floors, "ms; wg set of one field; goal 2 ms")
    removal(host, peers)
    host.place.close()


def by_library(host: Host) -> None:
    """What own bytes are for: the same peers read once by pyroute2, in one pair."""

    async def own(_: DeviceTable, __: LinkTable, table: PeerTable, ___: RouteTable) -> float:
        start = time.perf_counter()
        assert len(await table.observe()) == PEERS
        return elapsed(start)

    async def library(*_: object) -> float:
        start = time.perf_counter()
        async with AsyncWireGuard() as wireguard:
            await wireguard.setup_endpoint()
            read = 0
            async for message in await wireguard.info(LINK):
                for peer in message.get_attr("WGDEVICE_A_PEERS") or []:
                    read += bool(peer.get_attr("WGPEER_A_PUBLIC_KEY")) and bool(peer.get_attr("WGPEER_A_ALLOWEDIPS"))
        assert read >= PEERS  # one that goes on in a further message counts twice
        return elapsed(start)

    row(f"list {PEERS} peers for the first time", [host.tables(own)], [host.tables(library)], "ms; pyroute2")


def removal(host: Host, peers: dict[PublicKey, Peer]) -> None:
    """Ours empties the device first, `ip link del` alone does not."""

    async def fill(device: DeviceTable, _: LinkTable, table: PeerTable, __: RouteTable) -> float:
        await device.apply(diff({}, {LINK: Device(public_key=PRIVATE.public, port=24601)}))
        await table.apply(diff({}, peers))
        return 0

    async def remove(device: DeviceTable, *_: object) -> float:
        start = time.perf_counter()
        await device.apply(diff(await device.observe(), {}))
        return elapsed(start)

    host.fresh()
    host.tables(fill)
    took = [host.tables(remove)]
    host.fresh()
    host.tables(fill)
    floors = [timed(host.place, "ip", "link", "del", LINK)]
    row(f"remove a device with {PEERS} peers", took, floors, "ms; ip link del alone; goal 1000 ms")


def data(kind: WireGuardKind) -> None:
    """What two pods get through the overlay, beside a tunnel made by hand: for their hosts, and for the same two pods.

    The first floor lacks two links and two look-ups of a route; the second has all that a pod needs, and no agent.
    """
    with Lab(wireguard=kind) as lab:
        a, b = lab.add_node("a"), lab.add_node("b")
        lab.expect_mesh()
        one, other = lab.pods()
        ends = {a: one.addresses[4], b: other.addresses[4]}
        by_hand(kind, ends)
        server = b.place.popen("iperf3", "-s", "-p", "5300", log="/run/raw-server")
        inside = b.place.popen(*other.argv("iperf3", "-s", "-p", "5301"), log="/run/pod-server")
        for figure, unit, more in (
            ("TCP, one stream", "Mbit/s", ()),
            ("TCP, four streams", "Mbit/s", ("-P", "4")),
            ("UDP, 100 bytes", "Mbit/s", ("-u", "-l", "100", "-b", "0")),
            ("request/response", "echoes/s", None),
        ):
            took, hosts, pods = [], [], []
            for _ in range(RUNS):
                hosts.append(measured(a, (), RAW, "5300", more))
                took.append(measured(a, one.argv(), str(ends[b]), "5301", more))
                a.place.batch(f"route add {ends[b]} dev raw")
                b.place.batch(f"route add {ends[a]} dev raw")
                pods.append(measured(a, one.argv(), str(ends[b]), "5301", more))
                a.place.batch(f"route del {ends[b]} dev raw")
                b.place.batch(f"route del {ends[a]} dev raw")
            row(f"pod to pod, {figure}", took, hosts, f"{unit}; host to host, by hand; goal ratio 0.97")
            row(f"pod to pod, {figure}", took, pods, f"{unit}; the same pods, by hand")
        for process in (server, inside):
            stop(process)


def by_hand(kind: WireGuardKind, ends: Mapping[LabNode, IPAddress]) -> None:
    """A second tunnel between two nodes, of the same kind and MTU, that carries their pods as well."""
    keys = {node: generate() for node in ends}
    for node, far, address in zip(ends, reversed([*ends]), (NEAR, RAW), strict=True):
        make_link(node.place, "raw", kind)
        node.path("/run/raw.key").write_text(base64_of(keys[node].raw))
        node.place.run("wg", "set", "raw", "private-key", "/run/raw.key", "listen-port", str(RAW_PORT))
        allowed = ("allowed-ips", f"{NEAR}/31,{ends[far]}/32")
        endpoint = ("endpoint", f"{far.addresses[0]}:{RAW_PORT}")
        node.place.run("wg", "set", "raw", "peer", keys[far].public, *endpoint, *allowed)
        node.place.batch("link set raw mtu 1420 up", f"addr add {address}/31 dev raw")


def measured(node: LabNode, enter: Sequence[str], target: str, port: str, more: Sequence[str] | None) -> float:
    """Mbit/s by iperf3 with these arguments, echoes per second without any."""
    return answers(node, enter, target) if more is None else iperf(node, enter, target, port, *more)


def iperf(node: LabNode, enter: Sequence[str], target: str, port: str, *more: str) -> float:
    """Mbit/s that arrived in two seconds."""
    said = node.place.run(*enter, "iperf3", "-c", target, "-p", port, "-t", "2", "-J", *more)
    end = json.loads(said)["end"]
    return float(end["sum_received"]["bits_per_second"]) / 1e6


def answers(node: LabNode, enter: Sequence[str], target: str) -> float:
    """Echoes per second, one after the other."""
    said = node.place.run(*enter, "ping", "-q", "-f", "-c", "500", target)
    average = re.search(r"= [\d.]+/([\d.]+)/", said)
    assert average, said
    return 1000 / float(average.group(1))


def timed(place: Place, *command: str) -> float:
    """Milliseconds that a command takes, without the entering of the place."""
    start = time.perf_counter()
    place.run("true")
    enter = elapsed(start)
    start = time.perf_counter()
    place.run(*command)
    return elapsed(start) - enter


def elapsed(start: float) -> float:
    """Milliseconds."""
    return (time.perf_counter() - start) * 1000


def base64_of(raw: bytes) -> str:
    """As WireGuard's tools want a key."""
    return base64.b64encode(raw).decode()


if __name__ == "__main__":
    main()
