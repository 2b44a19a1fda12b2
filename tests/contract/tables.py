"""Where the contract suites find a table: on a fake, or on the real kernel and WireGuard of a place."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any

from tests.builders import ips, nets
from tests.lab.namespaces import Place
from wigglenet_operator.kernel.keys import generate
from wigglenet_operator.kernel.ports import KeyedTable
from wigglenet_operator.kernel.rtnl import AddressTable, LinkTable, RouteTable, Rtnl
from wigglenet_operator.kernel.wg_uapi import UapiDevice
from wigglenet_operator.kernel.wireguard import DeviceTable, PeerTable, WireGuardLink
from wigglenet_operator.model.changes import diff
from wigglenet_operator.model.desired import Endpoint, Peer, RouteKind
from wigglenet_operator.model.facts import WireGuardKind

Table = KeyedTable[Any, Any]
LINK = "wigglenet"
PRIVATE = generate()


def peer(number: int, networks: str, *, address: str = "192.0.2.9", keepalive: int = 0) -> Peer:
    endpoint = Endpoint(address=ips(address)[0], port=24600 + number)
    return Peer(endpoint=endpoint, allowed_ips=nets(networks), keepalive=keepalive)


@dataclass
class Bench:
    """Where a table lives."""

    place: Place | None
    make: Callable[[Rtnl | None], Table]

    def run(self, work: Callable[[Table], Awaitable[Any]]) -> Any:
        """The result of one coroutine with a fresh table, in the place's network."""

        async def main() -> Any:
            if self.place is None:
                return await work(self.make(None))
            async with Rtnl(LINK) as rtnl:
                return await work(self.make(rtnl))

        if self.place is None:
            return asyncio.run(main())
        with self.place.network():
            return asyncio.run(main())


def wireguard_link(rtnl: Rtnl, place: Place, wanted: WireGuardKind | None = None) -> WireGuardLink:
    return WireGuardLink(rtnl, wanted, UapiDevice(LINK, directory=place.path("/run/wireguard")))


def real(kind: str, place: Place, wanted: WireGuardKind | None = None) -> Callable[[Rtnl | None], Table]:
    def link(rtnl: Rtnl) -> WireGuardLink:
        return wireguard_link(rtnl, place, wanted)

    makers: dict[str, Callable[[Any], Table]] = {
        "link": LinkTable,
        "addresses": AddressTable,
        "tunnel": lambda rtnl: RouteTable(rtnl, RouteKind.TUNNEL),
        "closed": lambda rtnl: RouteTable(rtnl, RouteKind.CLOSED),
        "device": lambda rtnl: DeviceTable(link(rtnl), PRIVATE),
        "peers": lambda rtnl: PeerTable(link(rtnl)),
    }
    return makers[kind]


async def brought_to(table: Table, desired: Mapping[Any, Any]) -> None:
    await table.apply(diff(await table.observe(), desired))
