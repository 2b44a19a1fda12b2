"""The underlay: segments that machines are plugged into, and routers between them that do to packets what routers do.

A segment is a bridge in the control plane's place, so that one capture sees all of them.
"""

import sys
from collections.abc import Iterable
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network, IPv6Network
from pathlib import Path

from tests.lab.namespaces import Place
from tests.lab.wait import eventually
from wigglenet_operator.model.facts import IPAddress, IPNetwork

ROUTER_NUMBER = 254
ICMP_ERRORS = (
    "icmp type { destination-unreachable, time-exceeded, parameter-problem } drop",
    "icmpv6 type { destination-unreachable, packet-too-big, time-exceeded, parameter-problem } drop",
)
"""As nftables rules."""


@dataclass(frozen=True)
class Segment:
    """One layer-2 network, and the networks that its machines have addresses of, one of a family at most."""

    name: str
    networks: tuple[IPNetwork, ...]

    def addresses(self, number: int) -> tuple[IPAddress, ...]:
        """Those of the machine of that number."""
        return tuple(network[number] for network in self.networks)


UNDERLAY = Segment("underlay", (IPv4Network("192.0.2.0/24"), IPv6Network("2001:db8::/64")))
"""Where nodes are unless told otherwise."""
FAR = Segment("far", (IPv4Network("203.0.113.0/24"), IPv6Network("2001:db8:fa::/64")))
HOME = Segment("home", (IPv4Network("172.16.5.0/24"),))
"""Nobody else knows the way to a private network."""
ONLY_IPV4 = Segment("only-ipv4", (IPv4Network("192.0.2.0/24"),))
ONLY_IPV6 = Segment("only-ipv6", (IPv6Network("2001:db8::/64"),))


@dataclass(frozen=True)
class Wire:
    """What a link does to each frame, in each direction."""

    delay_ms: float = 0
    loss_percent: float = 0


@dataclass(frozen=True)
class Plug:
    """One machine's link to a segment: the segment's end in the hub, the machine's end, its number, and what it carries."""

    port: str
    link: str
    number: int
    mtu: int = 1500
    wire: Wire | None = None


def plug(hub: Place, segment: Segment, machine: Place, how: Plug) -> None:
    """Connect a machine to a segment; its addresses can be used at once."""
    if how.wire:
        _lay_wire(hub, machine, how, how.wire)
    else:
        hub.batch(f"link add {how.port} type veth peer name {how.link} netns {machine.pid}")
    hub.batch(f"link set {how.port} master {segment.name} mtu {how.mtu} up")
    machine.batch(f"link set {how.link} mtu {how.mtu} up", *_addressed(segment, how))


def _lay_wire(hub: Place, machine: Place, how: Plug, wire: Wire) -> None:
    program, end = str(Path(__file__).with_name("wire.py")), f"w{how.port}"
    features = (str(wire.delay_ms), str(wire.loss_percent))
    hub.popen(sys.executable, "-I", program, how.port, end, *features, log=f"/run/wire-{how.port}.log")
    eventually(lambda: hub.run("ip", "link", "show", "dev", end, check=False), what=f"the wire {how.port} is laid")
    hub.batch(f"link set {end} netns {machine.pid} name {how.link}")


def _addressed(segment: Segment, how: Plug) -> Iterable[str]:
    for network, address in zip(segment.networks, segment.addresses(how.number), strict=True):
        yield f"addr add {address}/{network.prefixlen} dev {how.link} {'nodad' if address.version == 6 else ''}"


class Router:
    """A machine with a link to each segment, called as the segment, that forwards between them."""

    def __init__(self, hub: Place, *segments: Segment, mtu: int = 9000) -> None:
        """Each of its links takes as much as `mtu`, in bytes, so that the nodes' links are what limits."""
        self.place = Place("router")
        for segment in segments:
            plug(hub, segment, self.place, Plug(f"u-r-{segment.name}", segment.name, ROUTER_NUMBER, mtu))
        self.place.run("sysctl", "-qw", "net.ipv4.ip_forward=1", "net.ipv6.conf.all.forwarding=1")

    def lead(self, machine: Place, segment: Segment) -> None:
        """Make it the default router of a machine on a segment."""
        for address in segment.addresses(ROUTER_NUMBER):
            machine.batch(f"route add {'::/0' if address.version == 6 else '0.0.0.0/0'} via {address}")

    def refuse(self, *rules: str) -> None:
        """Apply nftables rules to all that comes, is forwarded and leaves; none of them: as before."""
        chains = (
            f"chain {hook} {{ type filter hook {hook} priority 0; {'; '.join(rules)}{';' if rules else ''} }}"
            for hook in ("input", "forward", "output")
        )
        self._load("inet", "refuse", chains)

    def hide(self, inside: Segment, *, ports: Iterable[tuple[int, IPAddress, int]] = (), silent: bool = False) -> None:
        """NAT: who is inside has the router's address and each time another port outside, and is reached when it has spoken.

        `ports` of the router (UDP) are forwarded to an address and port inside; if `silent`, nobody inside begins.
        """
        forwarded = "".join(f"iifname != {inside.name} udp dport {at} dnat to {to}:{port};" for at, to, port in ports)
        chains = (
            f"chain prerouting {{ type nat hook prerouting priority dstnat; {forwarded} }}",
            "chain postrouting { type nat hook postrouting priority srcnat; ",
            f"iifname {inside.name} masquerade fully-random; }}",
            "chain forward { type filter hook forward priority 0; policy drop; ct state established,related accept; ",
            f"ct status dnat accept; iifname {inside.name} {'drop' if silent else 'accept'}; }}",
        )
        self._load("ip", "nat", chains)

    def forget(self) -> None:
        """Lose every mapping, as a home router does when it restarts."""
        self.place.run("conntrack", "-F")

    def _load(self, family: str, table: str, chains: Iterable[str]) -> None:
        body = "\n".join(chains)
        text = f"table {family} {table}\ndelete table {family} {table}\ntable {family} {table} {{\n{body}\n}}\n"
        self.place.run("nft", "-f", "-", stdin=text)

    def advertise(self, segment: Segment, *, lifetime_seconds: int, mtu: int = 0) -> None:
        """Router advertisements as often as radvd may (every 3 to 4 s), each good for a default route for so long.

        They tell the MTU of the segment, in bytes, unless it is 0.
        """
        prefix = next(network for network in segment.networks if network.version == 6)
        self.place.path("/run/radvd.conf").write_text(
            f"interface {segment.name} {{ AdvSendAdvert on; MinRtrAdvInterval 3; MaxRtrAdvInterval 4;"
            f" AdvDefaultLifetime {lifetime_seconds}; AdvLinkMTU {mtu}; prefix {prefix} {{ }}; }};\n"
        )
        command = ("radvd", "-n", "-C", "/run/radvd.conf", "-p", "/run/radvd.pid", "-m", "stderr", "-u", "root")
        self.place.popen(*command, log="/run/radvd.log")

    def outside(self, segment: Segment) -> IPv4Address:
        """Its IPv4 address on a segment."""
        return next(a for a in segment.addresses(ROUTER_NUMBER) if isinstance(a, IPv4Address))

    def close(self) -> None:
        """It is gone with its links."""
        self.place.close()
