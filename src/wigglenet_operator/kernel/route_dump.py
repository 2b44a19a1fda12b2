"""The main table's routes, read by own bytes: pyroute2 takes fifteen times as long, every turn (`nox -s bench`).

Source: rtnetlink(7), linux/rtnetlink.h; the kernel filters (NETLINK_GET_STRICT_CHK), so foreign routes cost nothing.
"""

import os
import socket
import struct
from collections.abc import Iterator
from ipaddress import IPv4Network, IPv6Network
from typing import NamedTuple

from wigglenet_operator.errors import KernelError
from wigglenet_operator.model.facts import IPNetwork

SOL_NETLINK, GET_STRICT_CHK = 270, 12
NLMSG_ERROR, NLMSG_DONE, RTM_GETROUTE = 2, 3, 26
REQUEST_DUMP, DUMP_INTERRUPTED = 0x301, 0x10
RTA_DST, RTA_OIF, RTA_PRIORITY = 1, 4, 6
TABLE_MAIN = 254
HEADER, RTMSG, ATTRIBUTE = struct.Struct("=IHHII"), struct.Struct("=BBBBBBBBI"), struct.Struct("=HH")
SECONDS = 5
TRIES = 5


class Found(NamedTuple):
    """One route."""

    to: IPNetwork
    metric: int
    protocol: int
    oif: int
    """The index of the link that it leads through; 0 for one that leads through several or none."""


def dump_routes(*, kind: int, oif: int = 0) -> list[Found]:
    """The routes of one type (RTN_*), through one link if `oif` is given; KernelError if they cannot be read."""
    try:
        return [found for family in (socket.AF_INET, socket.AF_INET6) for found in _whole(family, kind, oif)]
    except OSError as error:
        raise KernelError(f"list routes: {error.strerror or error}") from error


def _whole(family: int, kind: int, oif: int) -> list[Found]:
    for _ in range(TRIES):
        with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE) as netlink:
            netlink.settimeout(SECONDS)
            netlink.setsockopt(SOL_NETLINK, GET_STRICT_CHK, 1)
            netlink.bind((0, 0))
            body = RTMSG.pack(family, 0, 0, 0, TABLE_MAIN, 0, 0, kind, 0)
            if oif:
                body += ATTRIBUTE.pack(8, RTA_OIF) + struct.pack("=I", oif)
            netlink.send(HEADER.pack(HEADER.size + len(body), RTM_GETROUTE, REQUEST_DUMP, 1, 0) + body)
            found: list[Found] = []
            whole = True
            for flags, message in _messages(netlink):
                whole &= not flags & DUMP_INTERRUPTED
                found.append(_parsed(message))
        if whole:
            return found
    raise KernelError(f"list routes: the table changed during each of {TRIES} listings")


def _messages(netlink: socket.socket) -> Iterator[tuple[int, bytes]]:
    """Flags and body of each message of a dump; OSError if the kernel refuses it."""
    while True:
        data = netlink.recv(1 << 18)
        at = 0
        while at < len(data):
            length, kind, flags, _, _ = HEADER.unpack_from(data, at)
            body = data[at + HEADER.size : at + length]
            if kind == NLMSG_DONE:
                return
            if kind == NLMSG_ERROR:
                number = -struct.unpack_from("=i", body)[0]
                raise OSError(number, os.strerror(number))
            yield flags, body
            at += (length + 3) & ~3


def _parsed(message: bytes) -> Found:
    family, length, _, _, _, protocol, *_ = RTMSG.unpack_from(message)
    attributes = {RTA_DST: b"", RTA_PRIORITY: bytes(4), RTA_OIF: bytes(4)}
    at = RTMSG.size
    while at < len(message):
        size, kind = ATTRIBUTE.unpack_from(message, at)
        attributes[kind] = message[at + ATTRIBUTE.size : at + size]
        at += (size + 3) & ~3
    address = int.from_bytes(attributes[RTA_DST], "big")
    network = IPv4Network if family == socket.AF_INET else IPv6Network
    (metric,), (oif,) = (struct.unpack("=I", attributes[name]) for name in (RTA_PRIORITY, RTA_OIF))
    return Found(network((address, length)), metric, protocol, oif)
