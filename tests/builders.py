"""Terse facts with sane defaults: `node("b", pods="10.2.0.0/24")` is a Node as a healthy agent has left it."""

import base64
import hashlib
from functools import cache
from ipaddress import ip_address, ip_network
from pathlib import PurePath
from typing import Any

from wigglenet_operator.model.config import AgentConfig
from wigglenet_operator.model.facts import (
    ClusterState,
    HostFacts,
    IPAddress,
    IPNetwork,
    NodeFacts,
    NodeName,
    NodeUID,
    PublicKey,
)

_network, _address = cache(ip_network), cache(ip_address)


@cache
def key(name: str) -> PublicKey:
    """A well-formed public key that depends on the name only."""
    return PublicKey(base64.b64encode(hashlib.sha256(name.encode()).digest()).decode())


def nets(text: str) -> frozenset[IPNetwork]:
    """Networks from words."""
    return frozenset(map(_network, text.split()))


def ips(text: str) -> tuple[IPAddress, ...]:
    """Addresses from words, in order."""
    return tuple(map(_address, text.split()))


def node(  # noqa: PLR0913 - a builder: every field has a default
    name: str,
    *,
    pods: str = "",
    spec: str | None = None,
    internal: str = "",
    external: str = "",
    node_ips: str = "",
    public_key: str | None = "",
    created: str = "2026-01-01T00:00:00Z",
    uid: str = "",
) -> NodeFacts:
    """A Node whose agent announces the networks that the control plane gave to it (`spec` says otherwise)."""
    return NodeFacts(
        uid=NodeUID(uid or f"uid-{name}"),
        name=NodeName(name),
        created=created,
        spec_pod_cidrs=nets(pods if spec is None else spec),
        pod_cidrs=nets(pods) if public_key is not None else frozenset(),
        internal_ips=ips(internal),
        external_ips=ips(external),
        node_ips=ips(node_ips),
        public_key=None if public_key is None else PublicKey(public_key or key(name)),
    )


def numbered(number: int, *, name: str = "") -> NodeFacts:
    """The dual-stack node of that number."""
    return node(
        name or f"n{number}",
        pods=f"10.{1 + number // 256}.{number % 256}.0/24 fd00:1:{number:x}::/64",
        internal=f"192.0.{2 + number // 250}.{number % 250 + 1} 2001:db8::{number + 1:x}",
    )


def cluster(*nodes: NodeFacts) -> ClusterState:
    return ClusterState(nodes=frozenset(nodes))


def config(name: str = "a", *, mtu: int | None = None, api_server: str = "198.51.100.1", **other: Any) -> AgentConfig:
    return AgentConfig(
        node_name=NodeName(name),
        link="wigglenet",
        port=24601,
        key_path=PurePath("/etc/wigglenet/private.key"),
        mtu=mtu,
        wireguard=None,
        cni_path=PurePath("/etc/cni/net.d/10-wigglenet.conflist"),
        api_server=ip_address(api_server),
        **{"masqueraded": frozenset({4, 6}), **other},
    )


def host(name: str = "a", **mtus: int) -> HostFacts:
    """Facts of a node whose key is that of `node(name)`; all paths carry 1500."""
    return HostFacts(public_key=key(name), default_mtu=mtus.get("default", 1500))
