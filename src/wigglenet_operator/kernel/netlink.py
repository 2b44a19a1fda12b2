"""Netlink by own bytes, for the few hot paths where pyroute2 takes fifteen to forty times as long (`nox -s bench`).

Knows messages and attributes, nothing of what they mean.  Source: netlink(7), linux/netlink.h; numbers are in host order.
Calls block until the kernel has done its work: milliseconds, but for the first question for a module that it has to load.
"""

import os
import socket
import struct
from collections.abc import Iterator, Sequence
from errno import EADDRINUSE, EAGAIN
from typing import NamedTuple

SOL_NETLINK, EXT_ACK, GET_STRICT_CHK = 270, 11, 12
NLMSG_ERROR, NLMSG_DONE = 2, 3
REQUEST, ACKNOWLEDGE, DUMP = 0x1, 0x4, 0x300
REPLACE, EXCLUSIVE, CREATE, APPEND = 0x100, 0x200, 0x400, 0x800
DUMP_INTERRUPTED = 0x10
CAPPED, EXPLAINED = 0x100, 0x200
"""Flags of an error: without the refused message, with attributes (of which 1 is the reason as text)."""
NESTED, KIND = 0x8000, 0x3FFF
"""Flag and mask of an attribute's kind."""
HEADER, ATTRIBUTE, ERRNO = struct.Struct("=IHHII"), struct.Struct("=HH"), struct.Struct("=i")
LARGEST = 1 << 18
"""Bytes of one datagram from the kernel, which are 32 KiB at most for a dump."""
AT_ONCE = 200
"""Messages in one send: the acknowledgements of 3,000 no longer fit into a socket."""
OWN_PORT = 0x77676C74
"""Port id of the sockets that write. The kernel names it in the events that a write causes, so that they are told apart."""
SECONDS = 5
TRIES = 5
"""Listings of a thing that keeps changing, before it is left to the next turn."""


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


class Message(NamedTuple):
    """One message of a datagram."""

    kind: int
    """RTM_* of linux/rtnetlink.h."""
    flags: int
    number: int
    port: int
    """Of an event, the port id of the socket whose request caused it; 0 if none did."""
    body: bytes


def opened(protocol: int, *, port: int = 0) -> socket.socket:
    """A socket of this thread's network namespace; it waits for SECONDS where there is nothing to read.

    It has the port id `port` if nobody else has it, else one that the kernel chooses.
    """
    netlink = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, protocol)
    netlink.settimeout(SECONDS)
    for option in (EXT_ACK, GET_STRICT_CHK):
        netlink.setsockopt(SOL_NETLINK, option, 1)
    try:
        netlink.bind((port, 0))
    except OSError as error:
        if not port or error.errno != EADDRINUSE:
            raise
        netlink.bind((0, 0))
    return netlink


def request(netlink: socket.socket, kind: int, body: bytes, *, flags: int = ACKNOWLEDGE) -> None:
    """Send one message."""
    netlink.send(_message(kind, flags, 1, body))


def replies(netlink: socket.socket) -> Iterator[bytes]:
    """The body of each answer, until the kernel says that it is done; OSError with its reason if it refuses.

    InterruptedError if what is listed has changed meanwhile, so that the answers do not fit together.
    """
    while True:
        for kind, flags, _, _, body in split(netlink.recv(LARGEST)):
            if flags & DUMP_INTERRUPTED:
                raise InterruptedError
            if kind in {NLMSG_ERROR, NLMSG_DONE}:
                if refusal := _refusal(body, flags, kind):
                    raise refusal
                return
            yield body


def write(protocol: int, messages: Sequence[tuple[int, int, bytes]]) -> dict[int, OSError]:
    """Send messages of a kind with flags and a body, many at once; the refusals by the message's place among them.

    OSError if the kernel cannot be asked at all: then nobody knows what was written.
    """
    refused: dict[int, OSError] = {}
    with opened(protocol, port=OWN_PORT) as netlink:
        for start in range(0, len(messages), AT_ONCE):
            batch = range(start, min(start + AT_ONCE, len(messages)))
            ordered = ((number, *messages[number]) for number in batch)
            netlink.send(b"".join(_message(kind, ACKNOWLEDGE | flags, number, body) for number, kind, flags, body in ordered))
            left = set(batch)
            while left:
                for kind, flags, number, _, body in split(netlink.recv(LARGEST)):
                    left.discard(number)
                    if refusal := _refusal(body, flags, kind):
                        refused[number] = refusal
    return refused


def _message(kind: int, flags: int, number: int, body: bytes) -> bytes:
    return HEADER.pack(HEADER.size + len(body), kind, REQUEST | flags, number, 0) + body


def split(datagram: bytes) -> Iterator[Message]:
    """The messages of a datagram from the kernel."""
    at = 0
    while at < len(datagram):
        length, kind, flags, number, port = HEADER.unpack_from(datagram, at)
        yield Message(kind, flags, number, port, datagram[at + HEADER.size : at + length])
        at += (length + 3) & ~3


def _refusal(body: bytes, flags: int, kind: int) -> OSError | None:
    """What an acknowledgement, or the end of a listing, says to be wrong."""
    number = -ERRNO.unpack_from(body)[0] if body else 0
    if not number:
        return None
    explained = ERRNO.size  # the end of a listing has its attributes there, an error behind the message that it refuses
    if kind == NLMSG_ERROR:
        explained += HEADER.size if flags & CAPPED else (HEADER.unpack_from(body, ERRNO.size)[0] + 3) & ~3
    with_reason = kind == NLMSG_DONE or flags & EXPLAINED
    reason = dict(attributes(body, explained)).get(1, b"").rstrip(b"\0").decode(errors="replace") if with_reason else ""
    return OSError(number, f"{os.strerror(number)}: {reason}" if reason else os.strerror(number))


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
