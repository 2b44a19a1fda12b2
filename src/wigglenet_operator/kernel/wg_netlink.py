"""WireGuard in the kernel, by generic netlink: the socket's part; the bytes are in `wg_codec`.

Knows nothing of links: rtnetlink makes and removes them.  WireGuard has no events.  Source: linux/wireguard.h,
drivers/net/wireguard/netlink.c, linux/genetlink.h.
"""

import struct
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from errno import EADDRINUSE, ENODEV, ENOENT

from wigglenet_operator.errors import KernelError, MissingLink
from wigglenet_operator.kernel import netlink, wg_codec
from wigglenet_operator.kernel.ports import PORT_TAKEN, PeerOrder
from wigglenet_operator.model.desired import Device, Peer
from wigglenet_operator.model.facts import PublicKey

GENERIC = 16
"""NETLINK_GENERIC, and the id of its family that knows all others (GENL_ID_CTRL)."""
GET_FAMILY, FAMILY_ID, FAMILY_NAME = 3, 1, 2
NAME = b"wireguard\0"
NO_MODULE = (
    "this kernel has no WireGuard: load it (modprobe wireguard), or set WIGGLENET_WG_IMPLEMENTATION=userspace"
    " and run an implementation such as wireguard-go beside the agent"
)


class NetlinkDevice:
    """The kernel's WireGuard device of one link."""

    def __init__(self, link: str) -> None:
        self._link = link
        self._decoder = wg_codec.PeerDecoder()

    async def read_device(self) -> Device:
        """Key, port and mark: the first message of a dump has them, and the kernel is not asked for the rest."""
        with self._told("get"), netlink.opened(GENERIC) as opened:
            netlink.request(opened, existing_family(), wg_codec.encode_get(self._link), flags=netlink.DUMP)
            first = next(netlink.replies(opened), b"")
        with self._understood():
            return wg_codec.decode_device(first)

    async def read_peers(self) -> dict[PublicKey, Peer]:
        """The peers at one instant; may be empty."""
        with self._told("get"):
            found = netlink.dump(GENERIC, existing_family(), wg_codec.encode_get(self._link))
        with self._understood():
            return self._decoder.decode(found)

    async def write_device(self, device: Device, private_key: bytes) -> None:
        """Give it key, port and mark."""
        self._send([wg_codec.encode_device(self._link, device, private_key)])

    async def write_peers(self, orders: Sequence[PeerOrder]) -> None:
        """Carry out the orders in as few messages as can be, each of which is applied at one instant for whoever reads."""
        self._send(wg_codec.encode_orders(self._link, orders))

    async def forget_peers(self) -> None:
        """Remove every peer: a link that is deleted with them takes 17 ms for each."""
        self._send([wg_codec.encode_no_peers(self._link)])

    def _send(self, bodies: Iterable[bytes]) -> None:
        with self._told("set"), netlink.opened(GENERIC) as opened:
            family = existing_family()
            for body in bodies:
                netlink.request(opened, family, body)
                list(netlink.replies(opened))

    @contextmanager
    def _told(self, operation: str) -> Iterator[None]:
        """Errors in the words of an administrator."""
        what = f"{operation} WireGuard device {self._link}"
        try:
            yield
        except OSError as error:
            if error.errno == ENODEV:
                raise MissingLink(f"link {self._link} does not exist") from error
            remedy = f"; {PORT_TAKEN}" if error.errno == EADDRINUSE else ""
            raise KernelError(f"{what}: {error.strerror or error}{remedy}") from error

    @contextmanager
    def _understood(self) -> Iterator[None]:
        try:
            yield
        except (ValueError, LookupError, struct.error) as error:
            text = f"get WireGuard device {self._link}: the kernel does not answer as linux/wireguard.h says"
            raise KernelError(f"{text}: {error}") from error


def family() -> int | None:
    """The number of the kernel's WireGuard, which asking for it loads; None without it. OSError if it cannot be asked."""
    body = wg_codec.GENL.pack(GET_FAMILY, 1, 0) + netlink.attribute(FAMILY_NAME, NAME)
    with netlink.opened(GENERIC) as opened:
        netlink.request(opened, GENERIC, body)
        try:
            answers = list(netlink.replies(opened))
        except OSError as error:
            if error.errno == ENOENT:
                return None
            raise
    return int(wg_codec.SHORT.unpack(dict(netlink.attributes(answers[0], wg_codec.GENL.size))[FAMILY_ID])[0])


def existing_family() -> int:
    """The same; KernelError that says what to do without it."""
    if number := family():
        return number
    raise KernelError(NO_MODULE)
