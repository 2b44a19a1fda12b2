"""Who owns which address, by trust and then by age, so that one Node's lie costs that Node.

Every network and address that a Node says to have is a claim.  Claims are accepted greedily: first those that only the
control plane can write (`spec.podCIDRs`), then `status.addresses`, then the agents' own annotations; among equals the
older Node, then the smaller UID; last of all, in the same order, what only the past said.  A claim that overlaps an
accepted one of another Node, or of another purpose, is refused and named; it blocks nothing.  Source: README, "Who owns an
address".
"""

from bisect import bisect_left
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import IntEnum
from ipaddress import IPv4Network, IPv6Network
from operator import itemgetter
from typing import NamedTuple

from wigglenet_operator.model.facts import IPAddress, IPNetwork, NodeFacts, NodeName, NodeUID, bounds, host_network
from wigglenet_operator.model.report import Problem

NOT_UNICAST: tuple[IPNetwork, ...] = (
    *map(IPv4Network, ("0.0.0.0/8", "127.0.0.0/8", "169.254.0.0/16", "224.0.0.0/3")),
    *map(IPv6Network, ("::/127", "::ffff:0:0/96", "fe80::/10", "ff00::/8")),
)
"""Unspecified, loopback, IPv4-mapped, link-local, multicast and reserved (RFC 6890; RFC 4291, section 2.4)."""
SHORTEST = {4: 8, 6: 16}
"""Prefixes of a node's network: shorter ones would take a large part of the Internet away from every pod."""
NO_UNICAST = "it is not, or not only, global unicast"
NAMED = 5
"""Bad values of one field of one Node that are named one by one; an annotation has room for 20,000."""
NAME_SHOWN = 100
"""Characters of another node's name in a problem."""


class Trust(IntEnum):
    """Where a claim comes from, the most trusted first."""

    SPEC = 0
    STATUS = 1
    POD_CIDRS = 2
    NODE_IPS = 3

    @property
    def label(self) -> str:
        """The field as an administrator knows it."""
        return ("spec.podCIDRs", "status.addresses", "wigglenet/pod-cidrs", "wigglenet/node-ips")[self]


class Claim(NamedTuple):
    """One network that one Node says to have; the order of its fields is the order of acceptance."""

    past: bool
    """Whether it is what a Node that is gone, or an annotation that is missing, said: whatever is said now takes over."""
    trust: Trust
    created: str
    uid: NodeUID
    family: int
    first: int
    """The network's lowest address as a number."""
    last: int
    name: NodeName

    @property
    def for_pods(self) -> bool:
        """Whether pods, not the node itself, are behind it."""
        return self.trust is Trust.SPEC or self.trust is Trust.POD_CIDRS  # a set would hash by name, in Python


@dataclass(frozen=True, slots=True, kw_only=True)
class Ownership:
    """What was refused; all else that a Node says to have it has."""

    refused: Mapping[NodeUID, frozenset[tuple[bool, IPNetwork]]]
    """By Node (whether for pods, network), never empty; an address is a /32 or /128."""
    problems: frozenset[Problem]
    owned: Mapping[int, "_Owned"] = field(default_factory=dict, compare=False)
    """All that was accepted, by IP version."""

    def refused_endpoint(self, address: IPAddress) -> str:
        """Why packets of the tunnel cannot go to an address that nobody claims; empty if they can."""
        if any(address in network for network in NOT_UNICAST):
            return NO_UNICAST
        holder = self.owned[address.version].holder(int(address))
        return f"it lies in a pod network of node {holder.name[:NAME_SHOWN]}" if holder and holder.for_pods else ""

    def pod_networks(self, uid: NodeUID, networks: frozenset[IPNetwork]) -> frozenset[IPNetwork]:
        """Those of a Node's pod networks that were accepted."""
        refused = self.refused.get(uid)
        return frozenset(n for n in networks if (True, n) not in refused) if refused else networks

    def addresses(self, uid: NodeUID, addresses: Iterable[IPAddress]) -> tuple[IPAddress, ...]:
        """Those of a Node's addresses that were accepted, in the given order, without repeats."""
        refused = self.refused.get(uid)
        return tuple(dict.fromkeys(a for a in addresses if not refused or (False, host_network(a)) not in refused))


class _Owned:
    """Disjoint accepted ranges of one family, sorted, so that an overlap is found by bisection."""

    def __init__(self) -> None:
        self.lasts: list[int] = []
        self.claims: list[Claim] = []

    def holder(self, address: int) -> Claim | None:
        """The accepted claim that has the address, if any."""
        at = bisect_left(self.lasts, address)
        return self.claims[at] if at < len(self.claims) and self.claims[at].first <= address else None

    def rival(self, claim: Claim) -> Claim | None:
        """The accepted claim of another Node or purpose that overlaps, if any; else the claim is accepted."""
        low = high = bisect_left(self.lasts, claim.first)
        while high < len(self.claims) and self.claims[high].first <= claim.last:
            other = self.claims[high]
            if (other.uid, other.for_pods) != (claim.uid, claim.for_pods):
                return other
            high += 1
        covered = high > low and self.claims[low].first <= claim.first and self.claims[low].last >= claim.last
        if not covered:  # networks nest or are apart: the new one holds all that it overlaps
            self.lasts[low:high] = [claim.last]
            self.claims[low:high] = [claim]
        return None


def plan_ownership(
    nodes: Iterable[NodeFacts], *, api_server: IPAddress | None, services: frozenset[IPNetwork] = frozenset()
) -> Ownership:
    """Every claim of the cluster decided; the order of the Nodes makes no difference."""
    owned = {4: _Owned(), 6: _Owned()}
    refused: dict[NodeUID, set[tuple[bool, IPNetwork]]] = {}
    told: dict[tuple[NodeName, Trust], list[str]] = {}
    api, taken = _spans([host_network(api_server)] if api_server else []), _spans(sorted(services, key=str))
    for claim, network in sorted(_claims(nodes), key=itemgetter(0)):
        reason = _invalid(network, claim=claim, api=api, services=taken)
        if not reason and (rival := owned[claim.family].rival(claim)):
            reason = f"it overlaps what node {rival.name[:NAME_SHOWN]} has by {rival.trust.label}"
        if reason:
            refused.setdefault(claim.uid, set()).add((claim.for_pods, network))
        if reason and not claim.past:  # there is nothing to mend in the past
            told.setdefault((claim.name, claim.trust), []).append(f"{network} of {claim.trust.label} is not used: {reason}")
    problems = frozenset(_named(told))
    return Ownership(refused={uid: frozenset(of) for uid, of in refused.items()}, problems=problems, owned=owned)


def _named(refused: Mapping[tuple[NodeName, Trust], Sequence[str]]) -> Iterator[Problem]:
    """A problem for each text, but not for thousands: whoever can write one annotation could flood every log."""
    for (name, trust), texts in refused.items():
        more = len(texts) - NAMED
        rest = [f"a further {more} of {trust.label} are not used: they are refused as well"] if more > 0 else []
        yield from (Problem(subject=f"node {name}", text=text) for text in (*texts[:NAMED], *rest))


def _claims(nodes: Iterable[NodeFacts]) -> Iterator[tuple[Claim, IPNetwork]]:
    for node in nodes:
        for trust, name, networks in _said(node):
            past = node.departed or name in node.inherited
            for n in networks:
                first, last = bounds(n)
                yield Claim(past, trust, node.created, node.uid, n.version, first, last, node.name), n


def _said(node: NodeFacts) -> Iterator[tuple[Trust, str, Iterable[IPNetwork]]]:
    """By field of NodeFacts."""
    yield Trust.SPEC, "spec_pod_cidrs", node.spec_pod_cidrs
    yield Trust.STATUS, "internal_ips", map(host_network, node.internal_ips)
    yield Trust.STATUS, "external_ips", map(host_network, node.external_ips)
    yield Trust.POD_CIDRS, "pod_cidrs", node.pod_cidrs
    yield Trust.NODE_IPS, "node_ips", map(host_network, node.node_ips)


Spans = Mapping[int, Sequence[tuple[int, int, IPNetwork]]]
"""First and last address of networks as numbers, by IP version: every claim is compared with them."""


def _spans(networks: Iterable[IPNetwork]) -> Spans:
    spans: dict[int, list[tuple[int, int, IPNetwork]]] = {4: [], 6: []}
    for n in networks:
        spans[n.version].append((*bounds(n), n))
    return spans


SPECIAL = _spans(NOT_UNICAST)


def _invalid(network: IPNetwork, *, claim: Claim, api: Spans, services: Spans) -> str:
    """Why nobody can have this network; empty if somebody can."""
    if network.prefixlen == 0:
        return "a default route belongs to nobody"
    if _overlapped(claim, SPECIAL):
        return NO_UNICAST
    if network.prefixlen < SHORTEST[claim.family]:
        return f"it is too large for one node; the shortest prefix is /{SHORTEST[claim.family]}"
    if claim.for_pods and (server := _overlapped(claim, api)):
        return f"it holds the API server's address {server.network_address}"
    if service := _overlapped(claim, services):
        return f"it overlaps the Service range {service}"
    return ""


def _overlapped(claim: Claim, spans: Spans) -> IPNetwork | None:
    """The first network that has an address of the claim."""
    for first, last, network in spans[claim.family]:
        if claim.first <= last and first <= claim.last:
            return network
    return None
