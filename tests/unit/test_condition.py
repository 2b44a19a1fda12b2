"""When the condition NetworkUnavailable is written, in virtual time."""

import asyncio
import itertools
from collections.abc import Callable
from functools import partial

from tests.virtual_time import run
from wigglenet_operator.agent.condition import PAUSE_SECONDS, SETTLE_SECONDS, Condition
from wigglenet_operator.errors import ApiError
from wigglenet_operator.model.problems import Code

Act = tuple[float, Callable[[], None]]


class Kept:
    """A Node with a condition, and what keeps it."""

    def __init__(self) -> None:
        self.there: tuple[str, str] | None = None
        self.status: int | None = None
        self.writes: list[tuple[float, str]] = []
        self.seen: list[list[Code]] = []
        self.condition = Condition(published=lambda: self.there, publish=self.publish)

    async def publish(self, status: str, message: str) -> None:
        self.writes.append((round(asyncio.get_running_loop().time(), 2), status))
        if self.status is not None:
            raise ApiError("no", status=self.status)
        self.there = (status, message)

    def judged(self, when: float, *reasons: str) -> Act:
        return when, partial(self.condition.judge, reasons)

    def look(self) -> None:
        self.seen.append([p.code for p in self.condition.problems()])

    def until(self, seconds: float, *acts: Act) -> list[tuple[float, str]]:
        async def main() -> None:
            task = asyncio.create_task(self.condition.keep())
            for when, act in acts:
                asyncio.get_running_loop().call_at(when, act)
            await asyncio.sleep(seconds)
            task.cancel()

        run(main())
        return self.writes


def test_it_is_written_when_it_is_not_as_it_should_be_and_not_again() -> None:
    kept = Kept()
    kept.until(100, kept.judged(1), kept.judged(20), kept.judged(40, "waiting"), kept.judged(60, "waiting"))

    assert kept.writes == [(1 + SETTLE_SECONDS, "False"), (40 + SETTLE_SECONDS, "True")]
    assert kept.there == ("True", "waiting")


def test_what_lasts_an_instant_is_not_written() -> None:
    kept = Kept()
    kept.there = ("False", "the network of this node is as it should be")

    assert kept.until(100, kept.judged(1, "waiting"), kept.judged(2)) == []


def test_what_somebody_else_wrote_is_put_right() -> None:
    kept = Kept()
    kept.there = ("True", "no route was created")  # as cloud providers have it at first

    assert kept.until(100, kept.judged(1)) == [(1 + SETTLE_SECONDS, "False")]


def test_it_is_written_at_a_bounded_pace() -> None:
    kept = Kept()
    writes = kept.until(100, *(kept.judged(float(i), *["waiting"] * (i // 3 % 2)) for i in range(100)))

    assert len(writes) > 3
    assert all(later[0] - earlier[0] >= PAUSE_SECONDS for earlier, later in itertools.pairwise(writes))


def test_one_that_is_refused_is_a_problem_and_tried_again() -> None:
    kept = Kept()
    kept.status = 403
    mend = partial(setattr, kept, "status", None)
    kept.until(30, kept.judged(1), (5, kept.look), (6, mend), (29, kept.look))

    assert kept.seen == [[Code.ConditionFailed], []]
    assert kept.there is not None
