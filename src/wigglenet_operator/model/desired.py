"""What should be on this node, and, in the same words, what is.

Each table of `DesiredState` is a mapping whose key and value an adapter in `kernel` or `kube` both reads and writes.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from ipaddress import IPv4Interface, IPv6Interface

from wigglenet_operator.model.facts import IPAddress, IPNetwork, PublicKey
from wigglenet_operator.model.ruleset import Ruleset

IPInterface = IPv4Interface | IPv6Interface


@dataclass(frozen=True, slots=True, kw_only=True)
class Link:
    """Our link as rtnetlink shows it."""

    mtu: int
    """Bytes."""
    up: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class Device:
    """The WireGuard device behind the link; the private key itself never travels in values."""

    public_key: PublicKey | None
    """Of the private key in force; None without one."""
    port: int
    mark: int = 0
    """Firewall mark of its own UDP packets, 0 = none."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Endpoint:
    """Where a peer's UDP packets go."""

    address: IPAddress
    port: int

    def __str__(self) -> str:
        """`192.0.2.1:24601` or `[2001:db8::1]:24601`."""
        return f"{self.address}:{self.port}" if self.address.version == 4 else f"[{self.address}]:{self.port}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Peer:
    """A WireGuard peer; the counters are read only and make no difference between two peers."""

    endpoint: Endpoint | None
    """None only in what is read: a peer that was given none and has not been heard of."""
    allowed_ips: frozenset[IPNetwork]
    keepalive: int = 0
    """Seconds between persistent keepalives, 0 = off."""
    preshared: bool = False
    """Whether there is a preshared key; ours have none, and one that somebody has set silences the peer."""
    handshake: int = field(default=0, compare=False)
    """Unix time of the last handshake in seconds, 0 = never since the link was made."""
    received: int = field(default=0, compare=False)
    """Bytes."""
    sent: int = field(default=0, compare=False)


class RouteKind(Enum):
    """What a route of ours does."""

    TUNNEL = "unicast"
    CLOSED = "unreachable"


CLOSED_METRIC = 0xFFFFFFFF
"""The highest: any other route to the same network wins (rtnetlink(7), RTA_PRIORITY is 32 bits)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RouteKey:
    """What the kernel takes as the identity of a route in the main table."""

    to: IPNetwork
    metric: int
    _hash: int = field(init=False, repr=False, compare=False)
    """Computed once: tables of thousands of routes are compared again and again."""

    def __post_init__(self) -> None:
        """Compute the hash."""
        object.__setattr__(self, "_hash", hash((self.to, self.metric)))

    def __hash__(self) -> int:
        """The hash of both fields."""
        return self._hash


@dataclass(frozen=True, slots=True, kw_only=True)
class Route:
    """The rest of a route; a route through our link that is of another protocol is ours to replace."""

    kind: RouteKind
    ours: bool = True
    """Whether it carries our protocol number."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DesiredState:
    """Everything that should be on this node; a table may be empty."""

    key: Mapping[str, PublicKey] = field(default_factory=dict)
    """Of the private key in the file, by path."""
    sysctls: Mapping[str, str] = field(default_factory=dict)
    """By path below /proc/sys, e.g. `net/ipv4/ip_forward`."""
    closed: Mapping[RouteKey, Route] = field(default_factory=dict)
    """Unreachable routes of the highest metric: what is left of a network when its tunnel route is gone."""
    device: Mapping[str, Device] = field(default_factory=dict)
    """By link name, at most one."""
    link: Mapping[str, Link] = field(default_factory=dict)
    addresses: Mapping[IPInterface, None] = field(default_factory=dict)
    annotations: Mapping[str, str] = field(default_factory=dict)
    peers: Mapping[PublicKey, Peer] = field(default_factory=dict)
    routes: Mapping[RouteKey, Route] = field(default_factory=dict)
    firewall: Ruleset = field(default_factory=dict)
    leftovers: Mapping[str, str] = field(default_factory=dict)
    """Of rules of Wigglenet's iptables back-end, by where they are: none."""
    cni: Mapping[str, str] = field(default_factory=dict)
    """Text by path; empty while the node may not take pods."""
