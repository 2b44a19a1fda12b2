"""The supervision of Kopf: deaf, dead and renewed operators, and the pace of its requests."""

import asyncio
import threading
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from tests.virtual_time import run
from wigglenet_operator.kube import operator
from wigglenet_operator.kube.access import ApiAccess
from wigglenet_operator.kube.operator import KopfOperator, Line, operator_settings
from wigglenet_operator.model.timing import PRODUCTION, Timing

SECONDS = 20
QUICK = replace(PRODUCTION, watch_silent=0.2, request_retry=0.01, request_retry_most=0.01)
BURST, INTERVAL = PRODUCTION.request_burst, PRODUCTION.request_interval


class Lives:
    """In the place of `_Life`: operators that do what the test says, and what it hears of them."""

    def __init__(self, live: Callable[["Lives", Line], BaseException | None]) -> None:
        self.number = self.ended = self.began_again = 0
        self.stuck = threading.Event()
        self.now = 0.0
        """What their clock says."""
        self._live = live

    def __call__(self, _access: Any, _recorder: Any, line: Line, _timing: Timing) -> "Lives":
        self.number += 1
        self._line = line
        return self

    def live(self) -> BaseException | None:
        return self._live(self, self._line)

    def end(self) -> None:
        self.ended += 1

    def began(self) -> None:
        self.began_again += 1


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(operator, "JOIN_SECONDS", 0.01)


def supervised(
    lives: Lives, monkeypatch: pytest.MonkeyPatch, until: Callable[[KopfOperator], bool], timing: Timing = QUICK
) -> None:
    monkeypatch.setattr(operator, "_Life", lives)
    access = ApiAccess(host="127.0.0.1", port=1)

    async def main() -> None:
        supervisor = KopfOperator(access, lives, clock=lambda: lives.now, timing=timing)  # type: ignore[arg-type]  # a recorder of starts only
        task = asyncio.create_task(supervisor.run())
        async with asyncio.timeout(SECONDS):
            while not until(supervisor):  # noqa: ASYNC110 - what threads have done
                await asyncio.sleep(0.01)
        task.cancel()
        lives.stuck.set()

    asyncio.run(main())


def dies(_: Lives, __: Line) -> BaseException | None:
    return RuntimeError("a bug")


def hangs(lives: Lives, _: Line) -> BaseException | None:
    while not lives.stuck.wait(0.05):
        lives.now += 0.05
    return None


def speaks(lives: Lives, line: Line) -> BaseException | None:
    while not lives.stuck.wait(0.05):  # by the clock of a busy machine it may be silent for longer
        lives.now += 0.05
        asyncio.run(line.pace())
    return None


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("live", [dies, hangs])
def test_an_operator_that_dies_or_goes_deaf_is_followed_by_another_and_a_census_is_asked_for(
    live: Callable[[Lives, Line], BaseException | None], monkeypatch: pytest.MonkeyPatch
) -> None:
    lives = Lives(live)
    supervised(lives, monkeypatch, lambda _: lives.number == 3)

    assert lives.began_again == 2
    assert lives.ended >= 2


@pytest.mark.usefixtures("quick")
def test_an_operator_that_asks_now_and_then_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    lives, looks = Lives(speaks), iter(range(100))
    supervised(lives, monkeypatch, lambda _: next(looks) == 99)  # five times as long as one may be deaf

    assert lives.number == 1


@pytest.mark.usefixtures("quick")
def test_an_operator_is_renewed_at_once_on_demand_and_after_a_rotation_only_if_it_is_failing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    timing = replace(QUICK, watch_silent=float(SECONDS))
    lives = Lives(hangs)

    def until(supervisor: KopfOperator) -> bool:
        if lives.number == 1:
            supervisor.renew_if_failing("nothing fails")
            assert lives.number == 1
            supervisor.renew("it lags")
        return lives.number == 2

    supervised(lives, monkeypatch, until, timing)

    class Failing(Lives):
        def __call__(self, access: Any, recorder: Any, line: Line, timing: Timing) -> Lives:
            line.failing_since = 0.0
            return super().__call__(access, recorder, line, timing)

    failing = Failing(hangs)

    def rotated(supervisor: KopfOperator) -> bool:
        supervisor.renew_if_failing("a new token")
        return failing.number > 1

    supervised(failing, monkeypatch, rotated, timing)


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("live", [speaks, hangs])
def test_an_operator_is_silent_for_as_long_as_nothing_is_asked_however_often_it_is_started_anew(
    live: Callable[[Lives, Line], BaseException | None], monkeypatch: pytest.MonkeyPatch
) -> None:
    lives, silences = Lives(live), list[float]()

    def long_enough(supervisor: KopfOperator) -> bool:
        silences.append(supervisor.silent())
        return lives.number == 3 or len(silences) == 250

    supervised(lives, monkeypatch, long_enough)

    assert (max(silences) > 2 * QUICK.watch_silent) is (lives.number == 3) is (live is hangs)


def test_requests_have_a_pace_and_a_server_that_needs_it_is_a_problem(caplog: pytest.LogCaptureFixture) -> None:
    async def asked(seconds: float) -> tuple[int, bool]:
        line = Line(clock=asyncio.get_running_loop().time)
        number = 0
        while line.last < seconds:
            await line.pace()
            number += 1
        return number, line.held

    assert run(asked(100)) == (BURST + 100 / INTERVAL, True)
    assert len([m for m in caplog.messages if "asked once in 1 s" in m]) == 1


def test_an_occasional_burst_does_not_wait() -> None:
    async def main() -> None:
        line = Line(clock=asyncio.get_running_loop().time)
        for _ in range(3):
            for _ in range(BURST):
                await line.pace()
            assert not line.held
            await asyncio.sleep(BURST * INTERVAL)

    run(main())


def test_kopf_gives_up_a_request_and_ends_a_watch_when_the_timing_says() -> None:
    settings = operator_settings(replace(PRODUCTION, watch=11, connect=12.0, answer=13.0))

    assert settings.watching.server_timeout == 11
    assert (settings.networking.connect_timeout, settings.networking.request_timeout) == (12, 13)
