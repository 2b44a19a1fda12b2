"""The WireGuard of our link: who implements it, and its tables.

What holds the link decides, whatever the settings say: a link that works is never converted.  Without a link the settings
decide who makes it: the kernel's is made here, a userspace one by the implementation that runs beside the agent.
"""

import asyncio
import secrets
import time
from base64 import b64encode
from collections.abc import Iterable, Iterator
from itertools import islice

from wigglenet_operator.errors import KernelError, MissingLink, WigglenetError
from wigglenet_operator.kernel import wg_netlink
from wigglenet_operator.kernel.keys import KEY_BYTES, PrivateKey
from wigglenet_operator.kernel.link import HOLDERS
from wigglenet_operator.kernel.ports import PeerOrder, WireGuard, attempt_all
from wigglenet_operator.kernel.rtnl import Rtnl
from wigglenet_operator.kernel.wg_netlink import NO_MODULE, NetlinkDevice
from wigglenet_operator.kernel.wg_uapi import UapiDevice
from wigglenet_operator.model.changes import Changes
from wigglenet_operator.model.desired import Device, Peer
from wigglenet_operator.model.facts import IPNetwork, PublicKey, WireGuardKind

PROBE_SECONDS = 60.0
"""Between two questions for a kernel module that is not there: the kernel runs modprobe for each."""
PRIMED_A_SECOND = 200
"""Handshakes asked for; each costs both sides about a millisecond of CPU, and a large mesh starts all at once."""


class WireGuardLink:
    """Our link, as WireGuard."""

    def __init__(self, rtnl: Rtnl, wanted: WireGuardKind | None, userspace: UapiDevice, *, leftover: bool = False) -> None:
        """`wanted` decides only where there is no link; None: the kernel's if it has one. `leftover`: none shall be."""
        self.rtnl = rtnl
        self._wanted = wanted
        self._leftover = leftover
        self._devices: dict[WireGuardKind, WireGuard] = {
            WireGuardKind.KERNEL: NetlinkDevice(rtnl.link),
            WireGuardKind.USERSPACE: userspace,
        }
        self._missed = float("-inf")

    def facts(self) -> tuple[WireGuardKind, bool]:
        """Who holds the link, or would hold one (of a foreign link: if it went), and whether the kernel could as well.

        The latter is asked only where userspace has it and nobody insists on that.
        """
        link = self.rtnl.own_link()
        kind = HOLDERS.get(link.kind if link else "") or self._maker()
        return kind, kind is WireGuardKind.USERSPACE and self._wanted is None and self._kernel_can()

    def existing(self) -> WireGuard | None:
        """Our device; None if there is none yet and it is for us to make, or none to remove.

        KernelError for a link that is no WireGuard, where one is wanted.
        """
        link = self.rtnl.own_link()
        if self._leftover and (link is None or link.kind not in HOLDERS):
            return None
        if link is None:
            maker = self._maker()
            return None if maker is WireGuardKind.KERNEL else self._devices[maker]
        if link.kind not in HOLDERS:
            text = f"link {self.rtnl.link} is no WireGuard ({link.kind or 'a device of its own'}) and is left alone"
            raise KernelError(f"{text}; remove or rename it, or set another WIGGLENET_IFACE_NAME")
        return self._devices[HOLDERS[link.kind]]

    async def made(self) -> WireGuard:
        """Our device, after it was made if that is for us."""
        if (found := self.existing()) is None and await self.rtnl.take_back():
            found = self.existing()
        if found is None:
            if not self._kernel_can():
                raise KernelError(NO_MODULE)
            await self.rtnl.call("link", "add", ifname=self.rtnl.link, kind="wireguard")
            found = self._devices[WireGuardKind.KERNEL]
        return found

    def _maker(self) -> WireGuardKind:
        if self._wanted is None:
            return WireGuardKind.KERNEL if self._kernel_can() else WireGuardKind.USERSPACE
        return self._wanted

    def _kernel_can(self) -> bool:
        now = time.monotonic()
        if now - self._missed < PROBE_SECONDS:
            return False
        try:
            can = wg_netlink.family() is not None
        except OSError as error:
            raise KernelError(f"ask the kernel for WireGuard: {error.strerror or error}") from error
        if not can:
            self._missed = now
        return can


class DeviceTable:
    """Key, port and mark of the device."""

    def __init__(self, link: WireGuardLink, key: PrivateKey | None) -> None:
        """`key` is not needed to look at it or to remove it."""
        self._link = link
        self._key = key

    async def observe(self) -> dict[str, Device]:
        """The device; nothing if it is for us to make it. MissingLink if it is for somebody else."""
        device = self._link.existing()
        return {} if device is None else {self._link.rtnl.link: await device.read_device()}

    async def apply(self, changes: Changes[str, Device]) -> None:
        """Make the device if need be, load the private key, listen on the port; or remove it.

        Without its peers first, for a link of the kernel's takes 17 ms for each that it is deleted with; a userspace
        implementation ends with its link.
        """
        for wanted in changes.put.values():
            assert self._key  # noqa: S101 - nobody wants a device without one
            await (await self._link.made()).write_device(wanted, self._key.raw)
        for _ in changes.remove:
            device = self._link.existing()
            if device is not None:
                await device.forget_peers()
                await self._link.rtnl.call("link", "del", index=self._link.rtnl.existing_index())


class PeerTable:
    """The peers of the device."""

    def __init__(self, link: WireGuardLink) -> None:
        self._link = link
        self._unprimed: dict[PublicKey, None] = {}  # in order
        self._news = asyncio.Event()

    async def observe(self) -> dict[PublicKey, Peer]:
        """May be empty, and is so while the device is for us to make."""
        device = self._link.existing()
        return {} if device is None else await device.read_peers()

    async def apply(self, changes: Changes[PublicKey, Peer]) -> None:
        """Write no more than is different; an allowed IP that stays or moves is with one of its peers at every instant."""
        for key in (*changes.remove, *changes.change):
            self._unprimed.pop(key, None)
        gone = (PeerOrder(key=key, remove=True) for key in changes.remove)
        try:
            await attempt_all(self._write(orders) for orders in (plan_orders(changes), gone))
        finally:  # of what was refused, some may have been carried out; not earlier, for only a peer that is there is primed
            self._unprimed |= dict.fromkeys(key for key, peer in changes.add.items() if not peer.keepalive)
            self._news.set()

    async def keep_primed(self) -> None:
        """Have new peers shake hands, until cancelled: WireGuard's own timers would leave a new pair dark for 5 to 15 s.

        Turning a keepalive on does so; a peer that is wanted without one gets it for the length of one operation.
        """
        while True:
            await self._news.wait()
            self._news.clear()
            while batch := [*islice(self._unprimed, PRIMED_A_SECOND)]:
                pause = len(batch) / PRIMED_A_SECOND
                try:
                    await self._write(PeerOrder(key=k, known=True, keepalive=v) for k in batch for v in (1, 0))
                except WigglenetError:
                    pause = 1.0  # and again; without a device, when there is one
                else:
                    for key in batch:
                        self._unprimed.pop(key, None)
                await asyncio.sleep(pause)

    async def _write(self, orders: Iterable[PeerOrder]) -> None:
        wanted = [*orders]
        if not wanted:
            return
        device = self._link.existing()
        if device is None:
            raise MissingLink(f"link {self._link.rtnl.link} does not exist")
        await device.write_peers(wanted)


def plan_orders(changes: Changes[PublicKey, Peer]) -> Iterator[PeerOrder]:
    """What each peer that stays or comes gets; then what is taken from them.

    An allowed IP is taken from a peer by giving it to another, in one instant: that leaves the peer's others alone, which
    replacing them all does not.  What nobody has is given to a peer of no use, which is then removed.
    """
    for key, new in changes.change.items():
        old = changes.was[key]
        yield PeerOrder(
            key=key,
            known=True,
            endpoint=None if new.endpoint == old.endpoint else new.endpoint,
            keepalive=None if new.keepalive == old.keepalive else new.keepalive,
            unshare=old.preshared,
            allow=tuple(new.allowed_ips - old.allowed_ips),
        )
    for key, new in changes.add.items():
        yield PeerOrder(key=key, endpoint=new.endpoint, keepalive=new.keepalive, allow=tuple(new.allowed_ips))
    lost = frozenset[IPNetwork]().union(
        *(old.allowed_ips - changes.change[key].allowed_ips for key, old in changes.was.items())
    )
    if surplus := lost.difference(*(peer.allowed_ips for peer in changes.put.values())):
        nobody = PublicKey(b64encode(secrets.token_bytes(KEY_BYTES)).decode())
        yield PeerOrder(key=nobody, allow=tuple(surplus))
        yield PeerOrder(key=nobody, remove=True)
