"""Who is a peer, where its packets go, and how large they may be."""

from collections.abc import Mapping
from dataclasses import dataclass, replace

from wigglenet_operator.model.config import MIN_MTU, AgentConfig
from wigglenet_operator.model.desired import Endpoint, Peer
from wigglenet_operator.model.facts import (
    HostFacts,
    IPAddress,
    IPNetwork,
    NodeFacts,
    NodeName,
    NodeUID,
    PublicKey,
    WireGuardKind,
    host_network,
)
from wigglenet_operator.model.problems import Code
from wigglenet_operator.model.report import Problem
from wigglenet_operator.model.timing import PRODUCTION, Timing
from wigglenet_operator.plan.claims import Ownership

SESSION_SECONDS = 180
"""REJECT_AFTER_TIME of the WireGuard paper, section 6.1: after it a session is dead without a handshake."""


def seniority(node: NodeFacts) -> tuple[bool, str, NodeUID]:
    """The smallest of the Nodes with one key has it."""
    return node.departed or "public_key" in node.inherited, node.created, node.uid


@dataclass(frozen=True, slots=True, kw_only=True)
class Families:
    """The IP versions of endpoints."""

    allowed: frozenset[int]
    """What the settings allow."""
    own: frozenset[int]
    """In which this node has an address: they are taken first."""


def plan_families(own: NodeFacts, ownership: Ownership, *, allowed: frozenset[int]) -> Families:
    """Which endpoints this node can have, and which it would rather have."""
    return Families(allowed=allowed, own=frozenset(a.version for a in _addresses(own, ownership)))


def plan_peers(
    members: Mapping[PublicKey, NodeFacts],
    networks: Mapping[NodeName, tuple[IPNetwork, ...]],
    ownership: Ownership,
    families: Families,
    config: AgentConfig,
) -> tuple[dict[PublicKey, Peer], frozenset[Problem]]:
    """A peer for each member that can be reached, with its networks; the others are named, as is a bad wigglenet/endpoint."""
    peers: dict[PublicKey, Peer] = {}
    problems: set[Problem] = set()
    for key, node in members.items():
        address, port = node.endpoint or (None, None)
        if address and (refused := ownership.refused_endpoint(address)) and not node.departed:
            text = f"its wigglenet/endpoint {address} is not used: {refused}"
            problems.add(Problem(code=Code.EndpointRefused, subject=f"node {node.name}", text=text))
        if address is None or refused or address.version not in families.allowed:
            address, port = _endpoint_address(node, ownership, families), None
        if address is None:
            which = " or ".join(f"IPv{version}" for version in sorted(families.allowed))
            text = f"it has a key but no usable {which} address; its status, wigglenet/node-ips or /endpoint must name one"
            if not node.departed:
                problems.add(Problem(code=Code.NoEndpoint, subject=f"node {node.name}", text=text))
            continue
        own_addresses = map(host_network, _addresses(node, ownership))
        allowed = frozenset((*networks[node.name], *own_addresses))
        endpoint = Endpoint(address=address, port=port or config.port)
        peers[key] = Peer(endpoint=endpoint, allowed_ips=allowed, keepalive=config.keepalive)
    return peers, frozenset(problems)


def _addresses(node: NodeFacts, ownership: Ownership) -> tuple[IPAddress, ...]:
    return ownership.addresses(node.uid, node.internal_ips + node.external_ips + node.node_ips)


def _endpoint_address(node: NodeFacts, ownership: Ownership, families: Families) -> IPAddress | None:
    """InternalIP > ExternalIP > node-ips; within a rank a family that this node has too, then the order of the status."""
    for rank in (node.internal_ips, node.external_ips, node.node_ips):
        usable = [a for a in ownership.addresses(node.uid, rank) if a.version in families.allowed]
        if usable:
            return min(usable, key=lambda a: a.version not in families.own)
    return None


def plan_node_addresses(node: NodeFacts, ownership: Ownership, families: Families) -> tuple[IPAddress, ...]:
    """From which addresses a node speaks: those of its status, and the one that its peers talk to."""
    known = ownership.addresses(node.uid, node.internal_ips + node.external_ips)
    if any(address.version in families.allowed for address in known):  # the endpoint is among them
        return known
    endpoint = _endpoint_address(node, ownership, families)
    return (*known, endpoint) if endpoint else known


def plan_mtu(
    config: AgentConfig,
    path_mtus: Mapping[IPAddress, int],
    default_mtu: int | None,
    peers: Mapping[PublicKey, Peer],
) -> tuple[int, frozenset[Problem]]:
    """The largest packet of a pod that reaches every peer, in bytes; `path_mtus` and `default_mtu` as in HostFacts."""
    if config.mtu is not None:
        return config.mtu, frozenset()
    least = MIN_MTU + config.overhead
    paths = [mtu for p in peers.values() if p.endpoint and (mtu := path_mtus.get(p.endpoint.address))]
    underlay = min(paths, default=default_mtu or least)
    if underlay < least:
        text = f"the underlay's MTU of {underlay} leaves less than {MIN_MTU} to pods; raise it to {least}"
        subject = f"link {config.link}" if config.tunnelled else f"node {config.node_name}"
        return MIN_MTU, frozenset({Problem(code=Code.MTUTooSmall, subject=subject, text=text)})
    return underlay - config.overhead, frozenset()


def plan_wireguard(config: AgentConfig, host: HostFacts) -> frozenset[Problem]:
    """What the administrator may want to change about who implements WireGuard; a link that works is never converted."""
    if host.wireguard is None:
        return frozenset()
    if config.wireguard and config.wireguard is not host.wireguard:
        text = f"it is held by {host.wireguard.value} WireGuard, not by {config.wireguard.value} as set"
    elif host.kernel_wireguard:
        text = "kernel WireGuard is available"
    else:
        return frozenset()
    first = "stop the implementation, " if host.wireguard is WireGuardKind.USERSPACE else ""
    text = f"{text}; to switch: {first}ip link del {config.link}"
    return frozenset({Problem(code=Code.WireGuardOther, subject=f"link {config.link}", text=text)})


@dataclass(frozen=True, slots=True, kw_only=True)
class Sighting:
    """What was seen of a peer, so that roaming can be told from silence."""

    announced: Endpoint | None
    received: int
    sent: int
    since: float
    """When it was last heard, or first seen; monotonic seconds."""


def settle_endpoints(  # noqa: PLR0913 - the two states, what is known beside them, and the time
    desired: Mapping[PublicKey, Peer],
    actual: Mapping[PublicKey, Peer],
    seen: Mapping[PublicKey, Sighting],
    *,
    now: float,
    unix_now: float,
    timing: Timing = PRODUCTION,
) -> tuple[dict[PublicKey, Peer], dict[PublicKey, Sighting]]:
    """The peers with the endpoint that each should have now, and what to remember.

    The announced one is written when the peer is new, when the announcement changed, or when the peer has gone dark;
    else the observed one (the peer roams, or is behind a NAT) is no difference.
    """
    settled: dict[PublicKey, Peer] = {}
    remember: dict[PublicKey, Sighting] = {}
    for key, want in desired.items():
        have, before = actual.get(key), seen.get(key)
        announced = want.endpoint
        moved = before is not None and before.announced != announced
        if have is None or have.endpoint is None or moved:
            settled[key], remember[key] = want, Sighting(announced=announced, received=0, sent=0, since=now)
            continue
        silent = before is not None and have.received == before.received and have.sent > before.sent
        quiet = before is not None and silent and now - before.since > timing.silent_peer
        alive = 0 <= unix_now - have.handshake <= SESSION_SECONDS  # not if the clock was set back
        dark = quiet and not alive
        if have == want:
            settled[key] = have  # the same object, which `diff` does not compare again
        else:
            settled[key] = want if dark or have.endpoint == announced else replace(want, endpoint=have.endpoint)
        if before is not None and silent and not dark:
            remember[key] = before
        else:
            remember[key] = Sighting(announced=announced, received=have.received, sent=have.sent, since=now)
    return settled, remember
