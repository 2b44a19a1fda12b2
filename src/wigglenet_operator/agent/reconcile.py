"""One turn: observe, plan, diff, apply, report."""

import time
from collections.abc import Awaitable, Callable, Container, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from wigglenet_operator.agent.steps import Differences, Observed, Tables, apply, failures, observe, withdraw
from wigglenet_operator.agent.store import ClusterStore
from wigglenet_operator.errors import WigglenetError
from wigglenet_operator.model.changes import diff
from wigglenet_operator.model.config import AgentConfig
from wigglenet_operator.model.desired import DesiredState, Route, RouteKey
from wigglenet_operator.model.facts import ClusterState, HostFacts, IPNetwork, NodeFacts, NodeName, PublicKey, WireGuardKind
from wigglenet_operator.model.report import Problem, StepReport, TurnReport
from wigglenet_operator.plan.desired import Memory, Plan, settle
from wigglenet_operator.plan.planner import Planner
from wigglenet_operator.plan.pod_networks import plan_earlier
from wigglenet_operator.plan.repairs import count_repairs, hold_back
from wigglenet_operator.plan.tunnel import seniority

WAITING = TurnReport(steps={}, problems=frozenset(), waiting=True, registered=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Intent:
    """What a turn is about to do."""

    desired: DesiredState
    differences: Differences
    memory: Memory
    """If it succeeds."""
    fought: frozenset[Problem]


class Reconciler:
    """Brings this node to what the cluster says; nothing is touched before the cluster has been seen completely."""

    def __init__(
        self,
        store: ClusterStore,
        config: AgentConfig,
        tables: Tables,
        *,
        look: Callable[[ClusterState], Awaitable[HostFacts]],
        clock: Callable[[], tuple[float, float]] = lambda: (time.monotonic(), time.time()),
    ) -> None:
        """`look` tells of this node, `clock` gives monotonic and Unix time in seconds."""
        self._store, self._config, self._tables = store, config, tables
        self._look, self._clock = look, clock
        self._planner = Planner(config)
        self._memory = Memory()
        self._settled: dict[str, Mapping[Any, Any]] = {}

    async def turn(self) -> TurnReport:
        """One turn on one snapshot; what a table refuses ends up in the report, KernelError if the node cannot be seen."""
        cluster = self._store.snapshot()
        if cluster is None:
            return WAITING
        actual = await observe(self._tables)
        host = await self._look(cluster)
        if not self._memory.networks:
            self._memory = replace(self._memory, networks=plan_earlier(_ours(actual.get("closed", {})), host.foreign_routes))
        planned = self._planner.plan(cluster, host, self._memory.networks)
        if planned.desired is None:
            steps = await withdraw(self._tables, actual)
            return TurnReport(
                steps=steps,
                problems=planned.problems | failures(steps),
                wireguard=_name(host.wireguard),
                waiting=True,
                registered=planned.registered,
            )
        intent = self._diff(planned, host, actual)
        steps = await apply(self._tables, intent.differences)
        repairs = count_repairs(intent.differences, self._settled)
        self._remember(intent, steps)
        report = self._report(planned, host, actual, steps)
        return replace(
            report,
            problems=report.problems | intent.fought,
            names=_names(cluster.nodes, planned.desired.peers),
            pod_networks=sum(len(n.pod_cidrs or n.spec_pod_cidrs) for n in cluster.nodes if not n.departed),
            repairs={name: count for name, count in repairs.items() if steps[name].wrote},
        )

    def _diff(self, planned: Plan, host: HostFacts, actual: Observed) -> _Intent:
        assert planned.desired  # noqa: S101 - turn() has looked
        now, unix_now = self._clock()
        readable = {name: table for name, table in actual.items() if not isinstance(table, WigglenetError)}
        before = replace(self._memory, networks=self._memory.networks | planned.networks)
        times = (now, unix_now)
        timing, tunnelled = self._config.timing, self._config.tunnelled
        desired, memory = settle(planned.desired, readable, before, tunnelled=tunnelled, times=times, timing=timing)
        wanted = {name: diff(table, getattr(desired, name)) for name, table in readable.items()}
        allowed, repairs, fought = hold_back(wanted, memory.repairs, link=host.link_index, now=now, timing=timing)
        unreadable = {n: t for n, t in actual.items() if isinstance(t, WigglenetError)}
        return _Intent(
            desired=desired,
            differences={**unreadable, **allowed},
            memory=replace(memory, repairs=repairs),
            fought=fought,
        )

    def _remember(self, intent: _Intent, steps: Mapping[str, StepReport]) -> None:
        """What was not written was not yet seen either: the next turn must want it again."""
        old, memory = self._memory, intent.memory
        failed = {name for name, step in steps.items() if step.failed}
        self._settled |= {name: getattr(intent.desired, name) for name in steps.keys() - failed}
        before = {ident: repair for ident, repair in old.repairs.items() if ident.table in failed}
        written = {ident: repair for ident, repair in memory.repairs.items() if ident.table not in failed}
        self._memory = Memory(
            networks=memory.networks,
            sightings=old.sightings if "peers" in failed else memory.sightings,
            orphans=old.orphans if "closed" in failed else memory.orphans,
            repairs={**before, **written},
        )

    def _report(self, planned: Plan, host: HostFacts, actual: Observed, steps: Mapping[str, StepReport]) -> TurnReport:
        assert planned.desired  # noqa: S101 - turn() has looked
        wanted, there = planned.desired.peers, actual.get("peers", {})
        known = None if isinstance(there, WigglenetError) else there
        met = sum(1 for key, peer in (known or {}).items() if key in wanted and peer.handshake)
        return TurnReport(
            steps=steps,
            problems=planned.problems | failures(steps),
            wireguard=_name(host.wireguard),
            mtu=next((link.mtu for link in planned.desired.link.values()), None),
            peers=len(wanted),
            handshaken=met,
            contested=planned.contested,
            there=known,
        )


def _ours(closed: Mapping[RouteKey, Route] | WigglenetError) -> Iterator[IPNetwork]:
    if not isinstance(closed, WigglenetError):
        yield from (key.to for key, route in closed.items() if route.ours)


def _names(nodes: Iterable[NodeFacts], wanted: Container[PublicKey]) -> dict[PublicKey, NodeName]:
    """Whose peers these are."""
    holders: dict[PublicKey, NodeFacts] = {}
    for node in nodes:
        key = node.public_key
        if key is not None and key in wanted and (key not in holders or seniority(node) < seniority(holders[key])):
            holders[key] = node
    return {key: node.name for key, node in holders.items()}


def _name(kind: WireGuardKind | None) -> str:
    return kind.value if kind else "none"
