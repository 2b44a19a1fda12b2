"""Who is heard by whom, and under which address: words sent over UDP and TCP between hosts, each noted where it arrives."""

import selectors
import socket
import threading
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from ipaddress import ip_address
from itertools import count
from types import TracebackType
from typing import Literal, Self

from tests.lab.namespaces import Place
from tests.lab.wait import SLOWNESS
from wigglenet_operator.model.facts import IPAddress

Protocol = Literal["udp", "tcp"]
FAMILIES = {4: socket.AF_INET, 6: socket.AF_INET6}
TRANSPARENT = {4: (socket.IPPROTO_IP, 19), 6: (socket.IPPROTO_IPV6, 75)}
"""IP_TRANSPARENT of linux/in.h, IPV6_TRANSPARENT of linux/in6.h: to send from an address of somebody else."""
MULTICAST = {4: (socket.IPPROTO_IP, socket.IP_MULTICAST_IF), 6: (socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_IF)}
HEARD_SECONDS, SILENT_SECONDS = 3.0 * SLOWNESS, 0.4 * SLOWNESS
"""How long an answer is waited for that should come, and one that should not."""
PORT = 8080


@dataclass(frozen=True)
class Host:
    """Somebody with a network and addresses by IP version."""

    name: str
    place: Place
    addresses: Mapping[int, IPAddress]
    netns: str | None = None
    """Of the place's, None for its own."""


@dataclass(frozen=True)
class Heard:
    """What became of one word."""

    source: str = ""
    """The host whose address the far end saw; empty if nothing arrived."""
    answered: bool = False

    def __str__(self) -> str:
        """For a table."""
        return (self.source or "nobody") + ("" if self.answered or not self.source else " (unanswered)")


class Exchange:
    """Listeners of many hosts in one thread, and the words that they have heard."""

    def __init__(self, names: Mapping[IPAddress, str]) -> None:
        """`names` tell addresses to people."""
        self._names = names
        self._heard: dict[str, str] = {}
        self._numbers = count(1)
        self._selector = selectors.DefaultSelector()
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._serve, daemon=True)  # a failed test does not stop it

    def listen(self, host: Host, addresses: Iterable[IPAddress], *, group: IPAddress | None = None) -> None:
        """UDP and TCP on each of the addresses of a host; UDP on a multicast group of its link eth0 as well."""
        with host.place.network(host.netns):
            for address in addresses:
                tcp = socket.create_server((str(address), PORT), family=FAMILIES[address.version], backlog=64)
                self._selector.register(tcp, selectors.EVENT_READ, self._accept)
                self._hear(address)
            if group:
                self._join(self._hear(group), group)

    def _hear(self, address: IPAddress) -> socket.socket:
        udp = socket.socket(FAMILIES[address.version], socket.SOCK_DGRAM)
        scope = (0, socket.if_nametoindex("eth0")) if address.version == 6 and address.is_multicast else ()
        udp.bind((str(address), PORT, *scope))
        self._selector.register(udp, selectors.EVENT_READ, self._datagram)
        return udp

    @staticmethod
    def _join(udp: socket.socket, group: IPAddress) -> None:
        index = socket.if_nametoindex("eth0").to_bytes(4, "little")
        if group.version == 4:
            udp.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, group.packed + bytes(4) + index)
        else:
            udp.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_JOIN_GROUP, group.packed + index)

    def say(  # noqa: PLR0913 - a word has many ways
        self,
        host: Host,
        to: tuple[IPAddress, int],
        *,
        protocol: Protocol,
        source: IPAddress | None = None,
        size: int = 0,
        hopeless: bool = False,
    ) -> Heard:
        """Send one word of at least so many bytes, from an address of anybody; what became of it. `hopeless` waits less."""
        address, port = to
        token = f"word-{next(self._numbers)}"
        answered = False
        kind = socket.SOCK_DGRAM if protocol == "udp" else socket.SOCK_STREAM
        with host.place.network(host.netns):
            mine = socket.socket(FAMILIES[address.version], kind)
            if address.is_multicast:
                index = socket.if_nametoindex("eth0")
                value = bytes(8) + index.to_bytes(4, "little") if address.version == 4 else index.to_bytes(4, "little")
                mine.setsockopt(*MULTICAST[address.version], value)
        with mine:
            mine.settimeout(SILENT_SECONDS if hopeless else HEARD_SECONDS)
            if size and address.version == 4:
                mine.setsockopt(socket.IPPROTO_IP, 10, 0)  # IP_MTU_DISCOVER: IP_PMTUDISC_DONT, so that it is fragmented
            if source:
                mine.setsockopt(*TRANSPARENT[address.version], 1)
                mine.bind((str(source), 0))
            with suppress(OSError):  # refused, unreachable, no answer: all that matters is what was heard
                if address.is_multicast:
                    mine.sendto(f"{token} ".encode(), (str(address), port))
                    mine.recvfrom(100)
                else:
                    mine.connect((str(address), port))
                    mine.sendall(f"{token} ".ljust(size).encode())
                    mine.recv(100)
                answered = True
        return Heard(self._heard.get(token, ""), answered)

    def _serve(self) -> None:
        while not self._stopped.is_set():
            for key, _ in self._selector.select(0.1):
                with suppress(OSError):  # of a peer that has gone
                    key.data(key.fileobj)

    def _accept(self, server: socket.socket) -> None:
        client, _ = server.accept()
        self._selector.register(client, selectors.EVENT_READ, self._word)

    def _word(self, client: socket.socket) -> None:
        self._note(client.recv(100), str(client.getpeername()[0]))
        client.send(b"heard")
        self._selector.unregister(client)
        client.close()

    def _datagram(self, udp: socket.socket) -> None:
        word, peer = udp.recvfrom(1 << 16)
        self._note(word, str(peer[0]))
        udp.sendto(b"heard", peer)

    def _note(self, word: bytes, peer: str) -> None:
        source = ip_address(peer.partition("%")[0])
        self._heard[word.partition(b" ")[0].decode()] = self._names.get(source, str(source))

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._stopped.set()
        self._thread.join()
        for key in list(self._selector.get_map().values()):
            self._selector.unregister(key.fileobj)
            if isinstance(key.fileobj, socket.socket):
                key.fileobj.close()
        self._selector.close()
