"""Which networks are this node's pods', and which are behind each other node."""

from collections.abc import Iterable
from ipaddress import IPv4Network, IPv6Network, collapse_addresses, ip_interface

from wigglenet_operator.model.desired import IPInterface
from wigglenet_operator.model.facts import IPNetwork, NodeFacts
from wigglenet_operator.plan.claims import Ownership


def collapsed(networks: Iterable[IPNetwork]) -> tuple[IPNetwork, ...]:
    """The same addresses in the fewest networks: IPv6 first, each family ascending (the order of the annotation)."""
    both = tuple(networks)
    six = collapse_addresses(n for n in both if isinstance(n, IPv6Network))
    four = collapse_addresses(n for n in both if isinstance(n, IPv4Network))
    return (*six, *four)


def plan_own_networks(node: NodeFacts, ownership: Ownership) -> tuple[IPNetwork, ...]:
    """What the control plane gave to this node and nobody disputes; empty until it did."""
    return collapsed(ownership.pod_networks(node.uid, node.spec_pod_cidrs))


def plan_remote_networks(node: NodeFacts, ownership: Ownership) -> tuple[IPNetwork, ...]:
    """What another node's agent announces and owns; empty for a Node without an agent."""
    return collapsed(ownership.pod_networks(node.uid, node.pod_cidrs))


def plan_gateways(networks: Iterable[IPNetwork]) -> dict[IPInterface, None]:
    """The first host address of each network, as /32 or /128: what `host-local` takes as the pods' gateway."""
    return {ip_interface(n.network_address + min(1, n.num_addresses - 1)): None for n in networks}
