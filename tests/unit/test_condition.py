"""When the condition NetworkUnavailable is written, in virtual time."""

import asyncio
from collections.abc import Callable
from functools import partial
from operator import itemgetter

import pytest

from tests.virtual_time import run
from wigglenet_operator.agent.condition import Condition
from wigglenet_operator.errors import ApiError
from wigglenet_operator.model.problems import Code
from wigglenet_operator.model.timing import PRODUCTION

Act = tuple[float, Callable[[], None]]


class Keeper:
    """A Node with a condition, and what keeps it."""

    def __init__(self) -> None:
        self.there: tuple[str, str] | None = None
        self.status: int | None = None
        self.writes: list[tuple[float, str]] = []
        self.seen: list[list[Code]] = []
        self.condition = Condition(published=lambda: self.there, write=self.write, nodes=lambda: 0)

    async def write(self, condition: tuple[str, str]) -> None:
        self.writes.append((round(asyncio.get_running_loop().time(), 2), condition[0]))
        if self.status is not None:
            raise ApiError("no", status=self.status)
        self.there = condition

    def judged(self, when: float, *reasons: str) -> Act:
        return when, partial(self.condition.judge, reasons)

    def look(self) -> None:
        self.seen.append([p.code for p in self.condition.problems()])

    def until(self, seconds: float, *acts: Act) -> list[tuple[float, str]]:
        async def main() -> None:
            task = asyncio.create_task(self.condition.keep())
            for when, act in sorted(acts, key=itemgetter(0)):
                asyncio.get_running_loop().call_at(when, act)
            await asyncio.sleep(seconds)
            task.cancel()

        run(main())
        return self.writes


WELL = ("False", "the network of this node is as it should be")


def test_it_is_written_when_it_is_not_as_it_should_be_and_not_again() -> None:
    kept = Keeper()
    ailing = [kept.judged(40.0 + 5 * i, "waiting") for i in range(10)]
    kept.until(100, kept.judged(1), kept.judged(20), *ailing)

    assert kept.writes == [
        (1 + PRODUCTION.report_settle, "False"),
        (40 + PRODUCTION.condition_doubt + PRODUCTION.report_settle, "True"),
    ]
    assert kept.there == ("True", "waiting")


def test_one_look_that_failed_taints_no_node() -> None:
    kept = Keeper()
    kept.there = WELL
    acts = [kept.judged(5.0 * i, *["it cannot be looked at"] * (i % 3 > 0)) for i in range(20)]

    assert kept.until(100, *acts) == []


def test_nothing_is_said_of_what_is_in_doubt() -> None:
    kept = Keeper()
    kept.there = ("True", "as the agent before has it")

    assert kept.until(100, kept.judged(1, "waiting"), kept.judged(10, "waiting")) == []


def test_it_is_soon_said_that_it_is_over() -> None:
    kept = Keeper()
    acts = [kept.judged(5.0 * i, "waiting") for i in range(10)]
    kept.until(100, *acts, kept.judged(50))

    assert kept.writes == [
        (PRODUCTION.condition_doubt + PRODUCTION.report_settle, "True"),
        (50 + PRODUCTION.report_settle, "False"),
    ]


def test_what_somebody_else_wrote_is_put_right() -> None:
    kept = Keeper()
    kept.there = ("True", "no route was created")  # as cloud providers have it at first

    assert kept.until(100, kept.judged(1)) == [(1 + PRODUCTION.report_settle, "False")]


def test_it_is_written_at_a_bounded_pace() -> None:
    kept = Keeper()
    writes = kept.until(1200, *(kept.judged(float(i), *["waiting"] * (i // 30 % 2)) for i in range(1200)))

    assert 10 < len(writes) <= (1200 + PRODUCTION.status_most) / PRODUCTION.status_least


def test_one_that_is_refused_is_a_problem_and_tried_again() -> None:
    kept = Keeper()
    kept.status = 403
    mend = partial(setattr, kept, "status", None)
    kept.until(30, kept.judged(1), (5, kept.look), (6, mend), (29, kept.look))

    assert kept.seen == [[Code.ConditionFailed], []]
    assert kept.there is not None


@pytest.mark.parametrize("status", [0, 429, 503])
def test_a_server_in_trouble_is_no_problem_of_the_condition(status: int) -> None:
    kept = Keeper()
    kept.status = status
    kept.until(100, *(kept.judged(5.0 * i) for i in range(20)), (50, kept.look))

    assert kept.seen == [[]]
    assert 3 < len(kept.writes) < 10
