"""Our link, its addresses and routes, and the node's paths, by rtnetlink(7).

Our routes are known by their protocol number and, whatever their protocol, by leading through our link.
"""

import socket
from collections.abc import AsyncIterator, Collection, Mapping
from errno import EADDRINUSE
from typing import Any, Self

from pyroute2 import AsyncIPRoute
from pyroute2.netlink.exceptions import NetlinkError

from wigglenet_operator.errors import KernelError, MissingLink
from wigglenet_operator.kernel.addresses import dump_addresses
from wigglenet_operator.kernel.link import OwnLink, dump_mtus, link_named, link_numbered
from wigglenet_operator.kernel.ports import PORT_TAKEN, attempt_all
from wigglenet_operator.kernel.routes import ADD, CHANGE, DELETE, PROTOCOL, Found, dump_routes, look_up_routes, write_routes
from wigglenet_operator.model.changes import Changes
from wigglenet_operator.model.desired import CLOSED_METRIC, IPInterface, Link, Route, RouteKey, RouteKind
from wigglenet_operator.model.facts import VETH, ForeignRoute, IPAddress

PROTOCOL_KERNEL, PROTOCOL_RA = 2, 9
RTN = {RouteKind.TUNNEL: 1, RouteKind.CLOSED: 7}
"""RTN_UNICAST and RTN_UNREACHABLE of linux/rtnetlink.h."""
RT_SCOPE_UNIVERSE = 0
PASSING = {4: 0x20, 6: 0x01 | 0x08 | 0x20 | 0x40}
"""IFA_F_DEPRECATED, of IPv6 _TEMPORARY, _DADFAILED, _TENTATIVE too (linux/if_addr.h): of no use to others, or not for long."""


class Rtnl:
    """One rtnetlink socket and what all its tables share: our link's name."""

    def __init__(self, link: str) -> None:
        self.link = link
        self.socket = AsyncIPRoute(ext_ack=True, strict_check=True)
        self._paths: dict[IPAddress, int | None] = {}
        self._foreign: list[Found] | None = None
        self._last: OwnLink | None = None

    async def __aenter__(self) -> Self:
        """Open the socket."""
        await self.socket.__aenter__()
        return self

    async def __aexit__(self, *error: object) -> None:
        """Close the socket."""
        await self.socket.__aexit__(*error)

    async def call(self, what: str, command: str, **fields: Any) -> list[Any]:  # noqa: ANN401 - pyroute2 is untyped
        """One request and its replies; KernelError naming it. `what` is `link`, `addr` or `route`."""
        try:
            return [m async for m in _replies(await getattr(self.socket, what)(command, **fields))]
        except NetlinkError as error:
            raise KernelError(f"{what} {command} {_told(fields)}: {error.args[1]}") from error
        except OSError as error:
            raise KernelError(f"{what} {command} {_told(fields)}: {error}") from error

    def own_link(self) -> OwnLink | None:
        """Our link; None without one."""
        found = link_named(self.link)
        self._last = found or self._last
        return found

    async def take_back(self) -> bool:
        """Give our link its name again if somebody has renamed it since we saw it; whether that was so."""
        renamed = self._last and link_numbered(self._last.index, self.link)
        if not renamed or not self._last or renamed.kind != self._last.kind or self.own_link():
            return False
        await self.call("link", "set", index=renamed.index, state="down")  # else the kernel refuses
        await self.call("link", "set", index=renamed.index, ifname=self.link)
        return True

    def existing_index(self) -> int:
        """The index of our link; MissingLink without one."""
        if (link := self.own_link()) is None:
            raise MissingLink(f"link {self.link} does not exist")
        return link.index

    def forget_paths(self) -> None:
        """Ask the kernel anew next time, for a link, address or route has changed; 2,000 look-ups are 0.6 s of CPU."""
        self._paths = {}  # not cleared: a look that is under way goes on to fill the former one
        self._foreign = None

    def foreign_routes(self) -> frozenset[ForeignRoute]:
        """Others' unicast routes; the kernel's own are left out."""
        names, others = dict(socket.if_nameindex()), self._others()
        return frozenset(ForeignRoute(r.to, r.metric, names.get(r.oif, "")) for r in others)

    def advertised(self) -> frozenset[str]:
        """Names of the links with a default route that a router advertisement made."""
        names = dict(socket.if_nameindex())
        found = (r for r in self._others() if r.protocol == PROTOCOL_RA and r.to.version == 6 and not r.to.prefixlen)
        return frozenset(names[r.oif] for r in found if r.oif in names)

    def _others(self) -> list[Found]:
        """Asked anew only after `forget_paths`."""
        if self._foreign is None:
            own = self.own_link()
            routes = dump_routes(kind=RTN[RouteKind.TUNNEL])
            self._foreign = [r for r in routes if r.protocol != PROTOCOL_KERNEL and not (own and r.oif == own.index)]
        return self._foreign

    def global_addresses(self, links: Collection[str]) -> dict[str, list[IPAddress]]:
        """Those of each of the links that is there: what others can reach, and for some time."""
        names = {index: name for index, name in socket.if_nameindex() if name in links}
        found: dict[str, list[IPAddress]] = {name: [] for name in names.values()}
        for link, interface, scope, flags in dump_addresses() if names else ():
            if link in names and scope == RT_SCOPE_UNIVERSE and not flags & PASSING[interface.version]:
                found[names[link]].append(interface.ip)
        return found

    def local_addresses(self) -> frozenset[IPAddress]:
        """Global ones of this node itself: those of our link and of pods' links are their gateways."""
        names = dict(socket.if_nameindex())
        gateways = {index for index, name in names.items() if name == self.link or name.startswith(VETH)}
        return frozenset(
            interface.ip
            for link, interface, scope, _ in dump_addresses()
            if scope == RT_SCOPE_UNIVERSE and link not in gateways
        )

    def path_mtus(self, addresses: Collection[IPAddress]) -> tuple[dict[IPAddress, int], int | None]:
        """MTU in bytes by address (none for what has no route), and that of the underlay.

        The second is what the underlay carries while there is no peer: the smallest MTU of the interfaces that carry some
        of the addresses (this node's own are among them), else that of the default route's interface.
        """
        known = self._paths
        links = dump_mtus()
        local = {
            interface.ip: links[link, interface.version]
            for link, interface, *_ in dump_addresses()
            if (link, interface.version) in links  # the listing of addresses may have links that came after that of links
        }
        unknown = [address for address in addresses if address not in local and address not in known]
        ways = look_up_routes(unknown) if unknown else {}
        for address in unknown:
            of_route, link = ways.get(address, (0, 0))
            known[address] = of_route or links.get((link, address.version))
        own = {local[address] for address in addresses if address in local}
        paths = {a: mtu for a in addresses if a not in local and (mtu := known[a])}
        if own:
            return paths, min(own)
        defaults = (route for route in dump_routes(kind=RTN[RouteKind.TUNNEL]) if route.to.prefixlen == 0)
        through = {(route.oif, route.to.version) for route in defaults}
        return paths, min((links[way] for way in through if way in links), default=None)


class LinkTable:
    """Our link, by name; it is made by `wireguard.DeviceTable` or beside the agent, never here."""

    def __init__(self, rtnl: Rtnl) -> None:
        self._rtnl = rtnl

    async def observe(self) -> dict[str, Link]:
        """Our link, or nothing."""
        found = self._rtnl.own_link()
        return {self._rtnl.link: Link(mtu=found.mtu, up=found.up)} if found else {}

    async def apply(self, changes: Changes[str, Link]) -> None:
        """Set MTU and state, of a link that was renamed its name as well."""
        for link in changes.put.values():
            if changes.add:
                await self._rtnl.take_back()
            index = self._rtnl.existing_index()
            try:
                await self._rtnl.call("link", "set", index=index, mtu=link.mtu, state="up" if link.up else "down")
            except KernelError as error:  # the kernel's WireGuard takes its port when it goes up
                cause = error.__cause__
                if isinstance(cause, NetlinkError) and cause.code == EADDRINUSE:
                    raise KernelError(f"{error}; {PORT_TAKEN}") from error
                raise


class AddressTable:
    """The addresses of our link, without the link-local ones that the kernel makes."""

    def __init__(self, rtnl: Rtnl) -> None:
        self._rtnl = rtnl

    async def observe(self) -> dict[IPInterface, None]:
        """May be empty; so it is without a link."""
        link = self._rtnl.own_link()
        if link is None:
            return {}
        return {found.interface: None for found in dump_addresses(link.index) if not found.interface.is_link_local}

    async def apply(self, changes: Changes[IPInterface, None]) -> None:
        """Add first: the source address of running connections stays as long as it can."""
        index = self._rtnl.existing_index()
        orders = [("replace", a) for a in changes.put] + [("del", a) for a in changes.remove]
        await attempt_all(
            self._rtnl.call("addr", command, index=index, address=str(a.ip), prefixlen=a.network.prefixlen)
            for command, a in orders
        )


class RouteTable:
    """The main table's routes of one kind that are, or would be in the way of, ours.

    Through our link: all of them.  Closed: those of our protocol or of our metric.
    """

    def __init__(self, rtnl: Rtnl, kind: RouteKind) -> None:
        self._rtnl = rtnl
        self._kind = kind

    async def observe(self) -> dict[RouteKey, Route]:
        """May be empty. The kernel filters, so that a node with many foreign routes pays nothing for them."""
        closed = self._kind is RouteKind.CLOSED
        link = None if closed else self._rtnl.own_link()
        if link is None and not closed:
            return {}
        found: dict[RouteKey, Route] = {}
        for to, metric, protocol, _ in dump_routes(kind=RTN[self._kind], oif=link.index if link else 0):
            concerns = metric == CLOSED_METRIC if closed else protocol != PROTOCOL_KERNEL
            if concerns or protocol == PROTOCOL:
                found[RouteKey(to=to, metric=metric)] = Route(kind=self._kind, ours=protocol == PROTOCOL)
        return found

    async def apply(self, changes: Changes[RouteKey, Route]) -> None:
        """Write every route that can be written.

        A new one is added, never replaced over what is there: an equal route by another way is somebody's.
        """
        index = self._rtnl.existing_index() if self._kind is RouteKind.TUNNEL else 0
        commands = ((ADD, changes.add), (CHANGE, changes.change), (DELETE, changes.remove))
        orders = [(command, key) for command, routes in commands for key in routes]
        write_routes(orders, kind=RTN[self._kind], oif=index)


async def _replies(answer: Any) -> AsyncIterator[Any]:  # noqa: ANN401 - pyroute2 is untyped
    if hasattr(answer, "__aiter__"):
        async for message in answer:
            yield message
    else:
        for message in answer or ():
            yield message


def _told(fields: Mapping[str, Any]) -> str:
    return " ".join(f"{name} {value}" for name, value in fields.items())
