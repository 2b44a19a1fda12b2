"""Which networks are this node's pods', and which are behind each other node."""

from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from ipaddress import IPv4Network, IPv6Network, collapse_addresses, ip_interface

from wigglenet_operator.model.config import AgentConfig
from wigglenet_operator.model.desired import IPInterface
from wigglenet_operator.model.facts import (
    VETH,
    ForeignRoute,
    HostFacts,
    IPAddress,
    IPNetwork,
    NodeFacts,
    Offer,
    PodNetworkSource,
)
from wigglenet_operator.model.problems import Code
from wigglenet_operator.model.report import Problem
from wigglenet_operator.plan.claims import Ownership


@dataclass(frozen=True, slots=True, kw_only=True)
class OwnNetworks:
    """What this node's pods have and get addresses of, before anybody else's claims are known."""

    new: frozenset[IPNetwork]
    """What the sources offer: for pods that start now."""
    kept: frozenset[IPNetwork]
    """What it announced before, and running pods still need."""
    problems: frozenset[Problem]
    """Why a family that should have a network has none to offer."""

    @property
    def all(self) -> frozenset[IPNetwork]:
        """The new and the kept."""
        return self.new | self.kept


def plan_sources(own: NodeFacts, config: AgentConfig, host: HostFacts, earlier: Collection[IPNetwork]) -> OwnNetworks:
    """What each family's source offers, and what stays of that which was announced, or is among the `earlier` ones.

    A source that offers others leaves a network to the pods that have addresses in it and in no offered part of it; one that
    offers nothing takes nothing away, not even from pods to come: then no pod starts.
    """
    new: set[IPNetwork] = set()
    kept: set[IPNetwork] = set()
    missing: dict[PodNetworkSource, list[int]] = {}
    problems: set[Problem] = set()
    pods = frozenset(address for _, address in pod_links(host.foreign_routes))
    for version, source in config.sources.items():
        offer = Offer() if source is PodNetworkSource.NONE else _offer(source, own, host)
        offered = {n for n in offer.networks if n.version == version}
        if source is PodNetworkSource.FILE and (taken := {n for n in offered if _held(n, host.local_addresses)}):
            offered -= taken
            problems |= {_not_for_pods(own, n, host) for n in taken}
        known = {n for n in own.pod_cidrs.union(earlier) if n.version == version}
        new |= offered
        kept |= {n for n in known - offered if any(p in n and not _housed(p, n, offered | known) for p in pods)}
        taken_back = offered or source is PodNetworkSource.NONE or "pod_cidrs" in own.inherited
        if not taken_back and (host.public_key is None or own.public_key in {None, host.public_key}):  # its own word
            kept |= known & own.pod_cidrs
        if not any(n.version == version for n in offer.networks) and source is not PodNetworkSource.NONE:
            missing.setdefault(source, []).append(version)
    problems |= {_offer(s, own, host).problem or _nothing(s, versions, own, config) for s, versions in missing.items()}
    return OwnNetworks(new=frozenset(new), kept=frozenset(kept), problems=frozenset(problems))


def plan_earlier(closed: Iterable[IPNetwork], routes: Iterable[ForeignRoute]) -> frozenset[IPNetwork]:
    """Which of the closed networks a local pod is in: what this node's were, for an agent that remembers nothing."""
    pods = frozenset(address for _, address in pod_links(routes))
    return frozenset(n for n in closed if any(pod in n for pod in pods))


def _housed(pod: IPAddress, network: IPNetwork, offered: Iterable[IPNetwork]) -> bool:
    """Whether the pod is in a part of the network that is offered, or known; one around it may still be refused."""
    return any(pod in n and n.prefixlen > network.prefixlen for n in offered)


def _held(network: IPNetwork, addresses: Iterable[IPAddress]) -> list[IPAddress]:
    return sorted((a for a in addresses if a in network), key=int)


def _not_for_pods(own: NodeFacts, network: IPNetwork, host: HostFacts) -> Problem:
    text = f"{network} of the file is not used, and no pod starts: it holds this node's own address"
    text = f"{text} {_held(network, host.local_addresses)[0]}"
    return Problem(code=Code.PodNetworkUnfit, subject=f"node {own.name}", text=text)


def _offer(source: PodNetworkSource, own: NodeFacts, host: HostFacts) -> Offer:
    return Offer(networks=own.spec_pod_cidrs) if source is PodNetworkSource.SPEC else host.offers.get(source, Offer())


def _nothing(source: PodNetworkSource, versions: list[int], own: NodeFacts, config: AgentConfig) -> Problem:
    wanted = " and ".join(f"an IPv{version} network" for version in versions)
    lacking = "nothing is masqueraded or filtered" if config.firewall_only else "no pod starts"
    ask = f"POD_CIDR_SOURCE_IPV{versions[-1]}=none if pods shall have no IPv{versions[-1]}"
    if source is PodNetworkSource.SPEC:
        text = f"{lacking} until spec.podCIDRs has {wanted} (kube-controller-manager --allocate-node-cidrs); or set {ask}"
        return Problem(code=Code.NoPodNetwork, subject=f"node {own.name}", text=text)
    text = f"{lacking} until it has {wanted}; or set {ask}"
    return Problem(code=Code.NoPodNetwork, subject=f"file {config.source_path}", text=text)


def pod_links(routes: Iterable[ForeignRoute]) -> Iterator[tuple[str, IPAddress]]:
    """The links of pods and the address behind each: CNI's `ptp` makes one for each pod, with a route to its addresses."""
    for route in routes:
        if route.link.startswith(VETH) and route.to.prefixlen == route.to.max_prefixlen:
            yield route.link, route.to.network_address


def collapsed(networks: Iterable[IPNetwork]) -> tuple[IPNetwork, ...]:
    """The same addresses in the fewest networks: IPv6 first, each family ascending (the order of the annotation)."""
    both = tuple(networks)
    six = [n for n in both if isinstance(n, IPv6Network)]
    four = [n for n in both if isinstance(n, IPv4Network)]
    return (*(collapse_addresses(six) if len(six) > 1 else six), *(collapse_addresses(four) if len(four) > 1 else four))


def plan_node_networks(node: NodeFacts, ownership: Ownership) -> tuple[IPNetwork, ...]:
    """What a node's agent announces and owns; empty for a Node without an agent."""
    return collapsed(ownership.pod_networks(node.uid, node.pod_cidrs))


def plan_gateways(networks: Iterable[IPNetwork]) -> dict[IPInterface, None]:
    """The first host address of each network, as /32 or /128: what `host-local` takes as the pods' gateway."""
    return {ip_interface(n.network_address + min(1, n.num_addresses - 1)): None for n in networks}
