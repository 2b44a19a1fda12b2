"""What the cluster and this node say, as values; whether it is believed is decided in `plan`."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from enum import Enum
from functools import lru_cache
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_network
from typing import NewType

from wigglenet_operator.model.report import Problem

NodeName = NewType("NodeName", str)
NodeUID = NewType("NodeUID", str)
Version = NewType("Version", str)
"""A resourceVersion: equal or not, nothing else can be said of two (Kubernetes API concepts)."""
PublicKey = NewType("PublicKey", str)
"""A Curve25519 public key in canonical base64, 44 characters."""

VETH = "veth"
"""How names of pods' links on the node begin (CNI `ptp`: ip.RandomVethName)."""
ZONE = "a zone, which means nothing on another node"
IPAddress = IPv4Address | IPv6Address
IPNetwork = IPv4Network | IPv6Network


@lru_cache(maxsize=1 << 16)
def host_network(address: IPAddress) -> IPNetwork:
    """The /32 or /128 of one address; `ip_network()` would go by way of text, ten times slower.

    Remembered: every turn asks for each address of the cluster, and without that half of a plan for 5,000 Nodes went here.
    """
    if address.version == 4:
        return IPv4Network((int(address), 32))
    return IPv6Network((int(address), 128))


def parse_network(text: str) -> IPNetwork:
    """A CIDR without zone; host bits are masked, as the kernel masks them. ValueError otherwise."""
    if "/" not in text:
        raise ValueError("it has no prefix length")
    if "%" in text:
        raise ValueError(f"it has {ZONE}")
    return ip_network(text, strict=False)


def bounds(network: IPNetwork) -> tuple[int, int]:
    """Its first and last address as numbers; `broadcast_address` would make two addresses on the way."""
    first = int(network.network_address)
    return first, first | (1 << network.max_prefixlen - network.prefixlen) - 1


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeFacts:
    """One Node object, reduced to what we use. Source: Kubernetes API, core/v1 Node; annotations: docs/configuration.md."""

    uid: NodeUID
    name: NodeName
    created: str = ""
    """creationTimestamp, RFC 3339 in UTC, so that text order is time order; one that cannot be read sorts last."""
    spec_pod_cidrs: frozenset[IPNetwork] = frozenset()
    """spec.podCIDRs, else spec.podCIDR; empty until the control plane has assigned one."""
    internal_ips: tuple[IPAddress, ...] = ()
    """status.addresses of type InternalIP, in the order of the status."""
    external_ips: tuple[IPAddress, ...] = ()
    public_key: PublicKey | None = None
    """Annotation wigglenet/public-key; None without an agent, or if it cannot be used (then there is a problem)."""
    pod_cidrs: frozenset[IPNetwork] = frozenset()
    """Annotation wigglenet/pod-cidrs: what the node's agent routes to its pods."""
    node_ips: tuple[IPAddress, ...] = ()
    """Annotation wigglenet/node-ips."""
    endpoint: tuple[IPAddress, int | None] | None = None
    """Annotation wigglenet/endpoint, an administrator's: address and UDP port, None for the usual one."""
    annotations: tuple[tuple[str, str], ...] = ()
    """The own Node's `wigglenet/` annotations as they are, sorted; empty for every other Node."""
    network_unavailable: tuple[str, str] | None = None
    """Status and message of the own Node's condition of that name; None without one, and for every other Node."""
    problems: tuple[Problem, ...] = ()
    """What could not be read, and was left out."""
    inherited: frozenset[str] = frozenset()
    """Names of the fields above that the Node says nothing of, and that hold what a departed Node of its name said."""
    departed: bool = False
    """Whether the Node is gone, and these are its last facts."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ClusterState:
    """One complete view of the cluster: every Node that exists, and what departed Nodes were."""

    nodes: Collection[NodeFacts]
    """In no order, each once."""
    services: frozenset[IPNetwork] = frozenset()
    """Ranges of the cluster's Services; empty if nobody tells."""


@dataclass(frozen=True, slots=True)
class ForeignRoute:
    """A route of somebody else."""

    to: IPNetwork
    metric: int
    link: str
    """Its name; empty for one that leads through several or none."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DroppingChain:
    """A chain of somebody else that drops what is forwarded unless a rule before says otherwise."""

    name: str
    """Family, table and chain, as in nft: `ip filter FORWARD`."""
    versions: frozenset[int]
    """IP versions that it sees."""
    accepted: frozenset[IPNetwork]
    """Sources and destinations that a rule accepts, there or in a chain that it calls."""


class PodNetworkSource(Enum):
    """Where a node's pod networks of one family are from."""

    NONE = "none"
    SPEC = "spec"
    FILE = "file"


@dataclass(frozen=True, slots=True, kw_only=True)
class Offer:
    """What a source outside of the cluster says."""

    networks: frozenset[IPNetwork] = frozenset()
    """Of any family, as they are written there; empty with a problem, and may be so without."""
    problem: Problem | None = None
    """Why it cannot be used."""


class WireGuardKind(Enum):
    """Who implements WireGuard."""

    KERNEL = "kernel"
    USERSPACE = "userspace"


@dataclass(frozen=True, slots=True, kw_only=True)
class HostFacts:
    """What the plan must know of the node that it is for."""

    public_key: PublicKey | None = None
    """None without a tunnel."""
    versions: frozenset[int] = frozenset({4, 6})
    """IP versions that the kernel serves."""
    new_versions: frozenset[int] = frozenset({4, 6})
    """Those that a link has which is made now, a new pod's."""
    offers: Mapping[PodNetworkSource, Offer] = field(default_factory=dict)
    """What the configured sources outside of the cluster say."""
    node_ips: tuple[IPAddress, ...] = ()
    """Global addresses of the links whose addresses are announced, IPv4 first, ascending."""
    local_addresses: frozenset[IPAddress] = frozenset()
    """Global addresses of this node, those that are pods' gateways left out; of interest where a file tells pod networks."""
    missing_links: frozenset[str] = frozenset()
    """Those of these links that are not there."""
    path_mtus: Mapping[IPAddress, int] = field(default_factory=dict)
    """Bytes that fit through the route to an address; an address without a route is not in it."""
    default_mtu: int | None = None
    """Bytes that fit through the underlay while there is no peer to ask for; None if nothing tells."""
    wireguard: WireGuardKind | None = WireGuardKind.KERNEL
    """Who holds our link or, without one, would hold it; None without a tunnel."""
    earlier_cni: frozenset[str] = frozenset()
    """Paths of CNI configurations of others that sort before ours."""
    stored_key: PublicKey | None = None
    """Of the key in the key file; None if there is none in it."""
    link_index: int = 0
    """Of our link, another one each time that it is made; 0 without a link."""
    foreign_routes: frozenset[ForeignRoute] = frozenset()
    """Of the main table, unicast, not through our link; the kernel's own are left out."""
    dropping_chains: frozenset[DroppingChain] = frozenset()
    kernel_wireguard: bool = False
    """Whether the kernel has WireGuard too, where that matters: userspace has our link, and nobody insists on it."""
