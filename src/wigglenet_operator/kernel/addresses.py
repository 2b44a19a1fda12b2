"""The addresses of this node's links, by own bytes, for the reason that `link` gives.

Source: rtnetlink(7), linux/if_addr.h.
"""

import socket
import struct
import sys
from errno import ENODEV
from ipaddress import IPv4Interface, IPv6Interface
from typing import NamedTuple

from wigglenet_operator.errors import KernelError
from wigglenet_operator.kernel.netlink import attributes, dump
from wigglenet_operator.model.desired import IPInterface

RTM_GETADDR = 22
IFADDRMSG = struct.Struct("=BBBBI")
IFA_ADDRESS, IFA_LOCAL, IFA_FLAGS = 1, 2, 8


class Address(NamedTuple):
    """One address of a link."""

    link: int
    """The link's index."""
    interface: IPInterface
    """The node's own address with its prefix length, never the peer's of a point-to-point link."""
    scope: int
    """RT_SCOPE_* of linux/rtnetlink.h."""
    flags: int
    """IFA_F_* of linux/if_addr.h."""


def dump_addresses(link: int = 0) -> list[Address]:
    """Every address of both families, of one link if its index is given; may be empty. KernelError if they cannot be listed."""
    found: list[Address] = []
    for family in (socket.AF_INET, socket.AF_INET6):
        try:
            found += map(_parsed, dump(socket.NETLINK_ROUTE, RTM_GETADDR, IFADDRMSG.pack(family, 0, 0, 0, link)))
        except OSError as error:
            if error.errno == ENODEV:
                continue  # the link has just been removed
            raise KernelError(f"list addresses: {error.strerror or error}") from error
    return found


def link_of_address(message: bytes) -> int:
    """The index of the link that an event about an address names."""
    link: int = IFADDRMSG.unpack_from(message)[4]
    return link


def _parsed(message: bytes) -> Address:
    family, length, flags, scope, link = IFADDRMSG.unpack_from(message)
    fields = dict(attributes(message, IFADDRMSG.size))
    address = int.from_bytes(fields.get(IFA_LOCAL) or fields[IFA_ADDRESS], "big")
    interface = IPv4Interface if family == socket.AF_INET else IPv6Interface
    wide = int.from_bytes(fields.get(IFA_FLAGS, b""), sys.byteorder)  # the header has room for 8 of them only
    return Address(link, interface((address, length)), scope, wide or flags)
