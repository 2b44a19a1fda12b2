"""Who owns which address, by trust and then by age, so that one Node's lie costs that Node.

Every network and address that a Node says to have is a claim.  Claims are accepted greedily: first those that only the
control plane can write (`spec.podCIDRs`), then `status.addresses`, then the agents' own annotations; among equals the
older Node, then the smaller UID; last of all, in the same order, what only the past said.  A claim that overlaps an
accepted one of another Node, or of another purpose, is refused and named; it blocks nothing.  Source: docs/security.md.
"""

from bisect import bisect_left
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import IntEnum
from ipaddress import IPv4Network, IPv6Network
from itertools import chain
from operator import itemgetter
from typing import NamedTuple

from wigglenet_operator.model.facts import IPAddress, IPNetwork, NodeFacts, NodeName, NodeUID, bounds, host_network
from wigglenet_operator.model.problems import Code
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
    owned: Mapping[int, "_Ranges"] = field(default_factory=dict, compare=False)
    """All that was accepted, by IP version."""
    disputed: Mapping[int, "_Ranges"] = field(default_factory=dict, compare=False)
    """All that was refused for somebody else's sake."""

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

    def apart(self, nodes: Collection[NodeFacts]) -> bool:
        """Whether nobody but these Nodes has, or would like to have, an address of what they claim."""
        uids = {node.uid for node in nodes}
        for claim, _ in claims(nodes):
            others = (other for other in self.owned[claim.family].overlapping(claim) if other.uid not in uids)
            if next(chain(others, self.disputed[claim.family].overlapping(claim)), None):
                return False
        return True

    def exchanged(self, gone: "Ownership", came: "Ownership") -> "Ownership":
        """Without the one part and with the other; both are of Nodes that are apart from all others."""
        return Ownership(
            refused={uid: of for uid, of in self.refused.items() if uid not in gone.refused} | dict(came.refused),
            problems=(self.problems - gone.problems) | came.problems,
            owned={v: ranges.exchanged(gone.owned[v], came.owned[v]) for v, ranges in self.owned.items()},
            disputed={v: ranges.exchanged(gone.disputed[v], came.disputed[v]) for v, ranges in self.disputed.items()},
        )


class _Ranges:
    """Disjoint claims of one family, sorted, so that an overlap is found by bisection."""

    def __init__(self) -> None:
        self.lasts: list[int] = []
        self.claims: list[Claim] = []

    def holder(self, address: int) -> Claim | None:
        """The accepted claim that has the address, if any."""
        at = bisect_left(self.lasts, address)
        return self.claims[at] if at < len(self.claims) and self.claims[at].first <= address else None

    def overlapping(self, claim: Claim) -> Iterator[Claim]:
        """Those that have an address of the claim, ascending."""
        at = bisect_left(self.lasts, claim.first)
        while at < len(self.claims) and self.claims[at].first <= claim.last:
            yield self.claims[at]
            at += 1

    def rival(self, claim: Claim) -> Claim | None:
        """The first of another Node or purpose that overlaps, if any."""
        for other in self.overlapping(claim):
            if (other.uid, other.for_pods) != (claim.uid, claim.for_pods):
                return other
        return None

    def add(self, claim: Claim) -> None:
        """Networks nest or are apart: the claim holds all that it overlaps, or is held by it."""
        held = [*self.overlapping(claim)]
        if not held or held[0].first > claim.first or held[0].last < claim.last:
            low = bisect_left(self.lasts, claim.first)
            self.lasts[low : low + len(held)] = [claim.last]
            self.claims[low : low + len(held)] = [claim]

    def exchanged(self, gone: "_Ranges", came: "_Ranges") -> "_Ranges":
        """Without the ones, all of which are here, and with the others."""
        ranges = _Ranges()
        ranges.lasts, ranges.claims = self.lasts.copy(), self.claims.copy()
        for claim in gone.claims:
            at = bisect_left(ranges.lasts, claim.last)
            del ranges.lasts[at], ranges.claims[at]
        for claim in came.claims:
            ranges.add(claim)
        return ranges


def plan_ownership(
    nodes: Iterable[NodeFacts], *, api_server: IPAddress | None, services: frozenset[IPNetwork] = frozenset()
) -> Ownership:
    """Every claim of the cluster decided; the order of the Nodes makes no difference."""
    owned, disputed = {4: _Ranges(), 6: _Ranges()}, {4: _Ranges(), 6: _Ranges()}
    refused: dict[NodeUID, set[tuple[bool, IPNetwork]]] = {}
    told: dict[tuple[NodeName, Trust], list[str]] = {}
    api, taken = _spans([host_network(api_server)] if api_server else []), _spans(sorted(services, key=str))
    for claim, network in sorted(claims(nodes), key=itemgetter(0)):
        reason = _invalid(network, claim=claim, api=api, services=taken)
        if not reason and (rival := owned[claim.family].rival(claim)):
            reason = f"it overlaps what node {rival.name[:NAME_SHOWN]} has by {rival.trust.label}"
            disputed[claim.family].add(claim)
        if not reason:
            owned[claim.family].add(claim)
            continue
        refused.setdefault(claim.uid, set()).add((claim.for_pods, network))
        if not claim.past:  # there is nothing to mend
            told.setdefault((claim.name, claim.trust), []).append(f"{network} of {claim.trust.label} is not used: {reason}")
    return Ownership(
        refused={uid: frozenset(of) for uid, of in refused.items()},
        problems=frozenset(_named(told)),
        owned=owned,
        disputed=disputed,
    )


def _named(refused: Mapping[tuple[NodeName, Trust], Sequence[str]]) -> Iterator[Problem]:
    """A problem for each text, but not for thousands: whoever can write one annotation could flood every log."""
    for (name, trust), texts in refused.items():
        more = len(texts) - NAMED
        rest = [f"a further {more} of {trust.label} are not used: they are refused as well"] if more > 0 else []
        yield from (Problem(code=Code.ClaimRefused, subject=f"node {name}", text=text) for text in (*texts[:NAMED], *rest))


def claims(nodes: Iterable[NodeFacts]) -> Iterator[tuple[Claim, IPNetwork]]:
    """All that they say, right or wrong."""
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
