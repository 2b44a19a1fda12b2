"""Our link, its addresses and its routes, by rtnetlink(7).

Our routes are known by their protocol number and, whatever their protocol, by leading through our link.
"""

from collections.abc import AsyncIterator, Mapping
from errno import EADDRINUSE
from typing import Any, Self

from pyroute2 import AsyncIPRoute
from pyroute2.netlink.exceptions import NetlinkError

from wigglenet_operator.errors import KernelError, MissingLink
from wigglenet_operator.kernel.addresses import dump_addresses
from wigglenet_operator.kernel.link import OwnLink, link_named, link_numbered
from wigglenet_operator.kernel.ports import PORT_TAKEN, attempt_all
from wigglenet_operator.kernel.routes import (
    ADD,
    CHANGE,
    DELETE,
    PROTOCOL,
    PROTOCOL_KERNEL,
    UNICAST,
    UNREACHABLE,
    dump_raw_routes,
    parse_routes,
    write_routes,
)
from wigglenet_operator.model.changes import Changes
from wigglenet_operator.model.desired import CLOSED_METRIC, IPInterface, Link, Route, RouteKey, RouteKind

RTN = {RouteKind.TUNNEL: UNICAST, RouteKind.CLOSED: UNREACHABLE}
"""Types of routes."""


class Rtnl:
    """One rtnetlink socket and what all its tables share: our link's name."""

    def __init__(self, link: str) -> None:
        self.link = link
        self.socket = AsyncIPRoute(ext_ack=True, strict_check=True)
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
        self._last: tuple[list[bytes], dict[RouteKey, Route]] = [], {}
        """The last listing, raw and parsed."""

    async def observe(self) -> dict[RouteKey, Route]:
        """The routes; the same object if the listing is the same as the last one. May be empty.

        The kernel filters, so that a node with many foreign routes pays nothing for them.
        """
        closed = self._kind is RouteKind.CLOSED
        link = None if closed else self._rtnl.own_link()
        if link is None and not closed:
            return {}
        raw = dump_raw_routes(kind=RTN[self._kind], oif=link.index if link else 0)
        if raw == self._last[0]:
            return self._last[1]
        found: dict[RouteKey, Route] = {}
        for to, metric, protocol, *_ in parse_routes(raw):
            concerns = metric == CLOSED_METRIC if closed else protocol != PROTOCOL_KERNEL
            if concerns or protocol == PROTOCOL:
                found[RouteKey(to=to, metric=metric)] = Route(kind=self._kind, ours=protocol == PROTOCOL)
        self._last = raw, found
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
