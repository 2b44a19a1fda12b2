"""Our link, and the list of all links, by own bytes.

Every state table reads our link, and `status` need not import pyroute2 for it. A message that pyroute2 decodes is a reference
cycle of some 150 objects, so a dump of all links in every pass would leave garbage in proportion to the number of pods.

Source: rtnetlink(7), linux/if_link.h, linux/ipv6.h.
"""

import socket
import struct
import sys
from dataclasses import dataclass
from errno import ENODEV
from typing import NamedTuple

from wigglenet_operator.errors import KernelError
from wigglenet_operator.kernel.netlink import attribute, attributes, dump, opened, replies, request
from wigglenet_operator.model.facts import WireGuardKind

HOLDERS = {"wireguard": WireGuardKind.KERNEL, "tun": WireGuardKind.USERSPACE}
"""Who implements a link's WireGuard, by the link's kind (IFLA_INFO_KIND)."""
NEWLINK, DELLINK, RTM_GETLINK = 16, 17, 18
IFLA_IFNAME, IFLA_MTU, IFLA_LINKINFO, IFLA_INFO_KIND = 3, 4, 18, 1
IFLA_AF_SPEC, IFLA_EXT_MASK, IFLA_INET6_CONF = 26, 29, 2
RTEXT_FILTER_SKIP_STATS = 1 << 3
"""Leave the counters out; they are the largest part of a link's message."""
DEVCONF_MTU6 = 2
"""Index of the IPv6 MTU in IFLA_INET6_CONF, an array of 32-bit numbers."""
IFINFOMSG = struct.Struct("=BxHiII")
IFF_UP = 1


@dataclass(frozen=True, slots=True)
class OwnLink:
    """Our link; `kind` as `ip -details link` names it, empty for hardware."""

    index: int
    mtu: int
    up: bool
    kind: str


def link_named(name: str) -> OwnLink | None:
    """The link of that name; None without one."""
    return _link(IFINFOMSG.pack(0, 0, 0, 0, 0) + attribute(IFLA_IFNAME, name.encode() + b"\0"), name)


class FoundLink(NamedTuple):
    """A link of this node."""

    number: int
    """The link's index."""
    name: str
    up: bool
    mtus: tuple[int, int]
    """MTU in bytes for IPv4 and for IPv6; the latter is smaller where a router advertised less (RFC 4861, section 4.6.4)."""


def dump_links() -> list[FoundLink]:
    """Every link; KernelError if they cannot be listed."""
    skip = attribute(IFLA_EXT_MASK, RTEXT_FILTER_SKIP_STATS.to_bytes(4, sys.byteorder))
    try:
        messages = dump(socket.NETLINK_ROUTE, RTM_GETLINK, IFINFOMSG.pack(0, 0, 0, 0, 0) + skip)
    except OSError as error:
        raise KernelError(f"list links: {error.strerror or error}") from error
    return [*map(_parsed, messages)]


def read_link(index: int) -> FoundLink | None:
    """The link of that index; None without one. KernelError if the kernel cannot be asked."""
    message = _requested(IFINFOMSG.pack(0, 0, index, 0, 0), f"number {index}")
    return _parsed(message) if message else None


def link_of_event(message: bytes) -> int:
    """The index of the link that a message of type RTM_NEWLINK or RTM_DELLINK is about; 0 if it is a port of a bridge."""
    family, _, index, _, _ = IFINFOMSG.unpack_from(message)
    return 0 if family == socket.AF_BRIDGE else int(index)


def _parsed(message: bytes) -> FoundLink:
    _, _, index, flags, _ = IFINFOMSG.unpack_from(message)
    fields = dict(attributes(message, IFINFOMSG.size))
    mtu = int.from_bytes(fields[IFLA_MTU], sys.byteorder)
    name = fields[IFLA_IFNAME].rstrip(b"\0").decode(errors="replace")
    return FoundLink(index, name, bool(flags & IFF_UP), (mtu, _mtu_of_ipv6(fields.get(IFLA_AF_SPEC, b"")) or mtu))


def _mtu_of_ipv6(families: bytes) -> int | None:
    """None for a link without IPv6."""
    of_ipv6 = dict(attributes(families)).get(socket.AF_INET6, b"")
    settings = dict(attributes(of_ipv6)).get(IFLA_INET6_CONF, b"")
    at = DEVCONF_MTU6 * 4
    return int.from_bytes(settings[at : at + 4], sys.byteorder) or None


def link_numbered(index: int, name: str) -> OwnLink | None:
    """The link of that index, whatever its name; `name` is for an error."""
    return _link(IFINFOMSG.pack(0, 0, index, 0, 0), name)


def _link(body: bytes, name: str) -> OwnLink | None:
    if (message := _requested(body, name)) is None:
        return None
    _, _, index, flags, _ = IFINFOMSG.unpack_from(message)
    fields = dict(attributes(message, IFINFOMSG.size))
    kind = dict(attributes(fields.get(IFLA_LINKINFO, b""))).get(IFLA_INFO_KIND, b"")
    mtu = int.from_bytes(fields[IFLA_MTU], sys.byteorder)
    return OwnLink(index, mtu, bool(flags & IFF_UP), kind.rstrip(b"\0").decode())


def _requested(body: bytes, name: str) -> bytes | None:
    """The message about one link; None if there is no such link."""
    try:
        with opened(socket.NETLINK_ROUTE) as netlink:
            request(netlink, RTM_GETLINK, body)
            (message,) = replies(netlink)
    except OSError as error:
        if error.errno == ENODEV:
            return None
        raise KernelError(f"link get {name}: {error.strerror or error}") from error
    return message
