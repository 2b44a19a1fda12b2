"""An agent that is killed at any point: what it leaves is safe, and the next one repairs it from what the kernel says."""

from collections.abc import Mapping
from dataclasses import replace
from itertools import count
from typing import Any

import pytest

from tests.builders import config, host, ips, nets, node
from tests.fakes import FakePeers, FakeTable
from tests.virtual_time import run
from wigglenet_operator.agent.reconcile import Reconciler
from wigglenet_operator.agent.store import ClusterStore
from wigglenet_operator.model.facts import ClusterState, HostFacts, NodeFacts
from wigglenet_operator.plan.desired import STEPS

A = node("a", pods="10.1.0.0/24 fd00:1::/64", internal="192.0.2.1")
B = node("b", pods="10.2.0.0/24 fd00:2::/64", internal="192.0.2.2")
C = node("c", pods="10.3.0.0/24 fd00:3::/64", internal="192.0.2.3")
MOVED = replace(C, internal_ips=ips("192.0.2.33"), pod_cidrs=nets("10.3.0.0/25 fd00:3::/64"), spec_pod_cidrs=nets(""))
LOST = node("0", pods="10.1.0.0/24", internal="192.0.2.9", created="2025-01-01T00:00:00Z")
"""An older node that has, by the control plane, what node a has: a loses it."""


class Killed(BaseException):
    """No handler of the agent sees a SIGKILL."""


class Kernel:
    """What outlives an agent."""

    def __init__(self) -> None:
        self.tables: dict[str, FakeTable[Any, Any]] = {s.table: FakeTable() for s in STEPS}
        self.tables["peers"] = FakePeers()

    def serve(self, *nodes: NodeFacts, turns: int = 1, until: int | None = None) -> bool:
        """A fresh agent on what is there; whether it lived, for it is killed at its point `until`."""
        points = count()

        def point() -> None:
            if until is not None and next(points) == until:
                raise Killed

        async def look(cluster: ClusterState, *, resync: bool) -> HostFacts:  # noqa: ARG001 - as Look has them
            point()
            return host("a")

        for table in self.tables.values():
            table.point = point
        store = ClusterStore(lambda: None)
        for each in nodes:
            store.put(each)
        store.expect(n.uid for n in nodes)
        reconciler = Reconciler(store, config("a"), self.tables, look=look, clock=lambda: (0.0, 0.0))
        try:
            for _ in range(turns):
                run(reconciler.turn())
        except Killed:
            return False
        return True

    @property
    def writes(self) -> int:
        return sum(table.writes for table in self.tables.values())

    @property
    def content(self) -> dict[str, Mapping[Any, Any]]:
        return {name: dict(table.content) for name, table in self.tables.items()}

    def unsafe(self, wanted: "Kernel") -> list[str]:
        """What of the wanted could leave in clear, or start a pod that reaches nobody."""
        content = self.content
        closed = {key.to for key in content["closed"]}
        routed = content["routes"].keys() & wanted.content["routes"].keys()
        found = [f"{key.to} is routed and not closed" for key in routed if key.to not in closed]
        if content["cni"]:
            needed = ("device", "link", "addresses", "annotations")
            found += [f"pods start without {name}" for name in needed if not content[name]]
        return found


@pytest.mark.parametrize(
    ("before", "after"),
    [((), (A, B, C)), ((A, B), (A, B, C)), ((A, B, C), (A, C)), ((A, B, C), (A, B, MOVED)), ((A, B), (A, B, LOST))],
    ids=["start", "join", "leave", "move", "loss"],
)
def test_a_killed_agent_leaves_what_is_safe_and_the_next_one_ends_where_it_would_have_ended(
    before: tuple[NodeFacts, ...], after: tuple[NodeFacts, ...]
) -> None:
    wanted = Kernel()
    if before:
        wanted.serve(*before)
    wanted.serve(*after, turns=2)
    for number in count():
        kernel = Kernel()
        if before:
            kernel.serve(*before)
        lived = kernel.serve(*after, until=number)

        assert kernel.unsafe(wanted) == [], f"killed at point {number}"

        kernel.serve(*after, turns=2)
        writes = kernel.writes

        assert kernel.content == wanted.content, f"killed at point {number}"
        kernel.serve(*after)
        assert kernel.writes == writes, f"killed at point {number}: not at rest"
        if lived:
            break

    assert number > len(STEPS) + 5, "an agent could be killed at too few points"
