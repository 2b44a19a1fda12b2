"""A plan like the last one but for a few Nodes: they are exchanged in it, the others are not looked at again.

A Node that has nothing to do with any other - nobody else says its name, UID or key, or claims one of its addresses - adds to
the whole plan what it adds to a small one, for this node and itself alone.  So the whole plan changes by the difference
between two small ones: for those that were, and for those that are.  All else is planned anew: the first time, after a change
of this node or its own Node, and after one of Nodes that have, or had, to do with others.
"""

from collections.abc import Collection, Iterable
from dataclasses import dataclass, fields, replace

from wigglenet_operator.model.changes import diff, patched
from wigglenet_operator.model.config import AgentConfig
from wigglenet_operator.model.desired import DesiredState
from wigglenet_operator.model.facts import ClusterState, HostFacts, IPNetwork, NodeFacts
from wigglenet_operator.plan.claims import Ownership, claims
from wigglenet_operator.plan.desired import Draft, Plan, finish, plan_draft

FEW = 16
"""Nodes that are exchanged at most, so that it takes a few milliseconds."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Last:
    cluster: ClusterState
    host: HostFacts
    earlier: frozenset[IPNetwork]
    draft: Draft


class Planner:
    """Plans as `plan()` does, and remembers the last draft to be faster the next time."""

    def __init__(self, config: AgentConfig) -> None:
        self._config = config
        self._last: _Last | None = None

    def plan(self, cluster: ClusterState, host: HostFacts, earlier: Collection[IPNetwork] = ()) -> Plan:
        """Equal to `plan(cluster, config, host, earlier)`."""
        here, known = replace(host, path_mtus={}), frozenset(earlier)  # only the MTU is by the paths
        draft = self._exchanged(cluster, here, known) or plan_draft(cluster, self._config, here, known)
        self._last = _Last(cluster=cluster, host=here, earlier=known, draft=draft)
        return finish(draft, self._config, host)

    def _exchanged(self, cluster: ClusterState, host: HostFacts, earlier: frozenset[IPNetwork]) -> Draft | None:
        """The last draft with those Nodes in it that are other ones now; None if it must be made anew."""
        last = self._last
        if last is None or (last.host, last.earlier, last.cluster.services) != (host, earlier, cluster.services):
            return None
        were, are = _planned(last.cluster.nodes - cluster.nodes), _planned(cluster.nodes - last.cluster.nodes)
        gone, came = were - are, are - were
        if not gone | came:
            return last.draft
        rest = _planned(cluster.nodes) - came
        own = {node for node in rest if node.name == self._config.node_name}
        ownership = last.draft.ownership
        if not own or ownership is None or any(node.uid in ownership.refused for node in own):
            return None
        if len(gone | came) > FEW or not _apart(gone | came, rest, ownership):
            return None
        before, after = (
            plan_draft(ClusterState(nodes=few | own, services=cluster.services), self._config, host, earlier)
            for few in (gone, came)
        )
        return _patched(last.draft, before, after)


def _planned(nodes: Iterable[NodeFacts]) -> frozenset[NodeFacts]:
    """The Nodes with what a plan knows of: the own Node's annotations and condition are for their adapters."""
    return frozenset(
        replace(node, annotations=(), network_unavailable=None) if node.annotations or node.network_unavailable else node
        for node in nodes
    )


def _apart(few: Collection[NodeFacts], rest: Iterable[NodeFacts], ownership: Ownership) -> bool:
    """Whether these Nodes have nothing to do with the others; one with an endpoint of its own may."""
    if any(node.endpoint for node in few) or not _words(few).isdisjoint(_words(rest)) or not ownership.apart(few):
        return False
    endpoints = [(node.endpoint[0].version, int(node.endpoint[0])) for node in rest if node.endpoint]
    return not any(c.family == family and c.first <= at <= c.last for c, _ in claims(few) for family, at in endpoints)


def _words(nodes: Iterable[NodeFacts]) -> set[str]:
    return {word for node in nodes for word in (node.name, node.uid, node.public_key) if word}


def _patched(whole: Draft, before: Draft, after: Draft) -> Draft:
    """The whole without the one part and with the other."""
    assert whole.ownership and before.ownership and after.ownership  # noqa: S101, PT018 - this node is the same in all
    tables = {}
    for field in fields(DesiredState):
        changes = diff(getattr(before.plan.desired, field.name), getattr(after.plan.desired, field.name))
        table = getattr(whole.plan.desired, field.name)
        tables[field.name] = patched(table, changes) if changes else table
    plan = replace(
        whole.plan,
        desired=DesiredState(**tables),
        problems=(whole.plan.problems - before.plan.problems) | after.plan.problems,
        contested=(whole.plan.contested - before.plan.contested) | after.plan.contested,
    )
    return replace(whole, plan=plan, ownership=whole.ownership.exchanged(before.ownership, after.ownership))
