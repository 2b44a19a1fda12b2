"""The main table's routes, read by own bytes: pyroute2 takes fifteen times as long, every turn (`nox -s bench`).

Source: rtnetlink(7), linux/rtnetlink.h; the kernel filters (NETLINK_GET_STRICT_CHK), so foreign routes cost nothing.
"""

import socket
import struct
from ipaddress import IPv4Network, IPv6Network
from typing import NamedTuple

from wigglenet_operator.errors import KernelError
from wigglenet_operator.kernel.netlink import attribute, attributes, dump
from wigglenet_operator.model.facts import IPNetwork

RTM_GETROUTE = 26
RTA_DST, RTA_OIF, RTA_PRIORITY = 1, 4, 6
TABLE_MAIN = 254
RTMSG, NUMBER = struct.Struct("=BBBBBBBBI"), struct.Struct("=I")


class Found(NamedTuple):
    """One route."""

    to: IPNetwork
    metric: int
    protocol: int
    oif: int
    """The index of the link that it leads through; 0 for one that leads through several or none."""


def dump_routes(*, kind: int, oif: int = 0) -> list[Found]:
    """The routes of one type (RTN_*), through one link if `oif` is given; KernelError if they cannot be read."""
    through = attribute(RTA_OIF, NUMBER.pack(oif)) if oif else b""
    found: list[Found] = []
    for family in (socket.AF_INET, socket.AF_INET6):
        body = RTMSG.pack(family, 0, 0, 0, TABLE_MAIN, 0, 0, kind, 0) + through
        try:
            found += map(_parsed, dump(socket.NETLINK_ROUTE, RTM_GETROUTE, body))
        except OSError as error:
            raise KernelError(f"list routes: {error.strerror or error}") from error
    return found


def _parsed(message: bytes) -> Found:
    family, length, _, _, _, protocol, *_ = RTMSG.unpack_from(message)
    fields = {RTA_DST: b"", RTA_PRIORITY: bytes(4), RTA_OIF: bytes(4)} | dict(attributes(message, RTMSG.size))
    address = int.from_bytes(fields[RTA_DST], "big")
    network = IPv4Network if family == socket.AF_INET else IPv6Network
    (metric,), (oif,) = NUMBER.unpack(fields[RTA_PRIORITY]), NUMBER.unpack(fields[RTA_OIF])
    return Found(network((address, length)), metric, protocol, oif)
