"""Links, addresses, foreign routes and paths of this node: listed once, then followed by the kernel's events.

A list of all links and routes in every pass would cost in proportion to the number of pods, and a route look-up for each Node
0.7 s of CPU for 1,000 Nodes. So an event changes the one link or route that it is about, and discards the paths that the
route covers. Links and addresses are listed anew at each resync, and everything after events were lost.

Source: rtnetlink(7), linux/rtnetlink.h.
"""

import sys
from collections.abc import Collection
from dataclasses import dataclass, field

from wigglenet_operator.kernel.addresses import Address, dump_addresses, link_of_address
from wigglenet_operator.kernel.link import DELLINK, NEWLINK, FoundLink, dump_links, link_of_event, read_link
from wigglenet_operator.kernel.netlink import APPEND, OWN_PORT, REPLACE, Message, attributes
from wigglenet_operator.kernel.paths import NO_PATH, Paths
from wigglenet_operator.kernel.routes import (
    DELROUTE,
    NEWROUTE,
    PROTOCOL_KERNEL,
    PROTOCOL_RA,
    UNICAST,
    UNREACHABLE,
    FoundRoute,
    dump_routes,
    look_up_routes,
    parse_route,
)
from wigglenet_operator.model.facts import VETH, ForeignRoute, IPAddress, IPNetwork

NEWADDR, DELADDR = 20, 21
NETCONFMSG, NETCONFA_IFINDEX = 4, 1
"""Bytes of struct netconfmsg with its padding; the link, -1 for all and -2 for those to come (linux/netconf.h)."""
SCOPE_UNIVERSE = 0
PASSING = {4: 0x20, 6: 0x01 | 0x08 | 0x20 | 0x40}
"""IFA_F_DEPRECATED, of IPv6 _TEMPORARY, _DADFAILED, _TENTATIVE too (linux/if_addr.h): of no use to others, or not for long."""
HOST = "host"
"""Stands for the host facts among the names of state tables."""
OF_OUR_LINK = frozenset({"device", "link", "addresses", "peers", "routes", "sysctls", HOST})
"""State tables that an event of our own link may concern."""

Way = tuple[IPNetwork, int, int]
"""Destination, metric and link of a route."""


@dataclass(slots=True)
class _Listed:
    """One reading of the kernel's lists, kept up to date by events."""

    links: dict[int, FoundLink]
    addresses: list[Address] | None
    """None: to be listed when somebody asks."""
    foreign: dict[Way, FoundRoute] | None
    """None: likewise."""
    paths: Paths = field(default_factory=Paths)


class NodeNetwork:
    """What rtnetlink shows of this node beside our own link."""

    def __init__(self, link: str) -> None:
        """`link` is the name of ours; nothing is read yet."""
        self._own = link
        self._listed: _Listed | None = None
        self._asked: Collection[IPAddress] = ()
        self._answer: tuple[dict[IPAddress, int], int | None] | None = None
        """Of `path_mtus`, for `_asked`; None after something moved that it depends on."""

    def refresh(self) -> None:
        """List links and addresses anew. Routes and paths, whose events are complete, stay unless a link is another one now."""
        if (known := self._listed) is None:
            return
        if known.links != _listed_links():
            self.forget()
        elif known.addresses is not None and known.addresses != (now := dump_addresses()):
            known.addresses, self._answer = now, None

    def forget(self) -> None:
        """Read everything anew at the next question; events were lost, or nobody listens to them."""
        self._listed = self._answer = None

    def follow(self, message: Message) -> frozenset[str]:
        """Take in one event; the state tables that it may concern, and HOST if the host facts may be other ones."""
        kind = message.kind
        if kind in {NEWLINK, DELLINK}:
            return self._follow_link(message)
        if kind in {NEWADDR, DELADDR}:
            return self._follow_address(message)
        if kind in {NEWROUTE, DELROUTE}:
            return self._follow_route(message)
        return self._follow_settings(message)

    def _known(self) -> _Listed:
        if self._listed is None:
            self._listed = _Listed(links=_listed_links(), addresses=None, foreign=None)
            self._answer = None
        return self._listed

    def _follow_link(self, message: Message) -> frozenset[str]:
        """An event says which link, not what it is like: its IPv6 MTU, for one, follows the event."""
        listed, index = self._known(), link_of_event(message.body)
        before, found = listed.links.get(index), None if message.kind == DELLINK else read_link(index)
        if found is not None:
            listed.links[index] = found
        elif message.kind == DELLINK:
            listed.links.pop(index, None)
        if before == found:
            return frozenset()
        names = {link.name for link in (before, found) if link}
        stale = OF_OUR_LINK if self._own in names else frozenset()
        if (found is None or not found.up) and self._lose_routes(index):
            stale |= {HOST}
        if listed.paths.discard_through(index) or not all(name.startswith(VETH) for name in names):
            self._answer = None
            stale |= {HOST}
        return stale

    def _follow_settings(self, message: Message) -> frozenset[str]:
        """Forwarding or rp_filter of all links, of those to come, or of one; of the latter ours matters."""
        index = int.from_bytes(
            dict(attributes(message.body, NETCONFMSG)).get(NETCONFA_IFINDEX, b""), sys.byteorder, signed=True
        )
        link = self._known().links.get(index)
        return frozenset({"sysctls", HOST}) if index < 0 or (link is not None and link.name == self._own) else frozenset()

    def _lose_routes(self, link: int) -> bool:
        """Of a link that goes down or away: the kernel sends no event for its IPv4 routes. Whether there were any."""
        foreign = self._known().foreign or {}
        lost = [way for way, route in foreign.items() if route.oif == link]
        for way in lost:
            del foreign[way]
        return bool(lost)

    def _follow_address(self, message: Message) -> frozenset[str]:
        listed = self._known()
        listed.addresses = None
        link = listed.links.get(link_of_address(message.body))
        if link is not None and link.name.startswith(VETH):  # the gateway of a pod
            return frozenset()
        self._answer = None
        if message.kind == DELADDR:  # routes that prefer this source go along, without an event
            listed.foreign = None
            listed.paths.clear()
        ours = link is not None and link.name == self._own  # the last IPv4 address takes all IPv4 routes along
        return frozenset({"addresses", "routes", HOST} if ours else {HOST})

    def _follow_route(self, message: Message) -> frozenset[str]:
        route = parse_route(message.body)
        if route is None or route.kind not in {UNICAST, UNREACHABLE}:
            return frozenset()
        link = self._known().links.get(route.oif)
        if route.kind == UNREACHABLE or (link is not None and link.name == self._own):
            table = "closed" if route.kind == UNREACHABLE else "routes"
            return frozenset() if message.port == OWN_PORT else frozenset({table})
        lost = self._discard_paths(route.to)
        if route.protocol == PROTOCOL_KERNEL:
            return frozenset({HOST}) if lost else frozenset()
        self._record(message, route)
        stale = {HOST, "sysctls"} if route.protocol == PROTOCOL_RA else {HOST}
        return frozenset(
            stale | {"routes", "closed"} if message.flags & REPLACE else stale
        )  # it may have taken the place of ours

    def _record(self, message: Message, route: FoundRoute) -> None:
        """Change the list of foreign routes as an event says; one that replaces another, or has several links, as a whole."""
        listed = self._known()
        if listed.foreign is None:
            return
        if message.flags & (REPLACE | APPEND) or not route.oif:
            listed.foreign = None
        elif message.kind == NEWROUTE:
            listed.foreign[route.to, route.metric, route.oif] = route
        else:
            listed.foreign.pop((route.to, route.metric, route.oif), None)

    def _discard_paths(self, network: IPNetwork) -> bool:
        """Look up anew what a route to that network covers; whether anything was."""
        lost = self._known().paths.discard_within(network)
        if lost or not network.prefixlen:
            self._answer = None
        return lost

    def foreign_routes(self) -> frozenset[ForeignRoute]:
        """Others' unicast routes; the kernel's own are left out."""
        listed = self._known()
        routes, links = self._foreign(listed).values(), listed.links
        return frozenset(ForeignRoute(r.to, r.metric, links[r.oif].name if r.oif in links else "") for r in routes)

    def advertised(self) -> frozenset[str]:
        """Names of the links with a default route that a router advertisement made."""
        listed = self._known()
        found = (
            route
            for route in self._foreign(listed).values()
            if route.protocol == PROTOCOL_RA and route.to.version == 6 and not route.to.prefixlen
        )
        return frozenset(listed.links[route.oif].name for route in found if route.oif in listed.links)

    def _foreign(self, listed: _Listed) -> dict[Way, FoundRoute]:
        if listed.foreign is None:
            own = {index for index, link in listed.links.items() if link.name == self._own}
            routes = (route for route in dump_routes(kind=UNICAST) if route.protocol != PROTOCOL_KERNEL)
            listed.foreign = {(r.to, r.metric, r.oif): r for r in routes if r.oif not in own}
        return listed.foreign

    def _addresses(self) -> list[Address]:
        listed = self._known()
        if listed.addresses is None:
            listed.addresses = dump_addresses()
        return listed.addresses

    def global_addresses(self, links: Collection[str]) -> dict[str, list[IPAddress]]:
        """Those of each of the links that is there: what others can reach, and for some time."""
        names = {index: link.name for index, link in self._known().links.items() if link.name in links}
        found: dict[str, list[IPAddress]] = {name: [] for name in names.values()}
        for link, interface, scope, flags in self._addresses() if names else ():
            if link in names and scope == SCOPE_UNIVERSE and not flags & PASSING[interface.version]:
                found[names[link]].append(interface.ip)
        return found

    def local_addresses(self) -> frozenset[IPAddress]:
        """Global ones of this node itself: those of our link and of pods' links are their gateways."""
        names = ((index, link.name) for index, link in self._known().links.items())
        gateways = {index for index, name in names if name == self._own or name.startswith(VETH)}
        return frozenset(
            interface.ip for link, interface, scope, _ in self._addresses() if scope == SCOPE_UNIVERSE and link not in gateways
        )

    def path_mtus(self, addresses: Collection[IPAddress]) -> tuple[dict[IPAddress, int], int | None]:
        """MTU in bytes by address (none for what has no route), and that of the underlay.

        The second is what the underlay carries while there is no peer: the smallest MTU of the interfaces that carry some
        of the addresses (this node's own are among them), else that of the default route's interface. Both are the same
        objects as before if nothing changed.
        """
        listed = self._known()
        if self._answer is not None and addresses is self._asked:
            return self._answer
        mtus: dict[tuple[int, int], int] = {(link.number, 4): link.mtus[0] for link in listed.links.values()}
        mtus |= {(link.number, 6): link.mtus[1] for link in listed.links.values()}
        local = {
            interface.ip: mtus[link, interface.version]
            for link, interface, *_ in self._addresses()
            if (link, interface.version) in mtus  # the list of addresses may have links that came after that of links
        }
        paths = listed.paths
        unknown = [address for address in addresses if address not in local and address not in paths]
        found = look_up_routes(unknown) if unknown else {}
        paths.add({address: found.get(address, NO_PATH) for address in unknown})
        own = {local[address] for address in addresses if address in local}
        answer = {
            address: mtu
            for address in addresses
            if address not in local and (mtu := paths[address][0] or mtus.get((paths[address][1], address.version)))
        }
        self._asked, self._answer = addresses, (answer, min(own) if own else self._default_mtu(mtus))
        return self._answer

    def _default_mtu(self, mtus: dict[tuple[int, int], int]) -> int | None:
        defaults = (route for route in dump_routes(kind=UNICAST) if route.to.prefixlen == 0)
        through = {(route.oif, route.to.version) for route in defaults}
        return min((mtus[way] for way in through if way in mtus), default=None)


def _listed_links() -> dict[int, FoundLink]:
    return {link.number: link for link in dump_links()}
