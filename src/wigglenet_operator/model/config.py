"""What the administrator says, checked; made by `settings`, read by everybody."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from ipaddress import IPv4Address
from pathlib import PurePath

from wigglenet_operator.model.facts import IPAddress, IPNetwork, NodeName, PodNetworkSource, WireGuardKind
from wigglenet_operator.model.timing import PRODUCTION, Timing

OVERHEAD = {4: 60, 6: 80}
"""Bytes that WireGuard adds, by the IP version of endpoints: 20 or 40 IP + 8 UDP + 32 WireGuard (its paper, section 5.4.6)."""
BOTH = frozenset({4, 6})
"""The IP versions."""
MIN_MTU = 1280
"""Below it the kernel takes IPv6 off a link (RFC 8200, section 5)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Bind:
    """Where to listen."""

    host: IPAddress | None
    """None: on all addresses of both families."""
    port: int

    def __str__(self) -> str:
        """`:9091`, `127.0.0.1:9092` or `[::1]:9092`."""
        host = "" if self.host is None else f"[{self.host}]" if self.host.version == 6 else str(self.host)
        return f"{host}:{self.port}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Tls:
    """PEM files of a server; they may change at any time."""

    certificate: PurePath
    key: PurePath
    client_ca: PurePath | None
    """Who must have signed a client's certificate; None: clients need none."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AgentConfig:
    """The effective configuration of one agent; the meaning of each is in docs/configuration.md."""

    node_name: NodeName
    link: str
    port: int
    key_path: PurePath
    mtu: int | None
    """None: from the routes to the endpoints."""
    cni_path: PurePath
    wireguard: WireGuardKind | None
    """None: the kernel's if it has one."""
    sources: Mapping[int, PodNetworkSource] = field(default_factory=lambda: dict.fromkeys(sorted(BOTH), PodNetworkSource.SPEC))
    """By IP version, where this node's pod networks are from."""
    source_path: PurePath | None = None
    """Of the file, if that is a source."""
    node_ip_links: frozenset[str] = frozenset()
    """Links whose global addresses are announced as this node's, too."""
    endpoint_versions: frozenset[int] = BOTH
    """IP versions that carry the tunnel."""
    keepalive: int = 0
    """Seconds between persistent keepalives to each peer, 0 = off."""
    native: frozenset[int] = frozenset()
    """IP versions in which the underlay knows the way to every pod."""
    masqueraded: frozenset[int] = frozenset()
    """IP versions in which packets of own pods to the world get this node's address."""
    filtered: frozenset[int] = frozenset()
    """IP versions in which own pods take connections of the cluster only."""
    non_masquerade: frozenset[IPNetwork] = frozenset()
    """Further destinations that see pods' own addresses."""
    firewall_only: bool = False
    """Whether another plugin makes the pod network: nothing but the firewall is this agent's."""
    node_condition: bool = False
    """Whether the own Node's condition NetworkUnavailable is kept."""
    health: Bind = Bind(host=IPv4Address("127.0.0.1"), port=9092)
    """Where it tells how this node is."""
    metrics: Bind | None = None
    """None: nowhere."""
    metrics_tls: Tls | None = None
    """None: plain HTTP."""
    api_server: IPAddress | None
    """KUBERNETES_SERVICE_HOST where it is an address; no pod network may hold it."""
    timing: Timing = PRODUCTION
    """Intervals and time-outs; no setting."""

    @property
    def tunnelled(self) -> frozenset[int]:
        """IP versions in which pods of other nodes are reached through the tunnel; without one there is no tunnel."""
        return frozenset() if self.firewall_only else BOTH - self.native

    @property
    def overhead(self) -> int:
        """Bytes that the tunnel adds at most; by the settings alone, so that no Node that joins changes it."""
        return max(OVERHEAD[version] for version in self.endpoint_versions) if self.tunnelled else 0
