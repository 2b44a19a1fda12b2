"""What the administrator says, checked; made by `settings`, read by everybody."""

from dataclasses import dataclass
from pathlib import PurePath

from wigglenet_operator.model.facts import IPAddress, IPNetwork, NodeName, WireGuardKind

OVERHEAD = 80
"""Bytes that WireGuard adds over IPv6: 40 IPv6 + 8 UDP + 32 WireGuard (wireguard.com/papers, section 5.4.6)."""
MIN_MTU = 1280
"""Below it the kernel takes IPv6 off a link (RFC 8200, section 5)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AgentConfig:
    """The effective configuration of one agent; the meaning of each is in the README."""

    node_name: NodeName
    link: str
    port: int
    key_path: PurePath
    mtu: int | None
    """None: from the routes to the endpoints."""
    cni_path: PurePath
    wireguard: WireGuardKind | None
    """None: the kernel's if it has one."""
    masqueraded: frozenset[int] = frozenset()
    """IP versions in which packets of own pods to the world get this node's address."""
    filtered: frozenset[int] = frozenset()
    """IP versions in which own pods take connections of the cluster only."""
    non_masquerade: frozenset[IPNetwork] = frozenset()
    """Further destinations that see pods' own addresses."""
    firewall_only: bool = False
    """Whether another plugin makes the pod network: nothing but the firewall is this agent's."""
    api_server: IPAddress | None
    """KUBERNETES_SERVICE_HOST where it is an address; no pod network may hold it."""
