"""Outages of the API server: the agent keeps running, converges to the Nodes afterwards, and limits its requests meanwhile.

The agent runs in this process with timers twenty times as fast as those of production, which `nox -s long` uses.
Some rows run with a real agent and kernel in `tests/lab/test_api_faults.py`.
"""

import time
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

import pytest

from tests.contract.agent import InProcess
from tests.lab.faults.api_server import hangs
from tests.lab.faults.fault import Fault
from tests.lab.faults.outages import KEY, ROWS, SILENT, ApiRow, Scene, add_node, announce, outlive, rejoin
from tests.lab.lab import Lab
from tests.lab.timing import QUICK
from tests.lab.wait import eventually
from wigglenet_operator.agent.run import Agent
from wigglenet_operator.model.timing import Timing

pytestmark = pytest.mark.embedded


class InProcessScene(Scene):
    """An agent in this process, in the place of node a."""

    def __init__(self, lab: Lab, timing: Timing) -> None:
        super().__init__(lab, timing)
        self.process = InProcess(self.a, timing=timing)

    def peers(self) -> set[str]:
        return set(self.process.mesh.content["peers"].content)

    def agent(self) -> object:
        assert self.process.runs(), "the agent has ended"
        return self.process

    def log(self) -> str:
        return "see the captured log"


@pytest.fixture
def timing() -> Timing:
    return QUICK


@pytest.fixture
def scene(timing: Timing) -> Iterator[InProcessScene]:
    """An agent whose only peer is y."""
    with Lab(api="embedded") as lab:
        lab.add_node("a", agent=False)
        add_node(lab, "y")
        made = InProcessScene(lab, timing)
        with made.process:
            made.recover(seconds=30)
            eventually(lambda: made.requests("watch"), what="a watches")
            yield made


@pytest.mark.parametrize("row", ROWS, ids=[row.fault.name for row in ROWS])
def test_after_a_fault_the_agent_is_the_same_and_knows_the_nodes_and_has_not_asked_too_much(
    scene: InProcessScene, row: ApiRow
) -> None:
    outlive(scene, row)


@pytest.mark.parametrize("fault", SILENT, ids=[fault.name for fault in SILENT])
def test_what_a_watch_does_not_report_is_found_out_while_it_does_not(scene: InProcessScene, fault: Fault) -> None:
    agent = scene.agent()
    watches = scene.requests("watch")
    with fault.injected(scene.lab, scene.a):
        eventually(lambda: scene.requests("watch") > watches, what="the agent has a new watch", seconds=30)
        requests, began = scene.requests(), time.monotonic()
        rejoin(scene.lab, scene.a)
        scene.recover(seconds=30)
        asked, lasted = scene.requests() - requests, time.monotonic() - began
    assert scene.agent() is agent
    assert asked <= scene.most_requests(lasted), f"{asked} requests in {lasted:.1f} s"


def test_heartbeats_are_recorded_and_cost_neither_a_handler_call_nor_a_new_watch(
    scene: InProcessScene, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[str] = []
    seen = Agent.seen

    def spied(agent: Agent, body: Mapping[str, Any]) -> None:
        told.append(body["metadata"]["name"])
        seen(agent, body)

    monkeypatch.setattr(Agent, "seen", spied)
    watches, lists = scene.requests("watch"), scene.requests("list")
    for beat in range(30):
        condition = {"type": "Ready", "status": "True", "lastHeartbeatTime": f"2026-01-01T00:00:{beat:02d}Z"}
        scene.admin.patch("/api/v1/nodes/y/status", {"status": {"conditions": [condition]}})
    eventually(lambda: scene.requests("list") > lists + 8, what="four censuses, of Nodes and Services", seconds=60)
    quiet = told.count("y")
    announce(scene.lab, "y")
    scene.recover(seconds=10)

    assert quiet == 0
    assert told.count("y") == 1
    assert scene.requests("watch") <= watches + 1, "it ends after a time of its own"


@pytest.mark.parametrize("timing", [replace(QUICK, request=60.0)])
def test_an_annotation_that_the_server_takes_and_never_answers_delays_no_peer(scene: InProcessScene) -> None:
    with scene.server.misbehaving(hangs("patch")):
        patches = scene.requests("patch")
        scene.lab.annotate("a", {"wigglenet/node-ips": '["203.0.113.77"]'})  # which the agent mends
        eventually(lambda: scene.requests("patch") > patches, what="the agent writes")
        rejoin(scene.lab, scene.a)
        scene.recover(seconds=5)
        announce(scene.lab, "x")
        scene.recover(seconds=5)
    assert scene.requests("patch") <= patches + 2, "one write of annotations, and one of the status"


def test_what_a_restore_took_back_is_forgotten_and_what_comes_after_it_is_known(scene: InProcessScene) -> None:
    agent = scene.agent()
    scene.server.snapshot()
    rejoin(scene.lab, scene.a)
    for _ in range(10):  # the agent writes, too, after the restore
        announce(scene.lab, "x")
    scene.recover(seconds=10)
    seen = scene.version()
    scene.server.restore()
    scene.recover(seconds=45)
    announce(scene.lab, "y")
    assert scene.version() < seen, "a watch that was resumed would report it"
    scene.recover(seconds=30)
    assert scene.agent() is agent


def test_after_a_long_refusal_a_new_token_is_used_and_the_annotations_of_a_new_node_are_back(scene: InProcessScene) -> None:
    """The Node is deleted, and with it the token; connections are cut, so that the agent gets nothing but refusals."""
    scene.admin.delete_node("a")
    scene.server.cut()
    refused = scene.requests()
    eventually(lambda: scene.requests() >= refused + 10, what="it is refused for a while", seconds=30)
    scene.lab.register(scene.a)
    eventually(lambda: KEY in scene.lab.annotations("a"), what="the annotations are back", seconds=2)
