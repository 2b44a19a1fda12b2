"""Our link, its addresses and routes, and the node's paths, by rtnetlink(7).

Our routes are known by their protocol number and, whatever their protocol, by leading through our link.
"""

from collections.abc import AsyncIterator, Collection, Mapping
from errno import EADDRINUSE, ENODEV
from ipaddress import ip_address, ip_interface
from typing import Any, Self

from pyroute2 import AsyncIPRoute
from pyroute2.netlink.exceptions import NetlinkError

from wigglenet_operator.errors import KernelError, MissingLink
from wigglenet_operator.kernel.ports import PORT_TAKEN, attempt_all
from wigglenet_operator.kernel.routes import ADD, CHANGE, DELETE, PROTOCOL, dump_routes, write_routes
from wigglenet_operator.model.changes import Changes
from wigglenet_operator.model.desired import CLOSED_METRIC, IPInterface, Link, Route, RouteKey, RouteKind
from wigglenet_operator.model.facts import IPAddress

PROTOCOL_KERNEL = 2
RTN = {RouteKind.TUNNEL: 1, RouteKind.CLOSED: 7}
"""RTN_UNICAST and RTN_UNREACHABLE of linux/rtnetlink.h."""
IFF_UP = 1
RTM_F_FIB_MATCH = 0x2000
"""Answer with the route of the table, without the path MTU that some ICMP message claims for a while."""


class Rtnl:
    """One rtnetlink socket and what all its tables share: our link's name."""

    def __init__(self, link: str) -> None:
        self.link = link
        self.socket = AsyncIPRoute(ext_ack=True, strict_check=True)
        self._paths: dict[IPAddress, int | None] = {}

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

    async def own_link(self) -> Any:  # noqa: ANN401 - pyroute2 is untyped
        """The message that describes our link, None without one."""
        try:
            (message,) = await self.call("link", "get", ifname=self.link)
        except KernelError as error:
            if isinstance(error.__cause__, NetlinkError) and error.__cause__.code == ENODEV:
                return None
            raise
        return message

    async def index(self) -> int | None:
        """The index of our link, None without one."""
        message = await self.own_link()
        return None if message is None else int(message["index"])

    async def existing_index(self) -> int:
        """The index of our link; MissingLink without one."""
        if (index := await self.index()) is None:
            raise MissingLink(f"link {self.link} does not exist")
        return index

    def forget_paths(self) -> None:
        """Ask the kernel anew next time, for a link, address or route has changed; 2,000 look-ups are 0.6 s of CPU."""
        self._paths.clear()

    async def path_mtus(self, addresses: Collection[IPAddress]) -> tuple[dict[IPAddress, int], int | None]:
        """MTU in bytes by address (none for what has no route), and that of the underlay.

        The second tells what the underlay carries while there is no peer: the smallest MTU of the interfaces that carry some
        of the addresses (this node's own are among them), else that of the default route's interface.
        """
        links = {m["index"]: m.get("mtu") for m in await self.call("link", "dump")}
        found = await self.call("addr", "dump", family=0)  # may know links that came after the dump of links
        local = {ip_address(_address(m)): links[m["index"]] for m in found if m["index"] in links}
        own = {local[address] for address in addresses if address in local}
        paths = {a: mtu for a in addresses if a not in local and (mtu := await self._path_mtu(a, links))}
        if own:
            return paths, min(own)
        through = {route.oif for route in dump_routes(kind=RTN[RouteKind.TUNNEL]) if route.to.prefixlen == 0}
        return paths, min((links[index] for index in through if index in links), default=None)

    async def _path_mtu(self, address: IPAddress, links: Mapping[int, int]) -> int | None:
        if address not in self._paths:
            self._paths[address] = await self._look_up(address, links)
        return self._paths[address]

    async def _look_up(self, address: IPAddress, links: Mapping[int, int]) -> int | None:
        try:
            (route,) = await self.call("route", "get", dst=str(address), flags=RTM_F_FIB_MATCH)
        except KernelError:  # no route: not reachable now, no say in the MTU
            return None
        metrics = route.get("metrics")
        return (metrics.get("mtu") if metrics else None) or links.get(route.get("oif"))


class LinkTable:
    """Our link, by name; it is made by `wireguard.DeviceTable` or beside the agent, never here."""

    def __init__(self, rtnl: Rtnl) -> None:
        self._rtnl = rtnl

    async def observe(self) -> dict[str, Link]:
        """Our link, or nothing."""
        message = await self._rtnl.own_link()
        if message is None:
            return {}
        return {self._rtnl.link: Link(mtu=message.get("mtu"), up=bool(message["flags"] & IFF_UP))}

    async def apply(self, changes: Changes[str, Link]) -> None:
        """Set MTU and state."""
        for link in changes.put.values():
            index = await self._rtnl.existing_index()
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
        index = await self._rtnl.index()
        if index is None:
            return {}
        messages = await self._rtnl.call("addr", "dump", index=index, family=0)
        found = (ip_interface(f"{_address(m)}/{m['prefixlen']}") for m in messages if m["index"] == index)
        return {address: None for address in found if not address.is_link_local}

    async def apply(self, changes: Changes[IPInterface, None]) -> None:
        """Add first: the source address of running connections stays as long as it can."""
        index = await self._rtnl.existing_index()
        orders = [("add", a) for a in changes.put] + [("del", a) for a in changes.remove]
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
        index = 0 if closed else await self._rtnl.index()
        if index is None:
            return {}
        found: dict[RouteKey, Route] = {}
        for to, metric, protocol, _ in dump_routes(kind=RTN[self._kind], oif=index):
            concerns = metric == CLOSED_METRIC if closed else protocol != PROTOCOL_KERNEL
            if concerns or protocol == PROTOCOL:
                found[RouteKey(to=to, metric=metric)] = Route(kind=self._kind, ours=protocol == PROTOCOL)
        return found

    async def apply(self, changes: Changes[RouteKey, Route]) -> None:
        """Write every route that can be written.

        A new one is added, never replaced over what is there: an equal route by another way is somebody's.
        """
        index = await self._rtnl.existing_index() if self._kind is RouteKind.TUNNEL else 0
        commands = ((ADD, changes.add), (CHANGE, changes.change), (DELETE, changes.remove))
        orders = [(command, key) for command, routes in commands for key in routes]
        write_routes(orders, kind=RTN[self._kind], oif=index)


def _address(message: Any) -> str:  # noqa: ANN401 - pyroute2 is untyped
    """The node's own address; IFA_ADDRESS is the other end's on a point-to-point link."""
    return str(message.get("local") or message.get("address"))


async def _replies(answer: Any) -> AsyncIterator[Any]:  # noqa: ANN401 - pyroute2 is untyped
    if hasattr(answer, "__aiter__"):
        async for message in answer:
            yield message
    else:
        for message in answer or ():
            yield message


def _told(fields: Mapping[str, Any]) -> str:
    return " ".join(f"{name} {value}" for name, value in fields.items())
