"""Who owns which address, by trust and then by age, so that one Node's lie costs that Node.

Every network and address that a Node says to have is a claim.  Claims are accepted greedily: first those that only the
control plane can write (`spec.podCIDRs`), then `status.addresses`, then the agents' own annotations; among equals the
older Node, then the smaller UID; last of all, in the same order, what only the past said.  A claim that overlaps an
accepted one of another Node, or of another purpose, is refused and named; it blocks nothing.  Source: docs/security.md.
"""

from bisect import bisect_left
from collections.abc import Iterable, Iterator, Mapping, Sequence
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


_Entry = tuple[int, int, Claim, IPNetwork]
"""First address, last address with a minus, claim and network."""
_Group = tuple[int, int, int, int]
"""First and last address; number of the first entry, and that after the last."""


@dataclass(slots=True, kw_only=True)
class Ownership:
    """Who owns what: all that a Node claims and that is not refused. Changed by `exchange`.

    Networks nest or are apart, so the claims fall into groups: a network that lies in no other, and all that lies in it. A
    claim is decided within its group. A Node that comes or goes has only the groups decided anew that its claims are in.
    """

    refused: dict[NodeUID, frozenset[tuple[bool, IPNetwork]]] = field(default_factory=dict)
    """By Node (whether for pods, network), never empty; an address is a /32 or /128."""
    problems: frozenset[Problem] = frozenset()
    api: "Spans" = field(default_factory=lambda: _spans(()), compare=False)
    """The API server's address."""
    services: "Spans" = field(default_factory=lambda: _spans(()), compare=False)
    """Ranges of Services."""
    _entries: dict[int, list[_Entry]] = field(default_factory=lambda: {4: [], 6: []}, compare=False)
    """Valid claims by IP version: by address, and of two that begin at the same one the larger first."""
    _groups: dict[int, list[_Group]] = field(default_factory=lambda: {4: [], 6: []}, compare=False)
    """By IP version, ascending."""
    _reasons: dict[NodeUID, dict[Claim, tuple[IPNetwork, str]]] = field(default_factory=dict, compare=False)
    """Why a claim is refused."""
    _problems: dict[NodeUID, tuple[Problem, ...]] = field(default_factory=dict, compare=False)

    def exchange(self, gone: Iterable[NodeFacts], came: Iterable[NodeFacts]) -> frozenset[NodeUID]:
        """Take Nodes out and others in; the UIDs of the Nodes of which something else is refused now."""
        were, are = dict(claims(gone)), dict(claims(came))
        changed: set[NodeUID] = set()
        touched: dict[int, list[tuple[int, int]]] = {4: [], 6: []}
        for claim in were.keys() - are.keys():
            if self._forget(claim):
                changed.add(claim.uid)
            entries = self._entries[claim.family]
            at = bisect_left(entries, (claim.first, -claim.last, claim))
            if at < len(entries) and entries[at][2] == claim:  # an invalid one is not among them
                del entries[at]
                touched[claim.family].append((claim.first, claim.last))
        for claim in are.keys() - were.keys():
            if reason := _invalid(are[claim], claim=claim, api=self.api, services=self.services):
                self._refuse(claim, are[claim], reason)
                changed.add(claim.uid)
                continue
            self._entries[claim.family].append((claim.first, -claim.last, claim, are[claim]))
            touched[claim.family].append((claim.first, claim.last))
        for family, spans in touched.items():
            if spans:
                self._entries[family].sort()
                self._groups[family] = [*_grouped(self._entries[family])]
                changed |= self._decide(family, spans)
        self._publish(changed)
        return frozenset(changed)

    def _decide(self, family: int, spans: Iterable[tuple[int, int]]) -> set[NodeUID]:
        """Decide the groups that have an address of one of the spans; the UIDs of the Nodes for which something changed."""
        groups = self._groups[family]
        lasts = [last for _, last, *_ in groups]
        numbers: set[int] = set()
        for first, last in spans:
            at = bisect_left(lasts, first)
            while at < len(groups) and groups[at][0] <= last:
                numbers.add(at)
                at += 1
        changed: set[NodeUID] = set()
        for number in numbers:
            entries = self._entries[family][groups[number][2] : groups[number][3]]
            for claim, network, reason in _decided(entries):
                before = self._reasons.get(claim.uid, {}).get(claim)
                if reason:
                    self._refuse(claim, network, reason)
                elif before:
                    self._forget(claim)
                if (before[1] if before else "") != reason:
                    changed.add(claim.uid)
        return changed

    def _refuse(self, claim: Claim, network: IPNetwork, reason: str) -> None:
        self._reasons.setdefault(claim.uid, {})[claim] = network, reason

    def _forget(self, claim: Claim) -> bool:
        """Whether the claim was refused."""
        return self._reasons.get(claim.uid, {}).pop(claim, None) is not None

    def _publish(self, changed: Iterable[NodeUID]) -> None:
        for uid in changed:
            reasons = self._reasons.get(uid)
            if not reasons:
                for mapping in (self._reasons, self.refused, self._problems):
                    mapping.pop(uid, None)
                continue
            self.refused[uid] = frozenset((claim.for_pods, network) for claim, (network, _) in reasons.items())
            told: dict[tuple[NodeName, Trust], list[str]] = {}
            for claim in sorted(claim for claim in reasons if not claim.past):  # of the past there is nothing to mend
                network, reason = reasons[claim]
                text = f"{network} of {claim.trust.label} is not used: {reason}"
                told.setdefault((claim.name, claim.trust), []).append(text)
            self._problems[uid] = tuple(_named(told))
        if changed:
            self.problems = frozenset(chain.from_iterable(self._problems.values()))

    def refused_endpoint(self, address: IPAddress) -> str:
        """Why packets of the tunnel cannot go to an address that nobody claims; empty if they can."""
        if any(address in network for network in NOT_UNICAST):
            return NO_UNICAST
        holder = self._holder(address.version, int(address))
        return f"it lies in a pod network of node {holder.name[:NAME_SHOWN]}" if holder and holder.for_pods else ""

    def _holder(self, family: int, address: int) -> Claim | None:
        """The accepted claim that has the address, if any."""
        groups = self._groups[family]
        at = bisect_left(groups, address, key=itemgetter(1))
        if at == len(groups) or groups[at][0] > address:
            return None
        accepted = _decided(self._entries[family][groups[at][2] : groups[at][3]])
        return next((c for c, _, reason in accepted if not reason and c.first <= address <= c.last), None)

    def pod_networks(self, uid: NodeUID, networks: frozenset[IPNetwork]) -> frozenset[IPNetwork]:
        """Those of a Node's pod networks that were accepted."""
        refused = self.refused.get(uid)
        return frozenset(n for n in networks if (True, n) not in refused) if refused else networks

    def addresses(self, uid: NodeUID, addresses: Iterable[IPAddress]) -> tuple[IPAddress, ...]:
        """Those of a Node's addresses that were accepted, in the given order, without repeats."""
        refused = self.refused.get(uid)
        return tuple(dict.fromkeys(a for a in addresses if not refused or (False, host_network(a)) not in refused))


def _grouped(entries: Sequence[_Entry]) -> Iterator[_Group]:
    """The groups of sorted claims."""
    start, begin, end = 0, 0, -1
    for number, (first, minus_last, *_) in enumerate(entries):
        if first > end:
            if number:
                yield begin, end, start, number
            start, begin, end = number, first, -minus_last
    if entries:
        yield begin, end, start, len(entries)


def _decided(group: Sequence[_Entry]) -> Iterator[tuple[Claim, IPNetwork, str]]:
    """Each claim of a group, its network, and why it is refused; empty if it is accepted."""
    if len({(claim.uid, claim.for_pods) for _, _, claim, _ in group}) == 1:
        yield from ((claim, network, "") for _, _, claim, network in group)
        return
    owned = _Ranges()
    for _, _, claim, network in sorted(group, key=itemgetter(2)):
        rival = owned.rival(claim)
        if rival is None:
            owned.add(claim)
        reason = f"it overlaps what node {rival.name[:NAME_SHOWN]} has by {rival.trust.label}" if rival else ""
        yield claim, network, reason


class _Ranges:
    """Disjoint claims of one family, sorted, so that an overlap is found by bisection."""

    def __init__(self) -> None:
        self.lasts: list[int] = []
        self.claims: list[Claim] = []

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


def plan_ownership(
    nodes: Iterable[NodeFacts], *, api_server: IPAddress | None, services: frozenset[IPNetwork] = frozenset()
) -> Ownership:
    """Every claim of the cluster decided; the order of the Nodes makes no difference."""
    api, taken = _spans([host_network(api_server)] if api_server else []), _spans(sorted(services, key=str))
    ownership = Ownership(api=api, services=taken)
    ownership.exchange((), nodes)
    return ownership


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
