"""The table of problems, and Events of them in virtual time."""

import asyncio
import itertools
import json
import re
from collections.abc import Callable
from functools import partial

import pytest

from tests.virtual_time import run
from wigglenet_operator.agent.events import AT_ONCE, MOST, Events
from wigglenet_operator.agent.ledger import CHARACTERS, STATUS_PROBLEMS, parse_problems, ranked, render_problems
from wigglenet_operator.errors import ApiError
from wigglenet_operator.kube.publish import event_name
from wigglenet_operator.model.facts import NodeName
from wigglenet_operator.model.problems import PROBLEMS, Code
from wigglenet_operator.model.report import Problem
from wigglenet_operator.model.timing import PRODUCTION
from wigglenet_operator.plan.desired import STEPS

Told = tuple[float, str, bool]
Also = tuple[tuple[float, Callable[[], None]], ...]


@pytest.mark.parametrize("code", Code)
def test_each_code_is_explained_in_a_sentence_and_has_one_of_what_to_do(code: Code) -> None:
    meaning = PROBLEMS[code]

    assert code == code.name
    for sentence in (meaning.meaning, meaning.remedy):
        assert sentence[0].isupper()
        assert sentence.endswith(".")
        assert ". " not in sentence


def test_what_breaks_the_data_path_is_an_error() -> None:
    assert {m.severity.value for m in PROBLEMS.values() if m.breaks} == {"error"}


def test_each_step_that_pods_need_breaks_the_data_path_when_it_fails() -> None:
    spared = {step.table for step in STEPS if not PROBLEMS[step.failed].breaks}
    assert spared == {"key", "leftovers"}


def problem(number: int = 0, *, code: Code = Code.NoEndpoint, text: str = "bad") -> Problem:
    return Problem(code=code, subject=f"node n{number}", text=text)


def test_what_is_published_is_read_back() -> None:
    since = {problem(1): "2026-01-01T00:00:00Z", problem(2, code=Code.TunnelFailed): "2026-01-02T00:00:00Z"}
    assert parse_problems(json.dumps({"problems": render_problems(since)})) == since


@pytest.mark.parametrize("nasty", ["\x1b[2J", "\n", "\x9b31m", "\u202e"])
def test_of_what_somebody_else_wrote_nothing_steers_a_terminal_and_not_much_is_believed(nasty: str) -> None:
    entry = {"code": "NoEndpoint", "since": "2026-01-01T00:00:00Z"}
    many = [{**entry, "object": f"node n{number}", "text": "bad"} for number in range(1000)]

    assert parse_problems(json.dumps({"problems": [{**entry, "object": f"node {nasty}", "text": "bad"}]})) == {}
    assert parse_problems(json.dumps({"problems": [{**entry, "object": "node b", "text": nasty}]})) == {}
    assert parse_problems(json.dumps({"problems": [{**entry, "object": "node b" * 100_000, "text": "bad"}]})) == {}
    assert len(parse_problems(json.dumps({"problems": many}))) == STATUS_PROBLEMS


def test_those_that_break_the_data_path_come_first() -> None:
    codes = [Code.NoEndpoint, Code.CensusFailed, Code.RoutesFailed, Code.ClaimRefused]
    assert [p.code for p in ranked(problem(code=code) for code in codes)] == [
        *(Code.RoutesFailed, Code.CensusFailed, Code.ClaimRefused, Code.NoEndpoint),
    ]


def test_a_long_text_is_cut() -> None:
    (entry,) = render_problems({problem(text="y" * 9999): "2026-01-01T00:00:00Z"})
    assert len(entry["text"]) == CHARACTERS


class Heard:
    """What is told when of what is noted when, in virtual time."""

    def __init__(self) -> None:
        self.told: list[Told] = []
        self.status: int | None = None
        self.unfit: Problem | None = None
        self.unfit_status = 422
        self.takes = 0.0
        self.nodes = 0
        self.events = Events(self.publish, nodes=lambda: self.nodes)

    async def publish(self, problem: Problem, came: bool) -> None:  # noqa: FBT001 - as Events has it
        await asyncio.sleep(self.takes)
        if self.status is not None:
            raise ApiError(f"create event {problem.subject}: no", status=self.status)
        if problem == self.unfit:
            raise ApiError("it is not fit", status=self.unfit_status)
        self.told.append((round(asyncio.get_running_loop().time(), 2), problem.subject, came))

    def hear(self, *noted: tuple[float, Problem, bool], until: float = 100.0, also: Also = ()) -> list[Told]:
        async def main() -> None:
            task = asyncio.create_task(self.events.keep())
            for when, each, came in noted:
                asyncio.get_running_loop().call_at(when, partial(self.events.note, each, came=came))
            for when, act in also:
                asyncio.get_running_loop().call_at(when, act)
            await asyncio.sleep(until)
            task.cancel()

        run(main())
        return self.told


def test_each_problem_is_told_when_it_comes_and_when_it_goes() -> None:
    told = Heard().hear((1, problem(), True), (20, problem(), False))
    assert told == [(1 + PRODUCTION.report_settle, "node n0", True), (20 + PRODUCTION.report_settle, "node n0", False)]


def test_what_came_and_went_in_an_instant_is_not_told() -> None:
    assert Heard().hear((1, problem(), True), (1 + PRODUCTION.report_settle / 2, problem(), False)) == []


def test_many_at_once_are_told_and_the_others_one_by_one() -> None:
    told = Heard().hear(*((1 + i / 1e4, problem(i), True) for i in range(AT_ONCE + 2)))

    assert [when for when, _, _ in told] == [3.0] * AT_ONCE + [
        3.0 + PRODUCTION.event_interval,
        3.0 + 2 * PRODUCTION.event_interval,
    ]
    assert [who for _, who, _ in told] == [f"node n{i}" for i in range(AT_ONCE + 2)]


def test_of_thousands_the_newest_are_told() -> None:
    told = Heard().hear(*((1 + i / 1e6, problem(i), True) for i in range(3 * MOST)), until=5)
    assert told[0] == (3.0, f"node n{2 * MOST}", True)


def test_one_that_was_refused_is_a_problem_and_tried_again() -> None:
    heard, seen = Heard(), list[list[Code]]()

    def look() -> None:
        seen.append([p.code for p in heard.events.problems()])

    def mend() -> None:
        heard.status = None

    heard.status = 403
    heard.hear((1, problem(), True), also=((5, look), (6, mend), (5 + PRODUCTION.report_retry, look)))

    assert seen == [[Code.EventsFailed], []]
    assert heard.told == [(1 + PRODUCTION.report_settle + PRODUCTION.report_retry, "node n0", True)]


def test_the_refusal_of_many_is_one_problem_for_as_long_as_it_lasts() -> None:
    """A problem whose text changed with each attempt would be another one each time, and one more to tell."""
    heard, seen = Heard(), set[Problem]()

    def look() -> None:
        seen.update(heard.events.problems())

    heard.status = 403
    looks = ((float(seconds), look) for seconds in range(200))
    other = (100.0, partial(setattr, heard, "status", 401))
    heard.hear((1, problem(1), True), (1, problem(2), True), also=(*looks, other), until=200)

    assert len(seen) == 2, "one for each status"


@pytest.mark.parametrize("status", [0, 429, 500, 503])
def test_a_server_that_is_away_or_in_trouble_is_no_problem_of_events(status: int) -> None:
    heard, mend = Heard(), 60.0
    heard.status = status
    seen: list[frozenset[Problem]] = []
    look = (mend - 1, lambda: seen.append(heard.events.problems()))
    heard.hear((1, problem(), True), also=(look, (mend, partial(setattr, heard, "status", None))))

    assert seen == [frozenset()]
    assert len(heard.told) == 1


def test_one_that_is_refused_for_good_is_left_out(caplog: pytest.LogCaptureFixture) -> None:
    heard = Heard()
    heard.unfit = problem(1)
    heard.hear(*((1.0, problem(i), True) for i in range(3)))

    assert [who for _, who, _ in heard.told] == ["node n0", "node n2"]
    assert caplog.messages == ["not told: it is not fit"]
    assert not heard.events.problems()


def test_while_one_is_refused_that_lasts_however_many_others_are_not() -> None:
    heard, seen = Heard(), list[bool]()
    heard.unfit, heard.unfit_status, heard.takes = problem(0), 403, 2.0
    mend = (150.0, partial(setattr, heard, "unfit", None))
    looks = [(float(s), lambda: seen.append(bool(heard.events.problems()))) for s in range(10, 200)]
    heard.hear(*((1.0 + 20 * i, problem(i), True) for i in range(7)), also=(*looks, mend), until=200)

    assert (seen[0], seen[-1], len(heard.told)) == (True, False, 7)
    assert sum(one != other for one, other in itertools.pairwise(seen)) == 1


def test_in_a_large_cluster_not_all_tell_at_once() -> None:
    """A bad Node is a problem of all agents in the same instant."""
    agents = [Heard() for _ in range(20)]
    for agent in agents:
        agent.nodes = 1000
        agent.hear((1, problem(), True))

    when = sorted(agent.told[0][0] for agent in agents)
    assert when[-1] - when[0] > 10
    assert when[-1] <= 1 + PRODUCTION.report_settle + 30


def test_the_name_of_an_event_is_one_however_long_the_nodes_is() -> None:
    name = event_name(NodeName(f"{'a' * 235}.{'b' * 17}"), problem(), "bad")
    assert re.fullmatch(r"[a-z0-9]([a-z0-9.-]*[a-z0-9])?", name)
    assert ".." not in name
    assert len(name) <= 253
    assert event_name(NodeName("n"), problem(), "bad") != event_name(NodeName("n"), problem(), "worse")


def test_what_is_said_in_several_lines_is_told_in_one_and_else_as_it_is() -> None:
    assert problem(text="no\n  add table\r\n\t^^^ \n").text == "no add table ^^^"
    assert problem(text="no\n").text == "no"
    assert problem(text="two  blanks").text == "two  blanks"
