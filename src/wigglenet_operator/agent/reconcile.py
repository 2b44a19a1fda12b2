"""One turn: observe, plan, diff, apply, report."""

from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from wigglenet_operator.agent.store import ClusterStore
from wigglenet_operator.errors import WigglenetError
from wigglenet_operator.kernel.ports import KeyedTable
from wigglenet_operator.model.changes import Changes, diff
from wigglenet_operator.model.config import AgentConfig
from wigglenet_operator.model.facts import ClusterState, HostFacts
from wigglenet_operator.model.report import StepReport, TurnReport
from wigglenet_operator.plan.desired import STEPS, Memory, Plan, plan, settle

Tables = Mapping[str, KeyedTable[Any, Any]]  # each has types of its own; STEPS ties their names to DesiredState
Observed = Mapping[str, Mapping[Any, Any] | WigglenetError]
Steps = dict[str, StepReport]
WAITING = TurnReport(steps={}, problems=frozenset(), waiting=True)


class Reconciler:
    """Brings this node to what the cluster says; nothing is touched before the cluster has been seen completely."""

    def __init__(
        self,
        store: ClusterStore,
        config: AgentConfig,
        tables: Tables,
        *,
        look: Callable[[ClusterState], Awaitable[HostFacts]],
        clock: Callable[[], tuple[float, float]],
    ) -> None:
        """`look` tells of this node, `clock` gives monotonic and Unix time in seconds."""
        self._store, self._config, self._tables = store, config, tables
        self._look, self._clock = look, clock
        self._memory = Memory()

    async def turn(self) -> TurnReport:
        """One turn from start to end on one snapshot; KernelError and ApiError end up in the report."""
        cluster = self._store.snapshot()
        if cluster is None:
            return WAITING
        actual = await self._observe()
        planned = plan(cluster, self._config, await self._look(cluster))
        steps = await self._apply(self._diff(planned, actual))
        return self._report(planned, actual, steps)

    async def _observe(self) -> Observed:
        return {name: await _seen(table) for name, table in self._tables.items()}

    def _diff(self, planned: Plan, actual: Observed) -> Mapping[str, Changes[Any, Any] | WigglenetError]:
        if planned.desired is None:
            return {}
        readable = {name: table for name, table in actual.items() if not isinstance(table, WigglenetError)}
        desired, self._memory = settle(planned.desired, readable, self._memory, times=self._clock())
        return {
            name: table if isinstance(table, WigglenetError) else diff(table, getattr(desired, name))
            for name, table in actual.items()
        }

    async def _apply(self, changes: Mapping[str, Changes[Any, Any] | WigglenetError]) -> Steps:
        done: Steps = {}
        for step in STEPS if changes else ():
            needed = tuple(done) if step.needs == ("*",) else step.needs
            failed = next((name for name in needed if done[name].error), None)
            done[step.table] = (
                StepReport(error=f"waits for {failed}")
                if failed
                else await _step(self._tables[step.table], changes[step.table])
            )
        return done

    def _report(self, planned: Plan, actual: Observed, steps: Steps) -> TurnReport:
        desired, peers = planned.desired, actual["peers"]
        met = 0 if isinstance(peers, WigglenetError) else sum(1 for p in peers.values() if p.handshake)
        mtu = desired.link[self._config.link].mtu if desired else None
        return TurnReport(
            steps=steps,
            problems=planned.problems,
            mtu=mtu,
            peers=len(desired.peers) if desired else 0,
            handshaken=met,
            waiting=desired is None,
        )


async def _seen(table: KeyedTable[Any, Any]) -> Mapping[Any, Any] | WigglenetError:
    try:
        return await table.observe()
    except WigglenetError as error:
        return error


async def _step(table: KeyedTable[Any, Any], changes: Changes[Any, Any] | WigglenetError) -> StepReport:
    if isinstance(changes, WigglenetError):
        return StepReport(error=str(changes))
    if not changes:
        return StepReport()
    try:
        await table.apply(changes)
    except WigglenetError as error:
        return StepReport(error=str(error))
    return StepReport(added=len(changes.add), changed=len(changes.change), removed=len(changes.remove))
