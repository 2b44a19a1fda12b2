"""The whole plan: cluster, configuration and host facts in, one DesiredState and everything that is wrong out."""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from itertools import chain
from typing import Any

from wigglenet_operator.model.config import AgentConfig
from wigglenet_operator.model.desired import DesiredState, Device, Link, RouteKey
from wigglenet_operator.model.facts import ClusterState, HostFacts, IPNetwork, NodeFacts, PublicKey
from wigglenet_operator.model.report import Problem
from wigglenet_operator.plan.claims import plan_ownership
from wigglenet_operator.plan.cni import render_conflist
from wigglenet_operator.plan.pod_networks import collapsed, plan_gateways, plan_own_networks, plan_remote_networks
from wigglenet_operator.plan.routes import keep_closed, plan_closed_routes, plan_tunnel_routes
from wigglenet_operator.plan.tunnel import Sighting, plan_members, plan_mtu, plan_peers, settle_endpoints

PUBLIC_KEY = "wigglenet/public-key"
NODE_IPS = "wigglenet/node-ips"
POD_CIDRS = "wigglenet/pod-cidrs"
STATUS = "wigglenet/status"
IDENTITY = frozenset({PUBLIC_KEY, NODE_IPS, POD_CIDRS})
"""The annotations that are reconciled; others with our prefix are an administrator's."""


@dataclass(frozen=True, slots=True)
class Step:
    """One table of the desired state, applied when the steps that it needs have not failed."""

    table: str
    needs: tuple[str, ...]
    reason: str


STEPS = (
    Step("closed", (), "before anything is routed: what the tunnel does not take must not leave in clear"),
    Step("device", (), "key and port first, so that the link listens with the key that is published"),
    Step("link", ("device",), "up with the right MTU before an address or route lies on it"),
    Step("sysctls", ("link",), "this node is its pods' router; rp_filter belongs to a link that exists"),
    Step("addresses", ("link",), "the kernel takes the source of the node's own packets to pods from them"),
    Step("annotations", ("device",), "others may send as soon as they read them; not before we listen"),
    Step("peers", ("device",), "before the routes: a packet that finds a route and no peer is lost"),
    Step("routes", ("closed", "link"), "each one moves pod traffic, so its peer is there and its closed twin as well"),
    Step("cni", ("*",), "last: the kubelet starts pods as soon as it is there"),
)
"""The order of application: a failed step stops only what needs it; `*` needs everything before it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What should be, or None while there is too little to say so (then nothing may be touched), and what is wrong."""

    desired: DesiredState | None
    problems: frozenset[Problem]


def plan(cluster: ClusterState, config: AgentConfig, host: HostFacts) -> Plan:
    """Total: any cluster gives a plan, a bad Node costs that Node only."""
    decoded = frozenset(chain.from_iterable(n.problems for n in cluster.nodes))
    own = _own_node(cluster, config)
    if own is None:
        text = "this agent's own Node is not there; everything stays as it is until it is"
        return Plan(desired=None, problems=decoded | {Problem(subject=f"node {config.node_name}", text=text)})
    ownership = plan_ownership(cluster, api_server=config.api_server)
    members = plan_members(cluster, own, own_key=host.public_key)
    peers, unreachable = plan_peers(members.by_key, own, ownership, port=config.port)
    mtu, mtu_problems = plan_mtu(config, host, peers.values())
    networks = plan_own_networks(own, ownership)
    remote = {key: plan_remote_networks(node, ownership) for key, node in members.by_key.items()}
    routed = chain.from_iterable(remote[key] for key in peers)
    problems = decoded | ownership.problems | members.problems | unreachable | mtu_problems
    desired = DesiredState(
        sysctls=plan_sysctls(config),
        closed=plan_closed_routes(chain(networks, *remote.values())),
        device={config.link: Device(public_key=host.public_key, port=config.port)},
        link={config.link: Link(mtu=mtu)},
        addresses=plan_gateways(networks),
        annotations=plan_annotations(host, networks),
        peers=peers,
        routes=plan_tunnel_routes(routed),
        cni={str(config.cni_path): render_conflist(networks, mtu=mtu)} if networks else {},
    )
    return Plan(desired=desired, problems=problems | _waiting(own, networks))


def plan_sysctls(config: AgentConfig) -> dict[str, str]:
    """What a router of pods needs, by path below /proc/sys (kernel: Documentation/networking/ip-sysctl.rst)."""
    loose = "2"  # strict would drop what comes by the tunnel with a node's source address
    rp_filter = f"net/ipv4/conf/{config.link}/rp_filter"
    return {"net/ipv4/ip_forward": "1", "net/ipv6/conf/all/forwarding": "1", rp_filter: loose}


def plan_annotations(host: HostFacts, networks: Iterable[IPNetwork]) -> dict[str, str]:
    """What the other nodes must know of this one, compact JSON."""
    return {
        PUBLIC_KEY: host.public_key,
        NODE_IPS: "[]",
        POD_CIDRS: json.dumps([str(n) for n in collapsed(networks)], separators=(",", ":")),
    }


def _own_node(cluster: ClusterState, config: AgentConfig) -> NodeFacts | None:
    """The youngest Node of our name: one that was deleted and registered anew may be seen beside its successor."""
    named = (n for n in cluster.nodes if n.name == config.node_name)
    return max(named, key=lambda n: (n.created, n.uid), default=None)


def _waiting(own: NodeFacts, networks: Iterable[IPNetwork]) -> frozenset[Problem]:
    if tuple(networks):
        return frozenset()
    text = "it has no pod network; the CNI file waits until the control plane sets spec.podCIDRs (--allocate-node-cidrs)"
    return frozenset({Problem(subject=f"node {own.name}", text=text)})


@dataclass(frozen=True, slots=True, kw_only=True)
class Memory:
    """What no kernel can tell a turn: when something was seen for the first time. Losing it costs time, nothing else."""

    sightings: Mapping[PublicKey, Sighting] = field(default_factory=dict)
    orphans: Mapping[RouteKey, float] = field(default_factory=dict)


def settle(
    desired: DesiredState, actual: Mapping[str, Mapping[Any, Any]], memory: Memory, *, times: tuple[float, float]
) -> tuple[DesiredState, Memory]:
    """The desired state in the light of what is there: roaming peers keep their endpoint, closed routes linger.

    `actual` has the tables that could be read; `times` are monotonic and Unix seconds.
    """
    now, unix_now = times
    peers, sightings = settle_endpoints(desired.peers, actual.get("peers", {}), memory.sightings, now=now, unix_now=unix_now)
    closed, orphans = keep_closed(desired.closed, actual.get("closed", {}), memory.orphans, now=now)
    return replace(desired, peers=peers, closed=closed), Memory(sightings=sightings, orphans=orphans)
