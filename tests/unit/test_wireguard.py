"""WireGuard's messages and orders: encode and decode are inverses, and no order does more than it should."""

import asyncio
import socket
import struct
from base64 import b64encode
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address
from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.builders import key, nets
from tests.virtual_time import run
from wigglenet_operator.errors import KernelError
from wigglenet_operator.kernel import netlink, wg_codec
from wigglenet_operator.kernel.keys import generate
from wigglenet_operator.kernel.ports import PeerOrder
from wigglenet_operator.kernel.wireguard import DeviceTable, PeerTable, WireGuardLink, plan_orders
from wigglenet_operator.model.changes import diff
from wigglenet_operator.model.desired import Device, Endpoint, Peer
from wigglenet_operator.model.facts import IPAddress, IPNetwork, PublicKey

LINK = "wigglenet"
KEYS = st.binary(min_size=32, max_size=32).map(lambda raw: PublicKey(b64encode(raw).decode()))
SCOPED = st.builds(lambda last, scope: ip_address(f"fe80::{last:x}%{scope}"), st.integers(1, 9), st.integers(1, 2**32 - 1))
ADDRESSES = st.one_of(st.ip_addresses(v=4), st.ip_addresses(v=6), SCOPED)
ENDPOINTS = st.builds(lambda a, p: Endpoint(address=a, port=p), ADDRESSES, st.integers(1, 65535))
NETWORKS = st.one_of(
    st.builds(lambda n, p: IPv4Network((n >> (32 - p) << (32 - p), p)), st.integers(0, 2**32 - 1), st.integers(0, 32)),
    st.builds(lambda n, p: IPv6Network((n >> (128 - p) << (128 - p), p)), st.integers(0, 2**128 - 1), st.integers(0, 128)),
)
PEERS = st.builds(
    lambda e, a, k: Peer(endpoint=e, allowed_ips=a, keepalive=k),
    st.none() | ENDPOINTS,
    st.frozensets(NETWORKS, max_size=8),
    st.integers(0, 65535),
)
TABLES = st.dictionaries(KEYS, PEERS, max_size=6)


def ordered(peers: Mapping[PublicKey, Peer]) -> list[PeerOrder]:
    return [*plan_orders(diff({}, peers))]


@given(peers=TABLES, before=TABLES)
def test_encode_and_decode_of_peers_are_inverses_whatever_was_decoded_before(
    peers: dict[PublicKey, Peer], before: dict[PublicKey, Peer]
) -> None:
    decoder = wg_codec.PeerDecoder()
    for table in (before, peers, peers):
        assert decoder.decode([*wg_codec.encode_orders(LINK, ordered(table))]) == table


@pytest.mark.parametrize(("peers", "networks"), [(1, 12_000), (2_000, 4), (7, 1_700), (400, 0)])
def test_what_does_not_fit_into_a_message_goes_on_in_the_next(peers: int, networks: int) -> None:
    def networks_of(peer: int) -> Iterator[IPNetwork]:
        for i in range(peer * networks, (peer + 1) * networks):
            yield IPv4Network(((10 << 24) + (i << 8), 24)) if i % 2 else IPv6Network(((0xFD << 120) + (i << 64), 64))

    table = {key(f"n{i}"): Peer(endpoint=None, allowed_ips=frozenset(networks_of(i)), keepalive=i % 99) for i in range(peers)}
    messages = [*wg_codec.encode_orders(LINK, ordered(table))]

    assert wg_codec.PeerDecoder().decode(messages) == table
    assert max(map(len, messages)) <= wg_codec.LIMIT + 64
    assert len(messages) < 2 + sum(map(len, messages)) / wg_codec.LIMIT * 1.3


@given(port=st.integers(0, 65535), mark=st.integers(0, 2**32 - 1), raw=st.none() | st.binary(min_size=32, max_size=32))
def test_encode_and_decode_of_a_device_are_inverses(port: int, mark: int, raw: bytes | None) -> None:
    device = Device(public_key=PublicKey(b64encode(raw).decode()) if raw else None, port=port, mark=mark)
    message = wg_codec.encode_device(LINK, device, bytes(32))
    told = netlink.attribute(wg_codec.PUBLIC_KEY, raw) if raw else b""  # the kernel tells the public key in addition

    assert wg_codec.decode_device(message + told) == device


@given(data=st.binary(max_size=200), start=st.binary(max_size=60))
def test_bytes_that_make_no_sense_are_an_error_of_three_kinds(data: bytes, start: bytes) -> None:
    inside = netlink.attribute(wg_codec.PEERS, netlink.attribute(0, netlink.attribute(wg_codec.PEER_KEY, bytes(32)) + start))
    for message in (data, bytes(4) + data, bytes(4) + inside + data):
        with suppress(ValueError, LookupError, struct.error):
            wg_codec.decode_device(message)
            assert isinstance(wg_codec.PeerDecoder().decode([message]), dict)


def test_a_preshared_key_is_seen() -> None:
    told = netlink.attribute(wg_codec.PEER_KEY, bytes(32)) + netlink.attribute(wg_codec.PRESHARED, bytes(31) + b"\1")
    message = bytes(4) + netlink.attribute(wg_codec.PEERS, netlink.attribute(0, told))

    (peer,) = wg_codec.PeerDecoder().decode([message]).values()
    assert peer.preshared


class Routing:
    """Cryptokey routing as it is at each instant: one allowed IP after the other changes hands."""

    def __init__(self, peers: Mapping[PublicKey, Peer]) -> None:
        self.peers = set(peers)
        self.owners: dict[IPNetwork, PublicKey] = {n: k for k, p in peers.items() for n in p.allowed_ips}

    def carry_out(self, order: PeerOrder) -> Iterator[None]:
        if order.known and order.key not in self.peers:
            return
        if order.remove:
            self.peers.discard(order.key)
            for network in [n for n, k in self.owners.items() if k == order.key]:
                del self.owners[network]
                yield
            return
        self.peers.add(order.key)
        for network in order.allow:
            self.owners[network] = order.key
            yield

    def owner(self, address: IPAddress) -> PublicKey | None:
        matching = [n for n in self.owners if address in n]
        return self.owners[max(matching, key=lambda n: n.prefixlen)] if matching else None


def disjoint(text: str, owners: Sequence[str]) -> dict[PublicKey, Peer]:
    """A plan: each letter's networks; what overlaps an earlier one is left out, as no two nodes own an address."""
    peers: dict[PublicKey, set[IPNetwork]] = {}
    taken: list[IPNetwork] = []
    for network, owner in zip(cast("list[IPNetwork]", [IPv4Network(w) for w in text.split()]), owners, strict=True):
        if owner != "-" and not any(network.overlaps(cast("Any", t)) for t in taken):
            taken.append(network)
            peers.setdefault(key(owner), set()).add(network)
    return {k: Peer(endpoint=None, allowed_ips=frozenset(n)) for k, n in peers.items()}


PLACES = "10.0.0.0/28 10.0.0.0/30 10.0.0.4/30 10.0.0.8/29 10.0.0.0/29 10.0.0.1/32 10.0.1.0/28 10.0.1.0/29"
OWNERS = st.lists(st.sampled_from("-abcd"), min_size=8, max_size=8)
PLANS = st.builds(disjoint, st.permutations(PLACES.split()).map(" ".join), OWNERS)


@given(before=PLANS, after=PLANS)
def test_no_address_is_at_a_wrong_peer_at_any_instant_and_what_stays_is_never_away(
    before: dict[PublicKey, Peer], after: dict[PublicKey, Peer]
) -> None:
    addresses = [IPv4Address(f"10.0.{net}.{i}") for net in (0, 1) for i in range(16)]
    start, end, now = Routing(before), Routing(after), Routing(before)
    kept = {n for n, k in start.owners.items() if end.owners.get(n) == k}
    nodes = set(map(key, "abcd"))
    changes = diff(before, after)
    for order in [*plan_orders(changes), *(PeerOrder(key=k, remove=True) for k in changes.remove)]:
        for _ in now.carry_out(order):
            for address in addresses:
                owner = now.owner(address)
                assert owner in {start.owner(address), end.owner(address), None} or owner not in nodes
                assert owner == start.owner(address) or not any(address in n for n in kept)
    assert now.owners == end.owners
    assert now.peers == end.peers


def test_a_change_says_only_what_is_different() -> None:
    old = Peer(endpoint=Endpoint(address=ip_address("192.0.2.1"), port=1), allowed_ips=nets("10.1.0.0/24"), keepalive=5)
    new = replace(old, allowed_ips=nets("10.1.0.0/24 10.2.0.0/24"))

    assert [*plan_orders(diff({key("b"): old}, {key("b"): new}))] == [
        PeerOrder(key=key("b"), known=True, allow=tuple(nets("10.2.0.0/24")))
    ]
    assert [*plan_orders(diff({key("b"): replace(new, preshared=True)}, {key("b"): new}))] == [
        PeerOrder(key=key("b"), known=True, unshare=True)
    ]


class Recorder:
    """A WireGuard that notes when it was told what."""

    def __init__(self) -> None:
        self.told: list[tuple[float, int]] = []
        self.keepalives: dict[PublicKey, list[int]] = {}
        self.broken = False
        self.refused: PublicKey | None = None

    def existing(self) -> "Recorder":
        return self

    async def write_peers(self, orders: Sequence[PeerOrder]) -> None:
        if self.broken or any(order.key == self.refused for order in orders):
            raise KernelError("refused")
        self.told.append((asyncio.get_running_loop().time(), len(orders)))
        for order in orders:
            self.keepalives.setdefault(order.key, []).append(-1 if order.keepalive is None else order.keepalive)


def test_new_peers_are_all_written_at_once_and_asked_for_a_handshake_two_hundred_a_second() -> None:
    recorder = Recorder()
    table = {key(f"n{i}"): Peer(endpoint=None, allowed_ips=frozenset(), keepalive=25 if i < 50 else 0) for i in range(500)}
    gone, changed = [key(f"n{i}") for i in range(490, 500)], {key("n489"): table[key("n0")]}

    async def main() -> None:
        peers = PeerTable(cast("WireGuardLink", recorder))
        task = asyncio.create_task(peers.keep_primed())
        await peers.apply(diff({}, table))
        await asyncio.sleep(1.5)
        await peers.apply(diff(dict.fromkeys(gone, table[gone[0]]), {}))
        await peers.apply(diff({key("n489"): table[key("n489")]}, changed))
        await asyncio.sleep(10)
        task.cancel()

    run(main())
    assert recorder.told == [(0.0, 500), (0.0, 400), (1.0, 400), (1.5, 10), (1.5, 1), (2.0, 78)]
    assert {k: v for k, v in recorder.keepalives.items() if k not in gone} == {
        k: [25] if p.keepalive else [0, 25] if k in changed else [0, 1, 0] for k, p in table.items() if k not in gone
    }


def test_a_peer_that_comes_soon_after_another_does_not_wait_for_its_handshake() -> None:
    recorder = Recorder()
    new = Peer(endpoint=None, allowed_ips=frozenset())

    async def main() -> None:
        peers = PeerTable(cast("WireGuardLink", recorder))
        task = asyncio.create_task(peers.keep_primed())
        await peers.apply(diff({}, {key("b"): new}))
        await asyncio.sleep(0.1)
        await peers.apply(diff({}, {key("c"): new}))
        await asyncio.sleep(1)
        task.cancel()

    run(main())
    assert recorder.told == [(0.0, 1), (0.0, 2), (0.1, 1), (0.1, 2)]


def test_what_could_not_be_primed_is_tried_again_unless_it_has_gone() -> None:
    recorder = Recorder()
    new = Peer(endpoint=None, allowed_ips=frozenset())

    async def main() -> None:
        peers = PeerTable(cast("WireGuardLink", recorder))
        task = asyncio.create_task(peers.keep_primed())
        recorder.broken = True
        with pytest.raises(KernelError):  # the first of its messages may have been carried out
            await peers.apply(diff({}, {key("b"): new, key("c"): new}))
        await asyncio.sleep(5)
        recorder.broken = False
        await peers.apply(diff({key("c"): new}, {}))
        await asyncio.sleep(5)
        task.cancel()

    run(main())
    assert recorder.keepalives == {key("b"): [1, 0], key("c"): [-1]}


def test_peers_that_go_are_removed_although_another_is_refused() -> None:
    recorder = Recorder()
    recorder.refused = key("b")
    peer = Peer(endpoint=None, allowed_ips=frozenset())

    async def main() -> None:
        with pytest.raises(KernelError, match="refused"):
            await PeerTable(cast("WireGuardLink", recorder)).apply(diff({key("c"): peer}, {key("b"): peer}))

    run(main())
    assert recorder.keepalives == {key("c"): [-1]}


def test_a_device_is_emptied_before_its_link_is_deleted() -> None:
    """Else it takes 17 ms a peer (`nox -s vm -- --bench`)."""
    told: list[str] = []

    class DeviceStub:
        async def forget_peers(self) -> None:
            told.append("forget peers")

    class LinkStub:
        link = LINK

        @property
        def rtnl(self) -> "LinkStub":
            return self

        def existing(self) -> DeviceStub:
            return DeviceStub()

        def existing_index(self) -> int:
            return 7

        async def call(self, what: str, command: str, *, index: int) -> None:
            told.append(f"{what} {command} {index}")

    table = DeviceTable(cast("WireGuardLink", LinkStub()), generate())
    run(table.apply(diff({LINK: Device(public_key=None, port=1)}, {})))

    assert told == ["forget peers", "link del 7"]


REFUSED = struct.pack("=IHHII", 28, 24, 5, 7, 0) + bytes(12)
REASON = netlink.attribute(1, b"Nexthop has invalid gateway\0")


@pytest.mark.parametrize(
    ("kind", "flags", "body", "told"),
    [
        (netlink.NLMSG_ERROR, 0, struct.pack("=i", -17) + REFUSED, "File exists"),
        (netlink.NLMSG_ERROR, netlink.EXPLAINED, struct.pack("=i", -22) + REFUSED + REASON, "Invalid argument: Nexthop has"),
        (
            netlink.NLMSG_ERROR,
            netlink.EXPLAINED | netlink.CAPPED,
            struct.pack("=i", -22) + REFUSED[:16] + REASON,
            "Invalid argument: Nexthop has",
        ),
        (netlink.NLMSG_DONE, 0, struct.pack("=i", -2) + REASON, "No such file or directory: Nexthop has"),
        (netlink.NLMSG_DONE, 0, struct.pack("=i", -2), "No such file or directory"),
    ],
)
def test_a_refusal_is_told_with_the_kernels_reason(kind: int, flags: int, body: bytes, told: str) -> None:
    """Each way in which linux/netlink.h says that it may come."""
    here, there = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    with here, there:
        there.send(netlink.HEADER.pack(netlink.HEADER.size + len(body), kind, flags, 1, 0) + body)
        with pytest.raises(OSError, match=told):
            list(netlink.replies(here))


def test_a_dump_that_was_interrupted_at_its_very_end_is_noticed() -> None:
    here, there = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    with here, there:
        end = netlink.HEADER.pack(netlink.HEADER.size + 4, netlink.NLMSG_DONE, netlink.DUMP_INTERRUPTED, 1, 0) + bytes(4)
        there.send(netlink.HEADER.pack(netlink.HEADER.size, 25, 2, 1, 0) + end)
        with pytest.raises(InterruptedError):
            list(netlink.replies(here))


def test_an_ipv6_scope_is_in_host_order() -> None:
    endpoint = Endpoint(address=IPv6Address("fe80::1%3"), port=0x1234)
    (message,) = wg_codec.encode_orders(LINK, [PeerOrder(key=key("b"), endpoint=endpoint)])

    assert (0x1234).to_bytes(2, "big") + bytes(4) + endpoint.address.packed + struct.pack("=I", 3) in message
