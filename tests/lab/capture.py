"""What crosses the underlay, read from packet sockets, and what of it may be there."""

import socket
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from ipaddress import IPv4Network, IPv6Network, ip_address

from tests.lab.namespaces import Place
from wigglenet_operator.model.facts import IPAddress

ETH_P_ALL, ETH_P_IPV4, ETH_P_ARP, ETH_P_IPV6 = 0x0003, 0x0800, 0x0806, 0x86DD
PACKET_OUTGOING = 4
UDP, HOP_BY_HOP, ICMPV6 = 17, 0, 58
NEIGHBOUR_DISCOVERY, MLD = range(133, 138), (130, 131, 132, 143)
WIREGUARD_PORT = 24601
LATE_SECONDS = 1.0
"""For what is still to be read when no more is wanted, where traffic never ends."""
POD_NETWORKS = (IPv4Network("10.1.0.0/16"), IPv6Network("fd00:10:1::/48"))


@dataclass(frozen=True)
class Packet:
    """One frame of the underlay."""

    frame: bytes
    kind: str
    """`wireguard`, `arp`, `nd`, `mld` or `other`."""
    addresses: tuple[IPAddress, ...] = ()

    @property
    def of_pods(self) -> bool:
        """Whether it has a pod's address outside."""
        return any(a in n for a in self.addresses for n in POD_NETWORKS if a.version == n.version)


class Capture:
    """A thread that collects frames from every bridge port of that name; those only that `wanted` wants, if it is given."""

    def __init__(self, place: Place, *, ports: str, wanted: Callable[[Packet], bool] | None = None) -> None:
        self._ports, self._wanted = ports, wanted
        with place.network():
            self._socket = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(ETH_P_ALL))
        self._socket.setsockopt(socket.SOL_SOCKET, 33, 64 << 20)  # SO_RCVBUFFORCE: nothing may be missed
        self._socket.settimeout(0.05)
        self._frames: list[bytes] = []
        self._stopped, self._end = threading.Event(), float("inf")
        self._thread = threading.Thread(target=self._collect, daemon=True)  # a failed test does not stop it
        self._thread.start()

    def _collect(self) -> None:
        while time.monotonic() < self._end:
            try:
                frame, (port, _, kind, *_) = self._socket.recvfrom(65536)
            except TimeoutError:
                if self._stopped.is_set():
                    return
                continue
            if not port.startswith(self._ports) or kind == PACKET_OUTGOING:
                continue
            if self._wanted is None or self._wanted(parsed(frame)):
                self._frames.append(frame)

    def stop(self) -> list[Packet]:
        """Every frame until now: those too that this busy machine has not looked at yet."""
        self._end = time.monotonic() + LATE_SECONDS
        self._stopped.set()
        self._thread.join()
        self._socket.close()
        return [parsed(frame) for frame in self._frames]


def kinds(packets: list[Packet]) -> Counter[str]:
    """How many of each kind."""
    return Counter(packet.kind for packet in packets)


def parsed(frame: bytes) -> Packet:
    """A frame by what it is (RFC 826, 791, 8200, 4861, 3810)."""
    payload = frame[14:]
    match int.from_bytes(frame[12:14]):
        case 0x0806:
            return Packet(frame, "arp")
        case 0x0800:
            addresses = (ip_address(payload[12:16]), ip_address(payload[16:20]))
            body = payload[(payload[0] & 15) * 4 :]
            return Packet(frame, "wireguard" if payload[9] == UDP and _is_wireguard(body) else "other", addresses)
        case 0x86DD:
            addresses = (ip_address(payload[8:24]), ip_address(payload[24:40]))
            header, body = payload[6], payload[40:]
            if header == HOP_BY_HOP:
                header, body = body[0], body[(body[1] + 1) * 8 :]
            return Packet(frame, _kind_of_ipv6(header, body), addresses)
    return Packet(frame, "other")


def _kind_of_ipv6(header: int, body: bytes) -> str:
    if header == UDP and _is_wireguard(body):
        return "wireguard"
    if header == ICMPV6 and body[0] in NEIGHBOUR_DISCOVERY:
        return "nd"
    return "mld" if header == ICMPV6 and body[0] in MLD else "other"


def _is_wireguard(udp: bytes) -> bool:
    return WIREGUARD_PORT in {int.from_bytes(udp[0:2]), int.from_bytes(udp[2:4])}
