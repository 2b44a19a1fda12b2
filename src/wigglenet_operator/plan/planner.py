"""The plan in stages, each of which remembers its last answer: a change costs what it changes.

    Nodes, Services -> ownership -> a share of each Node -> peers, routes, sets of the firewall
    pods, files, links of this node -----------------------> all else

What a Node adds to the plan of this node, its share, follows from the Node, from what is refused to it, from whether it holds
its key, and from what is the same for all Nodes. A Node that comes, changes or goes is exchanged in the tables. A pod that
starts or stops changes no share. A table without a change is the same object as in the plan before.
"""

from collections.abc import Callable, Collection, Hashable, Iterable, Mapping
from dataclasses import dataclass, field, fields, replace
from itertools import chain
from typing import Any, Generic, TypeVar

from wigglenet_operator.model.changes import Changes, Parts, patched
from wigglenet_operator.model.config import AgentConfig
from wigglenet_operator.model.desired import DesiredState, Device, Link, Peer, Route, RouteKey
from wigglenet_operator.model.facts import ClusterState, HostFacts, IPNetwork, NodeFacts, NodeName, PublicKey
from wigglenet_operator.model.problems import Code
from wigglenet_operator.model.report import Problem
from wigglenet_operator.model.ruleset import Content, Item, part_of
from wigglenet_operator.plan.claims import NAME_SHOWN, Ownership, plan_ownership
from wigglenet_operator.plan.cni import render_conflist
from wigglenet_operator.plan.desired import (
    AGENT_FIELDS,
    Plan,
    known_by_name,
    missing_links,
    outranked,
    plan_annotations,
    plan_sysctls,
    replaced_key,
    unfit_for_pods,
)
from wigglenet_operator.plan.firewall import (
    asked_sets,
    lengths_of,
    plan_dropped,
    plan_elements,
    plan_local_zones,
    plan_node_zones,
    plan_rules,
    whole_table,
)
from wigglenet_operator.plan.pod_networks import OwnNetworks, collapsed, plan_gateways, plan_node_networks, plan_sources
from wigglenet_operator.plan.routes import plan_bypassed, plan_closed_routes, plan_tunnel_routes, ranges
from wigglenet_operator.plan.tunnel import Families, plan_families, plan_mtu, plan_peers, plan_wireguard, seniority

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")
NOTHING: Mapping[Any, Any] = {}


def plan(cluster: ClusterState, config: AgentConfig, host: HostFacts, earlier: Collection[IPNetwork] = ()) -> Plan:
    """Total: any cluster gives a plan, a bad Node costs that Node only. `earlier`: own networks of plans before."""
    return Planner(config).plan(cluster, host, earlier)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Common:
    """What the share of each Node depends on beside the Node."""

    own_key: PublicKey | None
    versions: frozenset[int]
    families: Families
    lengths: Mapping[int, int]
    asked: frozenset[str]
    """Names of the firewall's sets that rules refer to."""
    services: frozenset[IPNetwork]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Share:
    """What one Node adds."""

    peers: Mapping[PublicKey, Peer] = field(default_factory=dict)
    closed: Mapping[RouteKey, Route] = field(default_factory=dict)
    routes: Mapping[RouteKey, Route] = field(default_factory=dict)
    firewall: Mapping[Item, Content] = field(default_factory=dict)
    problems: Mapping[Problem, None] = field(default_factory=dict)
    contested: Mapping[Problem, None] = field(default_factory=dict)
    """Those of the problems that end with another Node."""


class _Sum(Generic[K, V]):
    """The entries of all shares in one state table; two shares may have an entry in common."""

    def __init__(self, part_of: Callable[[K], str] | None = None) -> None:
        self._more: dict[K, int] = {}
        """In how many further shares an entry is."""
        self.value: Mapping[K, V] = Parts({}, part_of) if part_of else {}
        """The same object until something changes."""

    def exchange(self, gone: Iterable[Mapping[K, V]], came: Iterable[Mapping[K, V]]) -> None:
        out = [entry for share in gone for entry in share.items()]
        entering = [entry for share in came for entry in share.items()]
        if out == entering:
            return
        put: dict[K, V] = {}
        remove: dict[K, V] = {}
        for key, value in out:
            if more := self._more.pop(key, 0):
                if more > 1:
                    self._more[key] = more - 1
            else:
                remove[key] = value
        for key, value in entering:
            if key in put or (key in self.value and key not in remove):
                self._more[key] = self._more.get(key, 0) + 1
            remove.pop(key, None)
            put[key] = value
        self.value = patched(self.value, Changes(add=put, change={}, was={}, remove=remove))


class Planner:
    """Plans for one node, again and again."""

    def __init__(self, config: AgentConfig) -> None:
        self._config = config
        self._cluster: ClusterState | None = None
        self._known: dict[NodeName, NodeFacts] = {}
        self._forget()
        self._values: dict[str, object] = {}
        """The last value of each stage that is cheap, so that an equal one is the same object."""
        self._results: dict[str, tuple[tuple[object, ...], object]] = {}
        """Inputs and last result of each other stage."""

    def _forget(self) -> None:
        """All that follows from Nodes is to be planned anew."""
        self._common: _Common | None = None
        self._ownership = Ownership()
        self._nodes: dict[NodeName, NodeFacts] = {}
        self._planned: tuple[Mapping[NodeName, NodeFacts], NodeFacts] | None = None
        self._shares: dict[NodeName, _Share] = {}
        self._by_key: dict[PublicKey, dict[NodeName, NodeFacts]] = {}
        self._sums: dict[str, _Sum[Any, Any]] = {f.name: _Sum() for f in fields(_Share)}
        self._sums["firewall"] = _Sum(part_of)

    def plan(self, cluster: ClusterState, host: HostFacts, earlier: Collection[IPNetwork] = ()) -> Plan:
        """The plan for this cluster and these host facts, whatever was planned before."""
        config = self._config
        if cluster is not self._cluster:
            self._cluster, self._known = cluster, known_by_name(cluster)
        found = self._known.get(config.node_name)
        if found is None or found.departed:
            text = "this agent's own Node is not there; everything stays as it is until it is, but no pod starts"
            problem = Problem(code=Code.OwnNodeMissing, subject=f"node {config.node_name}", text=text)
            return Plan(desired=None, problems=self._decoded() | {problem}, registered=False)
        sourced = plan_sources(found, config, host, earlier)
        first = not (found.pod_cidrs or config.firewall_only)
        if not sourced.all or (first and sourced.problems):  # half a configuration is none
            return Plan(desired=None, problems=self._decoded() | sourced.problems)
        own = self._same("own", _as_this_agent_says(found, sourced, host))
        self._plan_shares(cluster, own, host)
        return self._whole(own, sourced, host)

    def _decoded(self) -> frozenset[Problem]:
        return frozenset(chain.from_iterable(n.problems for n in self._known.values() if not n.departed))

    def _plan_shares(self, cluster: ClusterState, own: NodeFacts, host: HostFacts) -> None:
        """Bring the shares, and the sums of them, to these Nodes."""
        if self._common is None or self._common.services != cluster.services:
            self._forget()
            self._ownership = plan_ownership((), api_server=self._config.api_server, services=cluster.services)
        stale: set[NodeName] = set()
        if self._planned is None or self._planned[0] is not self._known or self._planned[1] is not own:
            stale = self._exchange_nodes({**self._known, own.name: own}, own)
            self._planned = self._known, own
        common = self._plan_common(own, host, cluster.services)
        if common != self._common:
            self._common = common
            stale = {*self._shares.keys(), *self._nodes.keys()}
        names = sorted(stale)
        gone = [self._shares.pop(name) for name in names if name in self._shares]
        came = {name: self._share(self._nodes[name], common) for name in names if name in self._nodes}
        self._shares |= came
        for name, total in self._sums.items():
            total.exchange([getattr(share, name) for share in gone], [getattr(share, name) for share in came.values()])

    def _exchange_nodes(self, nodes: dict[NodeName, NodeFacts], own: NodeFacts) -> set[NodeName]:
        """Plan for these Nodes from here on; the names of those whose share may be another one now."""
        before = self._nodes
        gone = {name: node for name, node in before.items() if nodes.get(name) is not node and nodes.get(name) != node}
        came = {name: node for name, node in nodes.items() if name in gone or name not in before}
        self._nodes = {name: node if name in came else before[name] for name, node in nodes.items()}
        if not gone and not came:
            return set()
        refused = self._ownership.exchange(gone.values(), came.values())
        stale = {*gone, *came} | self._exchange_keys(gone, came, own)
        return stale | {name for name, node in nodes.items() if node.uid in refused or node.endpoint}

    def _plan_common(self, own: NodeFacts, host: HostFacts, services: frozenset[IPNetwork]) -> _Common:
        lengths = lengths_of(plan_node_networks(own, self._ownership))
        return _Common(
            own_key=host.public_key,
            versions=host.versions,
            families=plan_families(own, self._ownership, allowed=self._config.endpoint_versions),
            lengths=lengths,
            asked=asked_sets(self._config, lengths),
            services=services,
        )

    def _exchange_keys(
        self, gone: Mapping[NodeName, NodeFacts], came: Mapping[NodeName, NodeFacts], own: NodeFacts
    ) -> set[NodeName]:
        """Record who says to have which key; the names of all that have a say in one that changed."""
        touched: set[PublicKey] = set()
        for name, node in gone.items():
            if node.public_key and name != own.name:
                holders = self._by_key[node.public_key]
                del holders[name]
                if not holders:
                    del self._by_key[node.public_key]
                touched.add(node.public_key)
        for name, node in came.items():
            if node.public_key and name != own.name:
                self._by_key.setdefault(node.public_key, {})[name] = node
                touched.add(node.public_key)
        return {name for key in touched for name in self._by_key.get(key, ())}

    def _share(self, node: NodeFacts, common: _Common) -> _Share:
        config, ownership = self._config, self._ownership
        announced = plan_node_networks(node, ownership)
        firewall = plan_elements(plan_node_zones(node, ownership, common.families), common.lengths, common.asked)
        problems = dict.fromkeys(() if node.departed else node.problems)
        if config.firewall_only:
            return _Share(firewall=firewall, problems=problems)
        tunnelled = config.tunnelled & common.versions if common.own_key else frozenset()
        closed = plan_closed_routes(n for n in announced if n.version in tunnelled)
        share = _Share(firewall=firewall, problems=problems, closed=closed)
        key, own = node.public_key, self._nodes[config.node_name]
        if node is own or key is None:
            return share
        holder = own if key == common.own_key else min(self._by_key[key].values(), key=seniority)
        if holder is not node:
            contested = {} if node.departed else {_repeated(node, holder): None}
            return replace(share, problems={**problems, **contested}, contested=contested)
        peers, unreachable = plan_peers({key: node}, {node.name: announced}, ownership, common.families, config)
        problems |= dict.fromkeys(unreachable)
        if not common.own_key:
            return replace(share, problems=problems)
        routes = plan_tunnel_routes(n for n in announced if peers and n.version in tunnelled)
        return replace(share, problems=problems, peers=peers, routes=routes)

    def _whole(self, own: NodeFacts, sourced: OwnNetworks, host: HostFacts) -> Plan:
        config, ownership = self._config, self._ownership
        assert self._common  # noqa: S101 - the shares are planned
        sums = {name: total.value for name, total in self._sums.items()}
        networks = plan_node_networks(own, ownership)
        contested = ownership.problems | sums["contested"].keys()
        problems = ownership.problems | sums["problems"].keys() | plan_dropped(host.dropping_chains, networks)
        zones = self._same("zones", plan_local_zones(own, ownership, host.foreign_routes))
        rules = self._once("rules", plan_rules, config, zones, self._common.lengths)
        firewall = self._once("firewall", whole_table, rules, sums["firewall"])
        if config.firewall_only:
            return Plan(desired=DesiredState(firewall=firewall), problems=problems, contested=frozenset(contested))
        unfit = unfit_for_pods(own, sourced, ownership, host) | sourced.problems
        starting = () if unfit else collapsed(ownership.pod_networks(own.uid, sourced.new))
        (mtu, too_small) = self._once("mtu", plan_mtu, config, host.path_mtus, host.default_mtu, sums["peers"])
        tables: dict[str, Mapping[Any, Any]] = {
            "sysctls": plan_sysctls(config, host.versions),
            "annotations": plan_annotations(host.public_key, ownership.addresses(own.uid, own.node_ips), networks),
            "cni": {str(config.cni_path): render_conflist(starting, mtu=mtu)} if starting else {},
        }
        if host.public_key is not None:
            tunnelled = config.tunnelled & host.versions
            tables |= {
                "key": {str(config.key_path): host.stored_key or host.public_key},
                "device": {config.link: Device(public_key=host.public_key, port=config.port)},
                "link": {config.link: Link(mtu=mtu)},
                "addresses": plan_gateways(n for n in {*networks, *starting} if n.version in tunnelled),
            }
        shared = {"firewall": firewall, **{name: sums[name] for name in ("closed", "peers", "routes")}}
        own_tables = [f.name for f in fields(DesiredState) if f.name not in shared]
        tables = {name: self._same(name, tables.get(name, NOTHING)) for name in own_tables}
        desired = DesiredState(**tables, **shared)
        ours = self._once("ranges", ranges, desired.routes)
        problems |= self._once("bypassed", plan_bypassed, host.foreign_routes, ours)
        problems |= too_small | unfit | missing_links(host) | plan_wireguard(config, host)
        problems |= outranked(config, host) | replaced_key(config, host)
        return Plan(
            desired=desired,
            problems=problems,
            contested=frozenset(contested),
            networks=ownership.pod_networks(own.uid, own.pod_cidrs),
        )

    def _same(self, name: str, value: V) -> V:
        """The last value of that name if it is equal, so that what follows from it is not planned again."""
        if self._values.get(name) != value:
            self._values[name] = value
        same: Any = self._values[name]
        known: V = same
        return known

    def _once(self, name: str, work: Callable[..., V], *inputs: object) -> V:
        """The result of `work`, which is not called again for the same objects."""
        last: Any = self._results.get(name)
        if last is None or any(a is not b for a, b in zip(last[0], inputs, strict=True)):
            last = self._results[name] = inputs, work(*inputs)
        result: V = last[1]
        return result


def _as_this_agent_says(own: NodeFacts, sourced: OwnNetworks, host: HostFacts) -> NodeFacts:
    """The own Node with what its annotations are about to be: what it is given counts, not what somebody wrote there."""
    said = own.inherited - set(AGENT_FIELDS)
    return replace(
        own,
        public_key=host.public_key,
        pod_cidrs=sourced.all,
        node_ips=host.node_ips,
        inherited=said,
        annotations=(),
        network_unavailable=None,
    )


def _repeated(node: NodeFacts, holder: NodeFacts) -> Problem:
    """Of several Nodes with one key only one has it."""
    text = f"its public key is that of node {holder.name[:NAME_SHOWN]}; remove the key file of one and restart its agent"
    return Problem(code=Code.KeyRepeated, subject=f"node {node.name}", text=text)
