"""What an agent says of itself: when to start it anew, when its node is ready, and why not."""

import time
from datetime import datetime

import pytest

from tests.builders import key
from wigglenet_operator.agent.health import Health, Turned
from wigglenet_operator.agent.reconcile import WAITING
from wigglenet_operator.model.facts import NodeName
from wigglenet_operator.model.problems import PROBLEMS, Code
from wigglenet_operator.model.report import Problem, StepReport, TurnReport
from wigglenet_operator.model.timing import PRODUCTION

WELL = TurnReport(steps={}, problems=frozenset(), peers=1, names={key("b"): NodeName("b")})


class Told:
    """Health with hands on its clocks."""

    def __init__(self) -> None:
        self.now = self.silent = 0.0
        self.health = Health(NodeName("a"), silent=lambda: self.silent, clock=lambda: self.now)

    def turn(self, report: TurnReport = WELL, *codes: Code) -> None:
        problems = {Problem(code=code, subject="node b", text="it is odd") for code in codes}
        since = dict.fromkeys(problems, "2026-01-01T00:00:00Z")
        report = TurnReport(
            steps={}, problems=frozenset(problems), names=report.names, waiting=report.waiting, registered=report.registered
        )
        self.health.turned(Turned(report=report, since=since, began=0.0, ended=self.now))


@pytest.fixture
def told() -> Told:
    return Told()


def test_an_agent_is_well_for_as_long_as_turns_end_even_if_they_wait(told: Told) -> None:
    for _ in range(5):
        told.now += PRODUCTION.hang
        assert told.health.ailments() == []
        told.turn(WAITING)

    told.now += PRODUCTION.hang + 1
    assert told.health.ailments() == ["no turn has come to an end for 121 s"]
    assert told.health.ailments()[0] in told.health.hindrances()
    told.turn()
    assert told.health.ailments() == []


def test_an_agent_that_never_ends_a_turn_is_not_well(told: Told) -> None:
    told.now = PRODUCTION.hang + 1

    assert told.health.ailments()


def test_turns_that_end_by_a_bug_are_none_but_those_that_cannot_look_are(told: Told) -> None:
    for _ in range(3):
        told.now += PRODUCTION.hang / 2
        told.turn(WELL, Code.TurnCrashed)
    assert told.health.ailments() == ["no turn has come to an end for 180 s"]

    told.turn(WELL, Code.LookFailed)
    assert told.health.ailments() == []
    assert told.health.hindrances() == ["node b: it is odd"]


def test_an_agent_whose_watch_is_silent_for_too_long_is_not_well(told: Told) -> None:
    told.turn()
    told.silent = PRODUCTION.silence
    assert told.health.ailments() == []

    told.silent += 1
    assert told.health.ailments() == ["the watch of Nodes has neither asked nor heard anything for 601 s"]


def test_a_node_is_ready_from_its_first_whole_turn_on(told: Told) -> None:
    assert told.health.hindrances() == ["no turn has ended yet"]
    told.turn(WAITING)
    assert told.health.hindrances() == ["waiting: there is too little to plan with"]
    told.turn()
    assert told.health.hindrances() == []


@pytest.mark.parametrize("code", PROBLEMS)
def test_a_problem_keeps_a_node_from_being_ready_only_if_it_breaks_the_data_path(told: Told, code: Code) -> None:
    told.turn(WELL, code)

    assert told.health.hindrances() == (["node b: it is odd"] if PROBLEMS[code].breaks else [])
    assert told.health.ailments() == []
    told.turn()
    assert told.health.hindrances() == []


def test_a_step_that_waits_keeps_a_node_from_being_ready_though_the_step_that_it_waits_for_does_not(told: Told) -> None:
    problem = Problem(code=Code.KeyFileFailed, subject="step key", text="no space")
    for step, hindrances in ((StepReport(waits_for="key"), ["step cni waits for step key"]), (StepReport(), [])):
        steps = {"key": StepReport(error="no space"), "cni": step}
        report = TurnReport(steps=steps, problems=frozenset({problem}))
        told.health.turned(Turned(report=report, began=0.0, ended=0.0))

        assert told.health.hindrances() == hindrances


def test_the_status_has_every_problem_and_the_peers_names(told: Told) -> None:
    status = told.health.status()
    assert datetime.fromisoformat(str(status.pop("started"))).timestamp() <= time.time()
    assert status == {"node": "a", "ready": False, "reasons": ["no turn has ended yet"]}
    told.turn(WELL, *PROBLEMS)
    status = told.health.status()

    assert status["peer_names"] == {key("b"): "b"}
    assert isinstance(status["problems"], list)
    assert {one["code"] for one in status["problems"]} == set(PROBLEMS)
    assert (status["ready"], status["phase"]) == (False, "Degraded")
