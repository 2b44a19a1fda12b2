"""WireGuard's generic netlink messages as bytes, both ways: pyroute2 takes forty times as long and cannot split them.

Pure: no socket here.  Source: linux/wireguard.h (every attribute, flag and the rules of fragmented dumps and changes).
"""

import socket
import struct
from base64 import b64decode, b64encode
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network

from wigglenet_operator.kernel.memo import Memo
from wigglenet_operator.kernel.netlink import ATTRIBUTE, NESTED, attribute, attributes
from wigglenet_operator.kernel.ports import PeerOrder
from wigglenet_operator.model.desired import Device, Endpoint, Peer
from wigglenet_operator.model.facts import IPNetwork, PublicKey

VERSION = 1
GET_DEVICE, SET_DEVICE = 0, 1
GENL = struct.Struct("=BBH")
IFNAME, PRIVATE_KEY, PUBLIC_KEY, DEVICE_FLAGS, LISTEN_PORT, FWMARK, PEERS = range(2, 9)
PEER_KEY, PRESHARED, PEER_FLAGS, ENDPOINT, KEEPALIVE, HANDSHAKE, RECEIVED, SENT, ALLOWED_IPS = range(1, 10)
FAMILY, ADDRESS, PREFIX = 1, 2, 3
REPLACE_PEERS = 1
REMOVE, UPDATE_ONLY = 1, 4
NO_KEY = bytes(32)
LIMIT = 1 << 15
"""Bytes of the peers in one message; a nested attribute's length has 16 bits."""
SHORT, NUMBER, LONG, TIME = (struct.Struct(form) for form in ("=H", "=I", "=Q", "=qq"))
IN, IN6 = struct.Struct("=H2s4s8x"), struct.Struct("=H2s4x16sI")
"""sockaddr_in and sockaddr_in6 (linux/in.h, linux/in6.h): the port in network order, the scope in host order."""
ALLOWED = {4: struct.Struct("=HHHHH2xHH4sHHB3x"), 6: struct.Struct("=HHHHH2xHH16sHHB3x")}
"""A nested attribute with family, address and prefix length."""


def encode_get(link: str) -> bytes:
    """The body of a dump request."""
    return GENL.pack(GET_DEVICE, VERSION, 0) + _name(link)


def encode_device(link: str, device: Device, private_key: bytes) -> bytes:
    """The body that gives key, port and mark to a device."""
    return (
        GENL.pack(SET_DEVICE, VERSION, 0)
        + _name(link)
        + attribute(PRIVATE_KEY, private_key)
        + attribute(LISTEN_PORT, SHORT.pack(device.port))
        + attribute(FWMARK, NUMBER.pack(device.mark))
    )


def encode_no_peers(link: str) -> bytes:
    """The body that removes every peer at once."""
    return GENL.pack(SET_DEVICE, VERSION, 0) + _name(link) + attribute(DEVICE_FLAGS, NUMBER.pack(REPLACE_PEERS))


def encode_orders(link: str, orders: Iterable[PeerOrder]) -> Iterator[bytes]:
    """The bodies that carry out the orders, to be sent in turn; none for no orders.

    A peer whose allowed IPs do not fit goes on in the next message, by its key alone.
    """
    head = GENL.pack(SET_DEVICE, VERSION, 0) + _name(link)
    room, batch = LIMIT, b""
    for piece in _pieces(orders):
        if len(piece) > room:
            yield head + attribute(PEERS | NESTED, batch)
            room, batch = LIMIT, b""
        batch += piece
        room -= len(piece)
    if batch:
        yield head + attribute(PEERS | NESTED, batch)


def decode_device(message: bytes) -> Device:
    """The device of a dump, which its first message has whole; ValueError if it makes no sense."""
    GENL.unpack_from(message)
    fields = dict(attributes(message, GENL.size))
    key = fields.get(PUBLIC_KEY)
    (port,), (mark,) = SHORT.unpack(fields.get(LISTEN_PORT, bytes(2))), NUMBER.unpack(fields.get(FWMARK, bytes(4)))
    return Device(public_key=_text(key) if key else None, port=port, mark=mark)


class PeerDecoder:
    """Reads dumps of one device, one after the other."""

    def __init__(self) -> None:
        self._networks = Memo(_networks)
        self._peers = Memo(self._known)

    def decode(self, messages: Sequence[bytes]) -> dict[PublicKey, Peer]:
        """The peers of a whole dump, a peer that goes on in a further message merged; ValueError if it makes no sense."""
        self._networks.begin()
        self._peers.begin()
        found: dict[PublicKey, Peer] = {}
        for message in messages:
            for kind, content in attributes(message, GENL.size):
                for _, raw in attributes(content) if kind == PEERS else ():
                    key, peer = self._peers(raw)
                    before = found.get(key)
                    found[key] = replace(before, allowed_ips=before.allowed_ips | peer.allowed_ips) if before else peer
        return found

    def _known(self, raw: bytes) -> tuple[PublicKey, Peer]:
        fields = dict(attributes(raw))
        endpoint = fields.get(ENDPOINT)
        return _text(fields[PEER_KEY]), Peer(
            endpoint=_endpoint(endpoint) if endpoint else None,
            allowed_ips=self._networks(fields.get(ALLOWED_IPS, b"")),
            keepalive=SHORT.unpack(fields.get(KEEPALIVE, bytes(2)))[0],
            preshared=fields.get(PRESHARED, NO_KEY) != NO_KEY,
            handshake=TIME.unpack(fields.get(HANDSHAKE, bytes(16)))[0],
            received=LONG.unpack(fields.get(RECEIVED, bytes(8)))[0],
            sent=LONG.unpack(fields.get(SENT, bytes(8)))[0],
        )


def _pieces(orders: Iterable[PeerOrder]) -> Iterator[bytes]:
    """Each order as nested attributes of at most LIMIT bytes."""
    for order in orders:
        key = attribute(PEER_KEY, b64decode(order.key))
        piece, allowed = key + b"".join(_fields(order)), b""
        for network in order.allow:
            if len(piece) + len(allowed) > LIMIT - 64:  # an allowed IP, and two headers
                yield _peer_attribute(piece, allowed)
                piece, allowed = key, b""
            allowed += _allowed(network)
        yield _peer_attribute(piece, allowed)


def _peer_attribute(piece: bytes, allowed: bytes) -> bytes:
    return attribute(NESTED, piece + (attribute(ALLOWED_IPS | NESTED, allowed) if allowed else b""))


def _fields(order: PeerOrder) -> Iterator[bytes]:
    flags = (REMOVE if order.remove else 0) | (UPDATE_ONLY if order.known else 0)
    if flags:
        yield attribute(PEER_FLAGS, NUMBER.pack(flags))
    if order.unshare:
        yield attribute(PRESHARED, NO_KEY)
    if order.endpoint:
        yield attribute(ENDPOINT, _sockaddr(order.endpoint))
    if order.keepalive is not None:
        yield attribute(KEEPALIVE, SHORT.pack(order.keepalive))


def _sockaddr(endpoint: Endpoint) -> bytes:
    port = endpoint.port.to_bytes(2, "big")
    if isinstance(endpoint.address, IPv4Address):
        return IN.pack(socket.AF_INET, port, endpoint.address.packed)
    return IN6.pack(socket.AF_INET6, port, endpoint.address.packed, int(endpoint.address.scope_id or 0))


def _allowed(network: IPNetwork) -> bytes:
    form, size = ALLOWED[network.version], network.max_prefixlen // 8
    family = socket.AF_INET if network.version == 4 else socket.AF_INET6
    address = network.network_address.packed
    header = ATTRIBUTE.size
    return form.pack(
        *(form.size, NESTED, header + 2, FAMILY, family),
        *(header + size, ADDRESS, address, header + 1, PREFIX, network.prefixlen),
    )


def _endpoint(content: bytes) -> Endpoint:
    (family,) = SHORT.unpack_from(content)
    if family == socket.AF_INET:
        _, port, packed = IN.unpack(content)
        return Endpoint(address=IPv4Address(packed), port=int.from_bytes(port, "big"))
    _, port, packed, scope = IN6.unpack(content)
    address = IPv6Address(packed)
    return Endpoint(address=IPv6Address(f"{address}%{scope}") if scope else address, port=int.from_bytes(port, "big"))


def _networks(content: bytes) -> frozenset[IPNetwork]:
    return frozenset(_network(dict(attributes(each))) for _, each in attributes(content))


def _network(fields: dict[int, bytes]) -> IPNetwork:
    address, length = int.from_bytes(fields[ADDRESS], "big"), fields[PREFIX][0]
    return (IPv4Network if len(fields[ADDRESS]) == 4 else IPv6Network)((address, length))


def _name(link: str) -> bytes:
    return attribute(IFNAME, link.encode() + b"\0")


def _text(key: bytes) -> PublicKey:
    return PublicKey(b64encode(key).decode())
