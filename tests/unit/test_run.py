"""How the parts of an agent are tied together, where that has a state of its own."""

import asyncio
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest

from tests.builders import config
from tests.virtual_time import run
from wigglenet_operator.agent import run as wiring
from wigglenet_operator.agent.census import Census
from wigglenet_operator.agent.health import Turned
from wigglenet_operator.errors import KernelError
from wigglenet_operator.kube.operator import KopfOperator
from wigglenet_operator.model.facts import NodeUID
from wigglenet_operator.model.problems import Code
from wigglenet_operator.model.report import Problem, StepReport, TurnReport

WROTE = TurnReport(steps={"peers": StepReport(added=1)}, problems=frozenset())
FAILED = TurnReport(steps={"peers": StepReport(error="no")}, problems=frozenset())
WELL = replace(WROTE, steps={})


def own(node: str, *conditions: dict[str, str]) -> dict[str, Any]:
    """A Node as the API server has it."""
    metadata = {"name": node, "uid": f"u-{node}", "creationTimestamp": "2026-01-01T00:00:00Z"}
    return {"metadata": metadata, "status": {"conditions": list(conditions)}}


class Turns:
    """Stands for what makes turns and for whoever is told of them."""

    def __init__(self, *coming: TurnReport | Exception) -> None:
        self._coming: Iterator[TurnReport | Exception] = iter(coming)
        self.told: list[Turned] = []

    async def turn(self, _: frozenset[str] = frozenset()) -> TurnReport:
        coming = next(self._coming, WROTE)
        if isinstance(coming, Exception):
            raise coming
        return coming

    def turned(self, turn: Turned) -> None:
        self.told.append(turn)

    def problems(self) -> frozenset[Problem]:
        return frozenset()

    def tables(self) -> dict[str, Any]:
        return {}

    async def look(self) -> None:
        """Nobody asks."""


@pytest.mark.parametrize("first", [KernelError("no"), ValueError("a bug"), FAILED])
def test_what_was_heard_before_a_turn_that_came_to_nothing_is_what_the_next_one_follows(
    first: TurnReport | Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    turns: Any = Turns(first)
    monkeypatch.setattr(wiring, "server", lambda *_, **__: turns)
    monkeypatch.setattr(wiring, "Reconciler", lambda *_, **__: turns)
    access: Any = None

    async def main() -> None:
        agent = wiring.Agent(config(), turns, access, access)
        agent.seen(own("b"))
        task = asyncio.create_task(agent.loop.run())
        await asyncio.sleep(5)
        task.cancel()

    run(main())

    assert [turn.heard is not None for turn in turns.told][:3] == [False, True, False]


def test_a_condition_is_written_once_though_no_watch_tells_of_it_and_moves_with_its_status_only(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    broken = [replace(WELL, problems=frozenset({Problem(code=Code.RoutesFailed, subject="a", text=t)})) for t in "xy"]
    turns: Any = Turns(*[WELL] * 10, *[broken[0]] * 10, *[broken[1]] * 10, *[WELL] * 10)
    monkeypatch.setattr(wiring, "server", lambda *_, **__: turns)
    monkeypatch.setattr(wiring, "Reconciler", lambda *_, **__: turns)
    said: list[tuple[str, bool]] = []

    async def publish(_: object, node: str, status: str, message: str, *, moved: bool) -> dict[str, Any]:
        said.append((status, moved))
        return own(node, {"type": "NetworkUnavailable", "status": status, "message": message})

    monkeypatch.setattr(wiring, "publish_condition", publish)
    access: Any = None

    async def main() -> None:
        agent = wiring.Agent(config(node_condition=True), turns, access, access)
        agent.seen(own("a"))
        tasks = [asyncio.create_task(work) for work in (agent.loop.run(), agent._condition.keep())]  # noqa: SLF001
        await asyncio.sleep(400)
        for task in tasks:
            task.cancel()

    run(main())

    assert said == [("False", True), ("True", True), ("True", False), ("False", True)]


def test_a_fresh_watch_asks_for_a_census_and_a_node_that_a_census_missed_is_back_with_its_next_heartbeat(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    turns: Any = Turns()
    monkeypatch.setattr(wiring, "server", lambda *_, **__: turns)
    monkeypatch.setattr(wiring, "Reconciler", lambda *_, **__: turns)
    asked: list[bool] = []
    monkeypatch.setattr(Census, "request", lambda _: asked.append(True))
    access: Any = None
    body = own("b")

    async def main() -> None:
        agent = wiring.Agent(config(), turns, access, access)
        agent.began()
        assert asked == [True]
        agent.seen(body)
        await asyncio.sleep(0.01)
        agent.store.drop(NodeUID("u-b"))

        agent.unchanged(body)
        await asyncio.sleep(0.01)

        assert agent.store.knows(NodeUID("u-b"))

    run(main())


def test_a_changed_token_renews_a_failing_watch_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    turns: Any = Turns()
    monkeypatch.setattr(wiring, "server", lambda *_, **__: turns)
    monkeypatch.setattr(wiring, "Reconciler", lambda *_, **__: turns)
    renewed: list[str] = []
    monkeypatch.setattr(KopfOperator, "renew_if_failing", lambda _, reason: renewed.append(reason))
    access: Any = None

    async def main() -> None:
        wiring.Agent(config(), turns, access, access)._rotated()  # noqa: SLF001 - what the watch of the files calls

    run(main())

    assert renewed == ["token or CA has changed"]
