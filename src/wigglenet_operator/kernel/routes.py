"""The main table's routes by own bytes: pyroute2 takes fifteen times as long to list and twenty to write (`nox -s bench`).

Route look-ups too, for the reason that `link` gives.

Source: rtnetlink(7), linux/rtnetlink.h; the kernel filters (NETLINK_GET_STRICT_CHK), so foreign routes cost nothing.
"""

import socket
import struct
import sys
from collections.abc import Iterable, Sequence
from errno import ENOENT
from ipaddress import IPv4Network, IPv6Network
from typing import NamedTuple

from wigglenet_operator.errors import KernelError
from wigglenet_operator.kernel.netlink import (
    CREATE,
    EXCLUSIVE,
    REPLACE,
    attribute,
    attributes,
    dump,
    opened,
    replies,
    request,
    write,
)
from wigglenet_operator.kernel.ports import raise_refused
from wigglenet_operator.model.desired import RouteKey
from wigglenet_operator.model.facts import IPAddress, IPNetwork

NEWROUTE, DELROUTE, RTM_GETROUTE = 24, 25, 26
ADD, CHANGE, DELETE = (NEWROUTE, CREATE | EXCLUSIVE), (NEWROUTE, CREATE | REPLACE), (DELROUTE, 0)
"""Message and flags; adding fails where there is an equal route, whoever made it."""
UNICAST, UNREACHABLE = 1, 7
"""RTN_UNICAST and RTN_UNREACHABLE of linux/rtnetlink.h."""
PROTOCOL_KERNEL, PROTOCOL_RA = 2, 9
PROTOCOL = 157
"""Free in iproute2's rt_protos and in what routing daemons use; it marks our routes for whoever comes after us."""
SCOPE_NOWHERE = 255
"""On deletion: any scope (net/ipv4/fib_semantics.c)."""
RTA_DST, RTA_OIF, RTA_PRIORITY, RTA_METRICS, RTAX_MTU = 1, 4, 6, 8, 2
RTM_F_FIB_MATCH = 0x2000
"""Return the route of the table, without the path MTU that an ICMP message claims for a while."""
RTM_F_CLONED = 0x200
"""A route of the cache, such as an exception that an ICMP message made."""
TABLE_MAIN = 254
RTMSG, NUMBER = struct.Struct("=BBBBBBBBI"), struct.Struct("=I")


class FoundRoute(NamedTuple):
    """One route."""

    to: IPNetwork
    metric: int
    protocol: int
    oif: int
    """The index of the link that it leads through; 0 for one that leads through several or none."""
    kind: int
    """RTN_* of linux/rtnetlink.h."""


def dump_routes(*, kind: int, oif: int = 0) -> list[FoundRoute]:
    """The routes of one type (RTN_*), through one link if `oif` is given; KernelError if they cannot be read."""
    return parse_routes(dump_raw_routes(kind=kind, oif=oif))


def dump_raw_routes(*, kind: int, oif: int = 0) -> list[bytes]:
    """The messages of `dump_routes`, from struct rtmsg on: equal lists are equal routes."""
    through = attribute(RTA_OIF, NUMBER.pack(oif)) if oif else b""
    found: list[bytes] = []
    for family in (socket.AF_INET, socket.AF_INET6):
        body = RTMSG.pack(family, 0, 0, 0, TABLE_MAIN, 0, 0, kind, 0) + through
        try:
            found += dump(socket.NETLINK_ROUTE, RTM_GETROUTE, body)
        except OSError as error:
            if error.errno == ENOENT:
                continue  # the kernel makes a table with its first route
            raise KernelError(f"list routes: {error.strerror or error}") from error
    return found


def look_up_routes(addresses: Iterable[IPAddress]) -> dict[IPAddress, tuple[int, int]]:
    """By address the MTU in bytes that its route sets, 0 if it sets none, and the index of the link that it leads through.

    An address that has no route is left out. KernelError if the kernel cannot be asked.
    """
    found: dict[IPAddress, tuple[int, int]] = {}
    try:
        with opened(socket.NETLINK_ROUTE) as netlink:
            for address in addresses:
                if (way := _look_up(netlink, address)) is not None:
                    found[address] = way
    except OSError as error:
        raise KernelError(f"look up routes: {error.strerror or error}") from error
    return found


def _look_up(netlink: socket.socket, address: IPAddress) -> tuple[int, int] | None:
    family = socket.AF_INET if address.version == 4 else socket.AF_INET6
    body = RTMSG.pack(family, address.max_prefixlen, 0, 0, 0, 0, 0, 0, RTM_F_FIB_MATCH)
    request(netlink, RTM_GETROUTE, body + attribute(RTA_DST, address.packed))
    try:
        (message,) = replies(netlink)
    except TimeoutError:
        raise
    except OSError:  # no route, or one that refuses (unreachable, prohibit)
        return None
    fields = dict(attributes(message, RTMSG.size))
    mtu = dict(attributes(fields.get(RTA_METRICS, b""))).get(RTAX_MTU, b"")
    return int.from_bytes(mtu, sys.byteorder), int.from_bytes(fields.get(RTA_OIF, b""), sys.byteorder)


def write_routes(orders: Sequence[tuple[tuple[int, int], RouteKey]], *, kind: int, oif: int = 0) -> None:
    """Carry out all that can be, of one type, through one link if `oif` is given; KernelError naming what was refused."""
    messages = [(message, flags, _written(message, key, kind, oif)) for (message, flags), key in orders]
    try:
        refused = write(socket.NETLINK_ROUTE, messages)
    except OSError as error:
        raise KernelError(f"write routes: {error.strerror or error}") from error
    raise_refused(
        f"{'remove' if orders[number][0] == DELETE else 'write'} route {orders[number][1].to}: {error.strerror}"
        for number, error in refused.items()
    )


def _written(message: int, key: RouteKey, kind: int, oif: int) -> bytes:
    """A deletion names no protocol, so that it finds what was taken over as well, and any scope."""
    delete, four = message == DELROUTE, key.to.version == 4
    family = socket.AF_INET if four else socket.AF_INET6
    protocol, scope = 0 if delete else PROTOCOL, SCOPE_NOWHERE if delete and four else 0
    body = RTMSG.pack(family, key.to.prefixlen, 0, 0, TABLE_MAIN, protocol, scope, kind, 0)
    body += attribute(RTA_DST, key.to.network_address.packed) + attribute(RTA_PRIORITY, NUMBER.pack(key.metric))
    return body + attribute(RTA_OIF, NUMBER.pack(oif)) if oif else body


def parse_route(message: bytes) -> FoundRoute | None:
    """The route that a message of type RTM_NEWROUTE or RTM_DELROUTE is about; None unless it is in the main table."""
    fields = RTMSG.unpack_from(message)
    table, flags = fields[4], fields[8]
    return _parsed(message) if table == TABLE_MAIN and not flags & RTM_F_CLONED else None


def parse_routes(messages: Iterable[bytes]) -> list[FoundRoute]:
    """The routes of `dump_raw_routes`."""
    return [*map(_parsed, messages)]


def _parsed(message: bytes) -> FoundRoute:
    family, length, _, _, _, protocol, _, kind, _ = RTMSG.unpack_from(message)
    fields = {RTA_DST: b"", RTA_PRIORITY: bytes(4), RTA_OIF: bytes(4)} | dict(attributes(message, RTMSG.size))
    address = int.from_bytes(fields[RTA_DST], "big")
    network = IPv4Network if family == socket.AF_INET else IPv6Network
    (metric,), (oif,) = NUMBER.unpack(fields[RTA_PRIORITY]), NUMBER.unpack(fields[RTA_OIF])
    return FoundRoute(network((address, length)), metric, protocol, oif, kind)
