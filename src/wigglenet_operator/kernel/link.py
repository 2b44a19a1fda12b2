"""Our link as the kernel shows it, by own bytes: every table asks for it, and whoever only looks need not import pyroute2.

Source: rtnetlink(7), linux/if_link.h.
"""

import socket
import struct
import sys
from dataclasses import dataclass
from errno import ENODEV

from wigglenet_operator.errors import KernelError
from wigglenet_operator.kernel.netlink import attribute, attributes, opened, replies, request
from wigglenet_operator.model.facts import WireGuardKind

HOLDERS = {"wireguard": WireGuardKind.KERNEL, "tun": WireGuardKind.USERSPACE}
"""Who implements a link's WireGuard, by the link's kind (IFLA_INFO_KIND)."""
RTM_GETLINK = 18
IFLA_IFNAME, IFLA_MTU, IFLA_LINKINFO, IFLA_INFO_KIND = 3, 4, 18, 1
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


def link_numbered(index: int, name: str) -> OwnLink | None:
    """The link of that index, whatever its name; `name` is for an error."""
    return _link(IFINFOMSG.pack(0, 0, index, 0, 0), name)


def _link(body: bytes, name: str) -> OwnLink | None:
    try:
        with opened(socket.NETLINK_ROUTE) as netlink:
            request(netlink, RTM_GETLINK, body)
            (message,) = replies(netlink)
    except OSError as error:
        if error.errno == ENODEV:
            return None
        raise KernelError(f"link get {name}: {error.strerror or error}") from error
    _, _, index, flags, _ = IFINFOMSG.unpack_from(message)
    fields = dict(attributes(message, IFINFOMSG.size))
    kind = dict(attributes(fields.get(IFLA_LINKINFO, b""))).get(IFLA_INFO_KIND, b"")
    mtu = int.from_bytes(fields[IFLA_MTU], sys.byteorder)
    return OwnLink(index, mtu, bool(flags & IFF_UP), kind.rstrip(b"\0").decode())
