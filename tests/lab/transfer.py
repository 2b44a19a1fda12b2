"""TCP between two pods: what arrives, and how large a segment the far end is told to send."""

import socket
import struct
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

from tests.lab.pod import Pod
from tests.lab.wait import SLOWNESS

PATIENCE_SECONDS = 20.0
"""For TCP to try again after a while in the dark."""
IP_HEADER, TCP_HEADER = {4: 20, 6: 40}, 20
SYN, ACK = 0x02, 0x10
END_OF_OPTIONS, NO_OPTION, MAXIMUM_SEGMENT_SIZE = 0, 1, 2
"""RFC 9293, section 3.2."""


def sent_and_received(one: Pod, other: Pod, version: int, content: bytes, *, seconds: float = 5.0) -> bytes:
    """What `other` has received when `one` has sent `content`, or when for so long nothing more came."""
    with other.listen(version) as server:
        server.settimeout(seconds * SLOWNESS)
        with one.connect(other.addresses[version], seconds=seconds * SLOWNESS) as client:
            receiver, _ = server.accept()
            sender = threading.Thread(target=_send, args=(client, content))
            sender.start()
            try:
                with receiver:
                    receiver.settimeout(seconds * SLOWNESS)
                    return b"".join(_chunks(receiver))
            finally:
                sender.join()


def _send(client: socket.socket, content: bytes) -> None:
    with suppress(OSError):  # the far end tells what is missing
        client.sendall(content)
        client.shutdown(socket.SHUT_WR)


def _chunks(receiver: socket.socket) -> Iterator[bytes]:
    with suppress(TimeoutError):
        while chunk := receiver.recv(1 << 16):
            yield chunk


@contextmanager
def connection(one: Pod, other: Pod, version: int) -> Iterator[Callable[[], bool]]:
    """A TCP connection that stays open; the answer is whether both ends hear each other on it."""
    with other.listen(version) as server, one.connect(other.addresses[version]) as near, server.accept()[0] as far:
        for end in (near, far):
            end.settimeout(PATIENCE_SECONDS * SLOWNESS)

        def heard() -> bool:
            near.sendall(b"there")
            there = far.recv(100)
            far.sendall(b"back")
            return (there, near.recv(100)) == (b"there", b"back")

        yield heard


def mss_told(one: Pod, other: Pod, version: int) -> int:
    """The maximum segment size, in bytes, in the SYN of `one` as `other` sees it."""
    with other.packets() as seen, other.listen(version) as server:
        with one.connect(other.addresses[version]):
            server.accept()[0].close()
        seen.settimeout(5.0 * SLOWNESS)
        while True:
            packet = seen.recv(1 << 16)
            tcp = packet[IP_HEADER[version] :]
            if packet[0] >> 4 == version and tcp[13:14] and tcp[13] & (SYN | ACK) == SYN:
                return _mss(tcp[TCP_HEADER : (tcp[12] >> 4) * 4])


def _mss(options: bytes) -> int:
    """0 if none is told."""
    while options and options[0] != END_OF_OPTIONS:
        length = 1 if options[0] == NO_OPTION else options[1]
        if options[0] == MAXIMUM_SEGMENT_SIZE:
            return int(struct.unpack("!H", options[2:4])[0])
        options = options[length:]
    return 0
