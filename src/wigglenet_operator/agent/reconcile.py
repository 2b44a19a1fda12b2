"""One turn: observe, plan, diff, apply, report."""

import time
from collections.abc import Callable, Container, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, Protocol

from wigglenet_operator.agent.loop import ALL
from wigglenet_operator.agent.steps import Differences, Observed, Tables, apply, failures, observe, withdraw
from wigglenet_operator.agent.store import ClusterStore
from wigglenet_operator.errors import WigglenetError
from wigglenet_operator.kernel.network import HOST
from wigglenet_operator.model.changes import NO_CHANGES, Changes, common_parts, diff, joined, patched
from wigglenet_operator.model.config import AgentConfig
from wigglenet_operator.model.desired import DesiredState, Peer, Route, RouteKey
from wigglenet_operator.model.facts import ClusterState, HostFacts, IPNetwork, NodeFacts, NodeName, PublicKey, WireGuardKind
from wigglenet_operator.model.report import Problem, StepReport, TurnReport
from wigglenet_operator.plan.desired import Memory, Plan, settle
from wigglenet_operator.plan.planner import Planner
from wigglenet_operator.plan.pod_networks import plan_earlier
from wigglenet_operator.plan.repairs import count_repairs, hold_back
from wigglenet_operator.plan.tunnel import seniority

ACKNOWLEDGED = frozenset({"closed", "routes"})
"""Large state tables that the kernel acknowledges entry by entry, and whose foreign changes are events: not read back."""
PUBLISHED = frozenset({"annotations"})
"""State tables that cost nothing to read."""
WAITING = TurnReport(steps={}, problems=frozenset(), waiting=True, registered=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Intent:
    """What a turn is about to do."""

    desired: DesiredState
    differences: Differences
    memory: Memory
    """If it succeeds."""
    fought: frozenset[Problem]
    whole: Differences
    """The differences before any were put off."""


class Look(Protocol):
    """How the host facts are collected."""

    async def __call__(self, cluster: ClusterState, *, resync: bool) -> HostFacts:
        """What the plan must know of this node; read anew where events would have said so, with `resync` all of it."""
        ...


class Reconciler:
    """Brings this node to what the cluster says; nothing is touched before the cluster has been seen completely.

    A pass reads only the state tables that may have changed. What it does not read is as it was when it was read last.
    """

    def __init__(
        self,
        store: ClusterStore,
        config: AgentConfig,
        tables: Tables,
        *,
        look: Look,
        clock: Callable[[], tuple[float, float]] = lambda: (time.monotonic(), time.time()),
    ) -> None:
        """`look` tells of this node, `clock` gives monotonic and Unix time in seconds."""
        self._store, self._config, self._tables = store, config, tables
        self._look, self._clock = look, clock
        self._planner = Planner(config)
        self._memory = Memory()
        self._settled: dict[str, Mapping[Any, Any]] = {}
        self._stale = ALL
        """What the next pass must read, whoever asks for it."""
        self._observed: dict[str, Mapping[Any, Any] | WigglenetError] = {}
        self._read: dict[str, Mapping[Any, Any] | WigglenetError] = {}
        """What was read last, if nothing was written since: state tables return the same object for the same content."""
        self._facts: tuple[ClusterState, HostFacts] | None = None
        self._desired: DesiredState | None = None
        """Of the last pass, in the light of what was there."""
        self._planned: DesiredState | None = None
        self._inputs: list[object] = []
        """What the last settled tables follow from."""
        self._equal: dict[tuple[str, str], tuple[object, object]] = {}
        """By state table and part: what was observed and desired, if there was no difference in the last pass."""
        self._met: tuple[Mapping[PublicKey, Peer] | None, Mapping[PublicKey, Peer], int] = None, {}, 0
        """Observed and desired peers, and the number of those that have shaken hands."""
        self._named: tuple[ClusterState, Mapping[PublicKey, Peer], Mapping[PublicKey, NodeName], int] | None = None

    async def turn(self, stale: frozenset[str] = ALL) -> TurnReport:
        """One pass on one snapshot, after the state tables of the given names may have changed.

        What a table refuses ends up in the report, KernelError if the node cannot be seen.
        """
        stale, self._stale = self._stale | stale, ALL  # should this pass come to nothing
        cluster = self._store.snapshot()
        if cluster is None:
            return WAITING
        fresh = await self._observe(stale)
        actual = dict(self._observed)
        host = await self._collect(cluster, stale)
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
        intent = self._diff(planned, host, fresh)
        steps = await apply(self._tables, intent.differences)
        repairs = count_repairs(intent.differences, self._settled)
        self._remember(intent, steps)
        report = self._report(planned, host, actual, steps)
        names, networks = self._names_of(cluster, planned.desired.peers)
        return replace(
            report,
            problems=report.problems | intent.fought,
            names=names,
            pod_networks=networks,
            repairs={name: count for name, count in repairs.items() if steps[name].wrote},
        )

    async def _observe(self, stale: frozenset[str]) -> frozenset[str]:
        """Read those state tables anew, and what could not be read before; the names of what was read."""
        known = self._observed
        unread = {name for name in self._tables if isinstance(known.get(name), WigglenetError)}
        names = frozenset(self._tables) if stale >= ALL else frozenset(self._tables) & (stale | unread | PUBLISHED)
        for name, found in (await observe(self._tables, [name for name in self._tables if name in names])).items():
            if found is self._read.get(name):
                continue
            self._read[name] = found
            if name == "peers" or isinstance(found, WigglenetError) or known.get(name) != found:  # counters are no difference
                known[name] = found
        return names

    async def _collect(self, cluster: ClusterState, stale: frozenset[str]) -> HostFacts:
        """The host facts, the same object as before if they are equal."""
        everything = stale >= ALL
        if self._facts and self._facts[0] is cluster and not everything and HOST not in stale:
            return self._facts[1]
        found = await self._look(cluster, resync=everything)
        if self._facts and self._facts[1] == found:
            found = self._facts[1]
        self._facts = cluster, found
        return found

    def _diff(self, planned: Plan, host: HostFacts, fresh: frozenset[str]) -> _Intent:
        assert planned.desired  # noqa: S101 - turn() has looked
        now, unix_now = self._clock()
        readable = {name: table for name, table in self._observed.items() if not isinstance(table, WigglenetError)}
        before = replace(self._memory, networks=self._memory.networks | planned.networks)
        timing = self._config.timing
        desired, memory = self._settle(planned.desired, readable, before, (now, unix_now), fresh)
        wanted = {name: self._difference(name, table, getattr(desired, name)) for name, table in readable.items()}
        allowed, repairs, fought = hold_back(
            wanted, memory.repairs, self._settled, link=host.link_index, now=now, timing=timing
        )
        unreadable = {n: t for n, t in self._observed.items() if isinstance(t, WigglenetError)}
        return _Intent(
            desired=desired,
            differences={**unreadable, **allowed},
            memory=replace(memory, repairs=repairs),
            fought=fought,
            whole=wanted,
        )

    def _settle(
        self,
        planned: DesiredState,
        readable: Mapping[str, Mapping[Any, Any]],
        memory: Memory,
        times: tuple[float, float],
        fresh: frozenset[str],
    ) -> tuple[DesiredState, Memory]:
        """The desired state in the light of what is there; the same tables as before if nothing has changed for them."""
        config, last = self._config, self._desired
        inputs = [planned.peers, planned.closed, planned.sysctls, readable.get("closed"), readable.get("sysctls")]
        same = len(self._inputs) == len(inputs) and all(a is b for a, b in zip(self._inputs, inputs, strict=True))
        if last and same and "peers" not in fresh and not memory.orphans:  # orphans go by time
            return replace(planned, peers=last.peers, closed=last.closed, sysctls=last.sysctls), memory
        before, peers = self._planned, planned.peers
        if last and before and "peers" not in fresh:  # what was read last has been judged, but for what is wanted else now
            peers = {key: peer for key, peer in planned.peers.items() if before.peers.get(key) is not peer}
        desired, after = settle(
            *(replace(planned, peers=peers), readable, memory),
            tunnelled=config.tunnelled,
            times=times,
            timing=config.timing,
        )
        if last and before and peers is not planned.peers:
            settled = {key: desired.peers.get(key) or last.peers[key] for key in planned.peers}
            sightings = {k: s for k, s in memory.sightings.items() if k in planned.peers}
            desired, after = replace(desired, peers=settled), replace(after, sightings={**sightings, **after.sightings})
        self._inputs, self._planned = inputs, planned
        return desired, after

    def _difference(self, name: str, actual: Mapping[Any, Any], desired: Mapping[Any, Any]) -> Changes[Any, Any]:
        """The difference of one state table, part by part.

        A part that had no difference in the last pass is not compared again while both of its objects are the same.
        """
        return joined(self._difference_of_part((name, part), *both) for part, *both in common_parts(actual, desired))

    def _difference_of_part(
        self, part: tuple[str, str], actual: Mapping[Any, Any], desired: Mapping[Any, Any]
    ) -> Changes[Any, Any]:
        same = self._equal.get(part)
        if same and same[0] is actual and same[1] is desired:
            return NO_CHANGES
        changes = diff(actual, desired)
        if changes:
            self._equal.pop(part, None)
        else:
            self._equal[part] = actual, desired
        return changes

    def _names_of(self, cluster: ClusterState, peers: Mapping[PublicKey, Peer]) -> tuple[Mapping[PublicKey, NodeName], int]:
        """Whose peers these are, and the number of pod networks that the cluster announces."""
        if not self._named or self._named[0] is not cluster or self._named[1] is not peers:
            networks = sum(len(n.pod_cidrs or n.spec_pod_cidrs) for n in cluster.nodes if not n.departed)
            self._named = cluster, peers, _names(cluster.nodes, peers), networks
        return self._named[2], self._named[3]

    def _remember(self, intent: _Intent, steps: Mapping[str, StepReport]) -> None:
        """What was not written was not yet seen either: the next turn must want it again."""
        old, memory = self._memory, intent.memory
        self._desired = intent.desired
        stale: set[str] = set()
        for name, step in steps.items():
            changes, there = intent.differences[name], self._observed[name]
            acknowledged = step.wrote and not step.failed and name in ACKNOWLEDGED
            if acknowledged and isinstance(changes, Changes) and not isinstance(there, WigglenetError):
                everything = intent.whole[name] is changes
                self._observed[name] = getattr(intent.desired, name) if everything else patched(there, changes)
                self._read.pop(name, None)
            elif step.failed or step.wrote or step.pending:  # a write is read back
                stale.add(name)
        self._stale = frozenset(stale)
        failed = {name for name, step in steps.items() if step.failed or step.pending}
        self._settled |= {name: getattr(intent.desired, name) for name in steps.keys() - failed}
        repairs = memory.repairs
        if failed:
            before = {ident: repair for ident, repair in old.repairs.items() if ident.table in failed}
            written = {ident: repair for ident, repair in memory.repairs.items() if ident.table not in failed}
            repairs = {**before, **written}
        self._memory = Memory(
            networks=memory.networks,
            sightings=old.sightings if "peers" in failed else memory.sightings,
            orphans=old.orphans if "closed" in failed else memory.orphans,
            repairs=repairs,
        )

    def _report(self, planned: Plan, host: HostFacts, actual: Observed, steps: Mapping[str, StepReport]) -> TurnReport:
        assert planned.desired  # noqa: S101 - turn() has looked
        wanted, there = planned.desired.peers, actual.get("peers", {})
        known = None if isinstance(there, WigglenetError) else there
        if known is not self._met[0] or wanted is not self._met[1]:
            self._met = known, wanted, sum(1 for key, peer in (known or {}).items() if key in wanted and peer.handshake)
        return TurnReport(
            steps=steps,
            problems=planned.problems | failures(steps),
            wireguard=_name(host.wireguard),
            mtu=next((link.mtu for link in planned.desired.link.values()), None),
            peers=len(wanted),
            handshaken=self._met[2],
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
