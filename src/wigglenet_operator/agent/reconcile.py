"""One turn: observe, plan, diff, apply, report."""

from collections.abc import Awaitable, Callable, Mapping

from wigglenet_operator.agent.steps import Differences, Observed, Tables, apply, observe
from wigglenet_operator.agent.store import ClusterStore
from wigglenet_operator.errors import WigglenetError
from wigglenet_operator.model.changes import diff
from wigglenet_operator.model.config import AgentConfig
from wigglenet_operator.model.facts import ClusterState, HostFacts
from wigglenet_operator.model.report import StepReport, TurnReport
from wigglenet_operator.plan.desired import Memory, Plan, plan, settle

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
        """One turn on one snapshot; what a table refuses ends up in the report, KernelError if the node cannot be seen."""
        cluster = self._store.snapshot()
        if cluster is None:
            return WAITING
        actual = await observe(self._tables)
        host = await self._look(cluster)
        planned = plan(cluster, self._config, host)
        if planned.desired is None:
            return TurnReport(steps={}, problems=planned.problems, waiting=True)
        differences, memory = self._diff(planned, actual)
        steps = await apply(self._tables, differences)
        self._remember(memory, steps)
        return self._report(planned, host, actual, steps)

    def _diff(self, planned: Plan, actual: Observed) -> tuple[Differences, Memory]:
        assert planned.desired  # noqa: S101 - turn() has looked
        readable = {name: table for name, table in actual.items() if not isinstance(table, WigglenetError)}
        desired, memory = settle(planned.desired, readable, self._memory, times=self._clock())
        differences = {name: diff(table, getattr(desired, name)) for name, table in readable.items()}
        return {**{n: t for n, t in actual.items() if isinstance(t, WigglenetError)}, **differences}, memory

    def _remember(self, memory: Memory, steps: Mapping[str, StepReport]) -> None:
        """What was not written was not yet seen either: the next turn must want it again."""
        old = self._memory
        self._memory = Memory(
            sightings=old.sightings if steps["peers"].failed else memory.sightings,
            orphans=old.orphans if steps["closed"].failed else memory.orphans,
        )

    def _report(self, planned: Plan, host: HostFacts, actual: Observed, steps: Mapping[str, StepReport]) -> TurnReport:
        assert planned.desired  # noqa: S101 - turn() has looked
        wanted, there = planned.desired.peers, actual["peers"]
        known = {} if isinstance(there, WigglenetError) else there
        met = sum(1 for key, peer in known.items() if key in wanted and peer.handshake)
        mtu = planned.desired.link[self._config.link].mtu
        return TurnReport(
            steps=steps,
            problems=planned.problems,
            wireguard=host.wireguard.value,
            mtu=mtu,
            peers=len(wanted),
            handshaken=met,
        )
