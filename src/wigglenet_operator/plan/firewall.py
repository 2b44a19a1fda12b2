"""What the firewall does with pods' packets: masquerade, filter, the right door, TCP's MSS.

Everything that depends on the cluster is in sets, the rules depend on the settings and the length of this node's own networks:
a Node that comes or goes is a change of a few elements.  Source: docs/firewall.md.
"""

import re
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from ipaddress import IPv4Network, IPv6Network
from itertools import chain

from wigglenet_operator.model.changes import Parts
from wigglenet_operator.model.config import AgentConfig
from wigglenet_operator.model.facts import VETH, DroppingChain, ForeignRoute, IPNetwork, NodeFacts, bounds, host_network
from wigglenet_operator.model.problems import Code
from wigglenet_operator.model.report import Problem
from wigglenet_operator.model.ruleset import Content, Item, Ruleset, address_text, element_text, in_parts, part_of
from wigglenet_operator.plan.claims import Ownership
from wigglenet_operator.plan.pod_networks import plan_node_networks, pod_links
from wigglenet_operator.plan.tunnel import Families, plan_node_addresses

DIRECT: tuple[IPNetwork, ...] = (
    *map(IPv4Network, ("169.254.0.0/16", "224.0.0.0/4")),
    *map(IPv6Network, ("fe80::/10", "ff00::/8")),
)
"""Link-local and multicast (RFC 3927, 5771, 4291): whoever is there has no way to a masqueraded address either."""
FORWARD = "type filter hook forward priority filter; policy accept;"
POSTROUTING = "type nat hook postrouting priority srcnat; policy accept;"
MSS = "tcp flags syn tcp option maxseg size set rt mtu"
"""For both ways of the packet's path (net/netfilter/nft_rt.c), so that both ends are told the smaller of two tunnels."""
IP = {4: "ip", 6: "ip6"}
ERRORS = {
    4: "icmp type { destination-unreachable, time-exceeded, parameter-problem } accept",
    6: "icmpv6 type { destination-unreachable, packet-too-big, time-exceeded, parameter-problem,"
    " nd-router-solicit, nd-router-advert, nd-neighbor-solicit, nd-neighbor-advert } accept",
}
"""Path MTU discovery must work for connections that this node has forgotten; neighbour discovery is for bridges."""
SAID = re.compile(r"[\w.-]+", re.ASCII)
"""Names that can be said to nft."""
USUAL = {4: 24, 6: 64}
"""Lengths of pod networks where this node has none of its own to go by (kube-controller-manager, --node-cidr-mask-size)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Zones:
    """Whose addresses are whose; networks may overlap, be repeated, or be missing."""

    own: frozenset[IPNetwork] = frozenset()
    """This node's pod networks."""
    home: frozenset[IPNetwork] = frozenset()
    """What its pods may have addresses of: these, and those that were theirs and cannot be used any more."""
    pods: frozenset[IPNetwork] = frozenset()
    """Every node's pod networks."""
    nodes: frozenset[IPNetwork] = frozenset()
    """Every node's addresses."""
    doors: frozenset[str] = frozenset()
    """Names of the links that lead to own pods."""


def plan_local_zones(own: NodeFacts, ownership: Ownership, routes: Iterable[ForeignRoute]) -> Zones:
    """Of this node: its pod networks, and the links of its pods. What was refused to it is nobody's."""
    return Zones(own=frozenset(plan_node_networks(own, ownership)), home=own.pod_cidrs, doors=plan_doors(own.pod_cidrs, routes))


def plan_node_zones(node: NodeFacts, ownership: Ownership, families: Families) -> Zones:
    """What one Node of the cluster adds: its pod networks and addresses. What was refused to it is nobody's."""
    return Zones(
        pods=ownership.pod_networks(node.uid, node.spec_pod_cidrs | node.pod_cidrs),
        nodes=frozenset(map(host_network, plan_node_addresses(node, ownership, families))),
    )


def plan_firewall(config: AgentConfig, zones: Zones) -> Ruleset:
    """The whole table; empty if no setting asks for a rule."""
    lengths = lengths_of(zones.own)
    return whole_table(plan_rules(config, zones, lengths), in_parts(plan_elements(zones, lengths, asked_sets(config, lengths))))


def whole_table(rules: Parts[Item, Content], elements: Parts[Item, Content]) -> Parts[Item, Content]:
    """Both in one ruleset, whose parts are the same objects; no set has elements in both."""
    return Parts({**rules.parts, **elements.parts}, part_of)


def lengths_of(own: Iterable[IPNetwork]) -> dict[int, int]:
    """The usual length of a pod network by IP version, which is that of this node's."""
    return USUAL | {n.version: n.prefixlen for n in sorted(own, key=str) if n.prefixlen}


def plan_rules(config: AgentConfig, zones: Zones, lengths: Mapping[int, int]) -> Parts[Item, Content]:
    """All chains and sets, and the elements that are this node's own."""
    chains = _all_chains(config, lengths)
    asked = asked_sets(config, lengths)
    own = ((item, content) for item, content in _own_sets(config, zones) if item.name in asked)
    return in_parts({**{Item("chain", name): lines for name, lines in chains.items()}, **dict(own)})


def plan_elements(zones: Zones, lengths: Mapping[int, int], asked: frozenset[str]) -> dict[Item, Content]:
    """The elements of the sets of every node's networks and addresses; `asked` are the names of sets that rules refer to."""
    pods = tuple(outermost(zones.pods))
    named = [(f"wt_nodes{n.version}", element_text(n)) for n in zones.nodes]
    for n in pods:
        usual = n.prefixlen == lengths[n.version]
        text = address_text(n.network_address) if usual else element_text(n)
        named.append((f"wt_{'pods' if usual else 'rest'}{n.version}", text))
    return {Item("set", name, text): "" for name, text in named if name in asked}


def asked_sets(config: AgentConfig, lengths: Mapping[int, int]) -> frozenset[str]:
    """Names of the sets that rules refer to."""
    lines = chain.from_iterable(_all_chains(config, lengths).values())
    return frozenset(word[1:] for line in lines for word in line.split() if word.startswith("@"))


def plan_doors(own: Iterable[IPNetwork], routes: Iterable[ForeignRoute]) -> frozenset[str]:
    """The links of own pods."""
    networks = tuple(own)
    said = ((link, address) for link, address in pod_links(routes) if SAID.fullmatch(link))
    return frozenset(link for link, address in said if any(address in n for n in networks))


def plan_dropped(chains: Iterable[DroppingChain], own: Collection[IPNetwork]) -> frozenset[Problem]:
    """What an accept of ours cannot overrule: in nftables a drop is final, whoever says it."""

    def harmed(chain: DroppingChain) -> list[IPNetwork]:
        return [n for n in own if n.version in chain.versions and not any(_inside(n, a) for a in chain.accepted)]

    text = "it drops what is forwarded, and accepts nothing of {}; pods may be cut off: accept these networks there, both ways"
    return frozenset(
        Problem(code=Code.ForwardingDropped, subject=f"chain {c.name}", text=text.format(" and ".join(map(str, harmed(c)))))
        for c in chains
        if harmed(c)
    )


def _inside(inner: IPNetwork, outer: IPNetwork) -> bool:
    return inner.version == outer.version and inner.network_address in outer and inner.prefixlen >= outer.prefixlen


def outermost(networks: Iterable[IPNetwork]) -> Iterator[IPNetwork]:
    """Those that lie in no other, each once, ascending by family: what a set of intervals can have."""
    last = -1
    version = 0
    for v, first, _, network in sorted((n.version, int(n.network_address), n.prefixlen, n) for n in networks):
        if v != version or first > last:
            yield network
            version, last = v, bounds(network)[1]


class _Family:
    """The words for one IP version.

    Pods' networks are two sets: those of the usual length as a hash of their first addresses, because a lookup in an
    interval set is what costs most of all that a packet meets here, and the rest as intervals.
    """

    def __init__(self, version: int, length: int) -> None:
        self.version, self.ip = version, IP[version]
        mask = (IPv4Network if version == 4 else IPv6Network)((0, length)).netmask
        self._masked = f" & {mask}" if length < mask.max_prefixlen else ""

    def in_pods(self) -> tuple[str, str]:
        """The source is in a pod network: by the one or the other."""
        equal = " ==" if self._masked else ""
        return f"{self.ip} saddr{self._masked}{equal} @wt_pods{self.version}", f"{self.ip} saddr @wt_rest{self.version}"

    def not_to_pods(self) -> str:
        """The destination is in none."""
        return f"{self.ip} daddr{self._masked} != @wt_pods{self.version} {self.ip} daddr != @wt_rest{self.version}"


def _all_chains(config: AgentConfig, lengths: Mapping[int, int]) -> dict[str, tuple[str, ...]]:
    return _chains(config, [_Family(version, lengths[version]) for version in IP])


def _chains(config: AgentConfig, families: Iterable[_Family]) -> dict[str, tuple[str, ...]]:
    """By name, in nft's own words; none without a rule."""
    forward, postrouting = [FORWARD], [POSTROUTING]
    tunnel, outbound = [MSS], []
    chains: dict[str, list[str]] = {}
    if config.tunnelled:
        forward += [
            f'oifname "{config.link}" jump wt_tunnel',
            f'iifname "{VETH}*" jump wt_outbound',
            f'iifname "{config.link}" {MSS}',
        ]
    for family in families:
        version, ip = family.version, family.ip
        door = []
        if version in config.tunnelled:
            door = [f"{match} fib saddr . iif oif missing drop" for match in family.in_pods()]
            outbound.append(f"iifname @wt_doors {ip} saddr != @wt_home{version} drop")
        tunnel += door
        inbound = [*door, *(_filter(family) if version in config.filtered else ())]
        if inbound:
            chains[f"wt_inbound{version}"] = inbound
            forward.append(f"{ip} daddr @wt_own{version} jump wt_inbound{version}")
        if version in config.masqueraded:
            spared = f'{family.not_to_pods()} {ip} daddr != @wt_direct{version} oifname != "lo"'
            postrouting.append(f"{ip} saddr @wt_own{version} {spared} masquerade fully-random")
    hooked = {"wt_forward": forward, "wt_postrouting": postrouting}
    chains |= {name: lines for name, lines in hooked.items() if lines[1:]}
    if config.tunnelled:
        chains |= {"wt_tunnel": tunnel, "wt_outbound": outbound}
    return {name: tuple(lines) for name, lines in chains.items()}


def _filter(family: _Family) -> list[str]:
    known = [f"{match} accept" for match in family.in_pods()]
    node = f"{family.ip} saddr @wt_nodes{family.version} accept"
    return ["ct state established,related accept", "ct status dnat accept", *known, node, ERRORS[family.version], "drop"]


def _own_sets(config: AgentConfig, zones: Zones) -> Iterator[tuple[Item, Content]]:
    yield Item("set", "wt_doors"), ("typeof iifname",)
    yield from ((Item("set", "wt_doors", f'"{link}"'), "") for link in zones.doors)
    own = {"own": zones.own, "home": zones.home, "direct": (*DIRECT, *config.non_masquerade)}
    for name in (*own, "rest", "pods", "nodes"):
        flags = ("flags interval",) if name in {*own, "rest"} else ()
        for version, ip in IP.items():
            yield Item("set", f"wt_{name}{version}"), (f"typeof {ip} saddr", *flags)
    for name, networks in own.items():
        yield from ((Item("set", f"wt_{name}{n.version}", element_text(n)), "") for n in outermost(networks))
