"""Netlink by own bytes, for the few hot paths where pyroute2 takes fifteen to forty times as long (`nox -s bench`).

Knows messages and attributes, nothing of what they mean.  Source: netlink(7), linux/netlink.h; numbers are in host order.
Calls block for as long as the kernel takes, which is milliseconds.
"""

import os
import socket
import struct
from collections.abc import Iterator
from errno import EAGAIN

SOL_NETLINK, GET_STRICT_CHK = 270, 12
NLMSG_ERROR, NLMSG_DONE = 2, 3
REQUEST, ACKNOWLEDGE, DUMP = 0x1, 0x4, 0x300
DUMP_INTERRUPTED = 0x10
NESTED, KIND = 0x8000, 0x3FFF
"""Flag and mask of an attribute's kind."""
HEADER, ATTRIBUTE, ERRNO = struct.Struct("=IHHII"), struct.Struct("=HH"), struct.Struct("=i")
LARGEST = 1 << 18
"""Bytes of one datagram from the kernel, which are 32 KiB at most for a dump."""
SECONDS = 5
TRIES = 5


def attribute(kind: int, content: bytes) -> bytes:
    """One attribute, padded."""
    return ATTRIBUTE.pack(ATTRIBUTE.size + len(content), kind) + content + bytes(-len(content) & 3)


def attributes(message: bytes, start: int = 0) -> Iterator[tuple[int, bytes]]:
    """Kind and content of each attribute from `start` on; ValueError if the lengths make no sense."""
    at, end = start, len(message)
    while at < end:
        if at + ATTRIBUTE.size > end:
            raise ValueError("an attribute is cut off")
        size, kind = ATTRIBUTE.unpack_from(message, at)
        if size < ATTRIBUTE.size or at + size > end:
            raise ValueError(f"an attribute says to have {size} bytes")
        yield kind & KIND, message[at + ATTRIBUTE.size : at + size]
        at += (size + 3) & ~3


def opened(protocol: int) -> socket.socket:
    """A blocking socket that gives up after SECONDS, in this thread's network namespace."""
    netlink = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, protocol)
    netlink.settimeout(SECONDS)
    netlink.setsockopt(SOL_NETLINK, GET_STRICT_CHK, 1)
    netlink.bind((0, 0))
    return netlink


def request(netlink: socket.socket, kind: int, body: bytes, *, flags: int = ACKNOWLEDGE) -> None:
    """Send one message."""
    netlink.send(HEADER.pack(HEADER.size + len(body), kind, REQUEST | flags, 1, 0) + body)


def replies(netlink: socket.socket) -> Iterator[bytes]:
    """The body of each answer, until the kernel says that it is done; OSError with its reason if it refuses.

    InterruptedError if what is listed has changed meanwhile, so that the answers do not fit together.
    """
    while True:
        data = netlink.recv(LARGEST)
        at = 0
        while at < len(data):
            length, kind, flags, _, _ = HEADER.unpack_from(data, at)
            body = data[at + HEADER.size : at + length]
            if flags & DUMP_INTERRUPTED:
                raise InterruptedError
            if kind in {NLMSG_ERROR, NLMSG_DONE}:
                number = -ERRNO.unpack_from(body)[0]
                if number:
                    raise OSError(number, os.strerror(number))
                return
            yield body
            at += (length + 3) & ~3


def dump(protocol: int, kind: int, body: bytes) -> list[bytes]:
    """The messages of one dump that nothing changed meanwhile; OSError if it is refused, or never holds still."""
    for _ in range(TRIES):
        try:
            with opened(protocol) as netlink:
                request(netlink, kind, body, flags=DUMP)
                return list(replies(netlink))
        except InterruptedError:
            continue
    raise OSError(EAGAIN, f"it changed during each of {TRIES} listings; the next turn tries again")
