"""What a plan costs, beside its floor: the same tables built anew from values that are ready.

CPU time, for it can be had on a machine that does other things too; the wall clock's median is beside it.  A ratio is the
median of the pairs', its spread their smallest and largest.
"""

import gc
import math
import statistics
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import fields, replace
from ipaddress import ip_network

from tests.builders import config, host, numbered
from wigglenet_operator.agent.run import COLLECTION
from wigglenet_operator.agent.store import ClusterStore
from wigglenet_operator.model.changes import diff
from wigglenet_operator.model.desired import DesiredState
from wigglenet_operator.model.facts import ClusterState, ForeignRoute, HostFacts, NodeFacts, host_network
from wigglenet_operator.plan.desired import Memory, Plan, settle
from wigglenet_operator.plan.planner import Planner, plan

SIZES = (100, 1000, 5000)
USUAL = 1000
RUNS = 9
OWN = "n0"
CONFIG = config(OWN, filtered=frozenset({4, 6}))
PODS = 50
"""On this node."""


def main() -> None:
    """Print a line for each figure."""
    gc.set_threshold(*COLLECTION)
    print(f"{'figure, plan':<46}{'p50':>8}{'max':>8}{'wall':>8}{'floor':>8}{'ratio':>7}{'spread':>12}  unit, floor, goal")
    whole()
    changed()


class Taken:
    """CPU and wall time of runs of one thing, in milliseconds, each with the floor's CPU time beside it."""

    def __init__(self) -> None:
        self.cpu: list[float] = []
        self.wall: list[float] = []
        self.floors: list[float] = []

    def run(self, work: Callable[[], object], floor: Callable[[], object]) -> None:
        """Once more, in a pair; what was before is no garbage of theirs."""
        gc.collect()
        start = time.process_time()
        floor()
        self.floors.append((time.process_time() - start) * 1000)
        start, begun = time.process_time(), time.perf_counter()
        work()
        self.cpu.append((time.process_time() - start) * 1000)
        self.wall.append((time.perf_counter() - begun) * 1000)

    def row(self, figure: str, told: str) -> None:
        """One line of the table."""
        ratios = [a / b for a, b in zip(self.cpu, self.floors, strict=True)]
        middle = (statistics.median(values) for values in (self.wall, self.floors))
        figures = "".join(f"{value:>8.2f}" for value in (statistics.median(self.cpu), max(self.cpu), *middle))
        spread = f"{min(ratios):.1f}-{max(ratios):.1f}"
        print(f"{figure:<46}{figures}{statistics.median(ratios):>7.1f}{spread:>12}  {told}", flush=True)


def facts() -> HostFacts:
    """This node with its pods, as the CNI plugin `ptp` leaves it, and the ways to all others."""
    pods = (f"10.1.0.{2 + n}" for n in range(PODS)), (f"fd00:1::{2 + n:x}" for n in range(PODS))
    routes = (ForeignRoute(to=ip_network(a), metric=0, link=f"veth{n}") for of in pods for n, a in enumerate(of))
    mtus = {address: 1500 for number in range(max(SIZES)) for address in numbered(number).internal_ips}
    return replace(host(OWN), foreign_routes=frozenset(routes), path_mtus=mtus)


def nodes(count: int) -> list[NodeFacts]:
    """So many, dual stack, of values that nobody has used."""
    return [numbered(number) for number in range(count)]


def anew(state: DesiredState) -> list[object]:
    """The floor: every table and every set in it, from their own keys and values."""
    tables = [dict(list(getattr(state, f.name).items())) for f in fields(state)]
    return [*tables, *(frozenset(list(peer.allowed_ips)) for peer in state.peers.values())]


def planned(of: Iterable[NodeFacts]) -> Plan:
    """The plan by itself."""
    return plan(ClusterState(nodes=frozenset(of)), CONFIG, facts())


def whole() -> None:
    """Of a whole cluster, of values that nobody has used before, and of the same values again."""
    at: dict[int, dict[str, Taken]] = {}
    here = facts()
    for size in SIZES:
        taken = {"fresh values": Taken(), "the same again": Taken(), "without garbage collection": Taken()}
        for _ in range(RUNS):
            cluster = ClusterState(nodes=frozenset(nodes(size)))
            state = plan(ClusterState(nodes=frozenset(nodes(size))), CONFIG, here).desired
            assert state
            host_network.cache_clear()
            for name, one in taken.items():
                if name == "without garbage collection":
                    gc.disable()
                one.run(lambda c=cluster: plan(c, CONFIG, here), lambda s=state: anew(s))  # type: ignore[misc]
                gc.enable()
        for name, one in taken.items():
            goal = "; goal < 100 ms" if size == USUAL else ""
            one.row(f"plan {size} Nodes, {name}", f"ms of CPU; its tables from ready values{goal}")
        at[size] = taken
    few, many = (at[size] for size in SIZES[1:])
    for name in few:
        own = exponent(few[name].cpu, many[name].cpu)
        floor = exponent(few[name].floors, many[name].floors)
        print(f"{f'exponent, {name}':<46}{own:>8.2f}{floor:>24.2f}  from 1,000 to 5,000 Nodes; goal 1, linear", flush=True)


def exponent(few: Sequence[float], many: Sequence[float]) -> float:
    """By which power of the number of Nodes it grows."""
    _, usual, most = SIZES
    return math.log(statistics.median(many) / statistics.median(few)) / math.log(most / usual)


def changed() -> None:
    """One Node of 1,000 changed since the last plan; the floor is a copy of the tables."""
    known = nodes(USUAL)
    spare = [numbered(USUAL + number) for number in range(RUNS)]
    bare = [replace(n, public_key=None, pod_cidrs=frozenset()) for n in spare]
    thieves = [replace(n, pod_cidrs=known[7].pod_cidrs) for n in spare]
    store, planner, here = ClusterStore(lambda: None), Planner(CONFIG), facts()
    for node in known:
        store.put(node)
    store.expect([])
    state = planned(known).desired
    assert state
    cases: Sequence[tuple[str, Callable[[int], None]]] = (
        ("a Node came", lambda n: store.put(bare[n])),
        ("its annotations came", lambda n: store.put(spare[n])),
        ("a heartbeat, no fact changed", lambda n: store.put(replace(spare[n]))),
        ("a Node went", lambda n: store.drop(spare[n].uid)),
        ("a Node came and took another's, no goal", lambda n: store.put(thieves[n])),
    )
    looks, now = Taken(), store.snapshot()
    assert now
    planner.plan(now, here)
    for figure, change in cases:
        taken = Taken()
        for number in range(RUNS):
            change(number)
            looks.run(store.snapshot, lambda: frozenset(map(id, known)))
            now = store.snapshot()
            assert now
            taken.run(
                lambda c=now: planner.plan(c, here),  # type: ignore[misc]
                lambda: [{**getattr(state, f.name)} for f in fields(state)],
            )
        taken.row(f"{USUAL} Nodes, {figure}", "ms of CPU; a copy of the tables; goal < 5 ms")
    looks.row(f"snapshot of {USUAL} Nodes", "ms of CPU; a frozenset of so many numbers")
    turn(planned(known))


def turn(done: Plan) -> None:
    """What a turn computes beside the plan, when the node is as it should be."""
    state = done.desired
    assert state
    actual = {f.name: dict(getattr(state, f.name)) for f in fields(state)}
    taken = Taken()

    def rest() -> None:
        desired, _ = settle(state, actual, Memory(), tunnelled=CONFIG.tunnelled, times=(0.0, 0.0))
        differences = {name: diff(table, getattr(desired, name)) for name, table in actual.items()}
        assert not any(differences.values())

    for _ in range(RUNS):
        taken.run(rest, lambda: anew(state))
    taken.row(f"settle and diff, {USUAL} Nodes, all is well", "ms of CPU; the tables from ready values; no goal")


if __name__ == "__main__":
    main()
