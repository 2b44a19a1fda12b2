"""Each problem is provoked for real and found in every place where it is told, when it comes and when it goes."""

import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import pytest

from tests.lab.lab import ApiKind, Lab
from tests.lab.provocations import ROWS, WAVES, Row, Stage, add_nodes
from tests.lab.told import Onlooker, entries, events
from tests.lab.wait import NotSeenError, eventually
from wigglenet_operator.model.facts import WireGuardKind
from wigglenet_operator.model.problems import Code


class Trial:
    """A stage on its node."""

    def __init__(self, lab: Lab, onlooker: Onlooker, stage: Stage) -> None:
        self._lab, self._onlooker, self.stage = lab, onlooker, stage
        self._node = lab.nodes[stage.node]
        self.codes = [row.code for row in stage.rows]

    def renew(self) -> None:
        """Another agent, which has not told anything yet: how much it tells soon is limited."""
        self._node.kill()
        self._node.start_agent()
        self._node.wait_working()

    def take_place(self, *, first: bool) -> None:
        """Every row comes, outlives a restart of the agent if it can, and goes; or an error says where it does not."""
        rows = self.stage.rows
        if not first:
            self.renew()
        for row in rows:
            row.provoke(self._lab, self._node)
        for row in rows:
            self._expect("tells", row, row.seconds)
        if all(row.restarts for row in rows):
            self._restart()
        for row in rows:
            row.heal(self._lab, self._node)
        if not self.stage.lasting:
            self.end()

    def end(self) -> None:
        """Every place tells that it is over."""
        for row in self.stage.rows:
            self._expect("tells that it is over", row, row.calm)

    def _expect(self, what: str, row: Row, seconds: float) -> None:
        for place in row.told:
            judge = place.tells if what == "tells" else place.over
            self._wait(partial(judge, self._onlooker, self._node, row.code), f"the {place} {what}", row, seconds)

    def _restart(self) -> None:
        """Another agent tells of them again, as the same: since the same time, by the same Events, which count."""
        rows, node = self.stage.rows, self._node
        before = {row.code: self._remembered(row) for row in rows}
        node.kill()
        node.start_agent()
        for row in rows:
            self._expect("tells", row, row.seconds)
            again = lambda row=row: self._counts(row) == [2] * len(self._counts(row))  # noqa: E731
            self._wait(again, "the Event counts the restart", row, row.seconds)
            assert self._remembered(row) == before[row.code]

    def _remembered(self, row: Row) -> object:
        since = sorted((entry["text"], entry["since"]) for entry in entries(self._onlooker, self._node, row.code))
        names = sorted(event["metadata"]["name"] for event in events(self._onlooker, self._node, row.code, "Warning"))
        return since, names

    def _counts(self, row: Row) -> list[int]:
        return [event["count"] for event in events(self._onlooker, self._node, row.code, "Warning")]

    def _wait(self, condition: Callable[[], bool], what: str, row: Row, seconds: float) -> None:
        try:
            eventually(condition, what=f"{what} [{row.code}]", seconds=seconds)
        except NotSeenError as error:
            seen = self._onlooker.look()
            told = f"{seen.problems.get(self._node.name)}\n{seen.events.get(self._node.name)}"
            raise NotSeenError(f"{error}; node {self._node.name} has\n{told}\n{self._node.log()[-4000:]}") from None


def at_once(work: Mapping[Trial, Callable[[], None]]) -> dict[Code, BaseException | None]:
    """What became of each code's trial."""
    with ThreadPoolExecutor(len(work) or 1) as pool:
        done = {trial: pool.submit(act) for trial, act in work.items()}
    return {code: ended.exception() for trial, ended in done.items() for code in trial.codes}


Results = Mapping[Code, BaseException | None]


@pytest.fixture(scope="module")
def results(api_kind: ApiKind, request: pytest.FixtureRequest) -> Iterator[Results]:
    """What became of each row's stage."""
    found: dict[Code, BaseException | None] = {}
    lasting: list[Trial] = []
    with Lab(api=api_kind, wireguard=WireGuardKind(request.config.getoption("--wireguard"))) as lab:
        add_nodes(lab)
        onlooker = Onlooker(lab)
        for number, wave in enumerate(WAVES):
            began = time.monotonic()
            trials = [Trial(lab, onlooker, stage) for stage in wave if api_kind == "embedded" or not stage.embedded]
            found |= at_once({trial: partial(trial.take_place, first=number == 0) for trial in trials})
            lasting += [trial for trial in trials if trial.stage.lasting and found[trial.codes[0]] is None]
            print(f"wave {number}: {time.monotonic() - began:.1f} s")
        found |= at_once({trial: trial.end for trial in lasting})
        yield found


@pytest.mark.parametrize("code", [row.code for row in ROWS])
def test_a_problem_is_found_in_every_place_when_it_comes_and_when_it_goes(results: Results, code: Code) -> None:
    if code not in results:
        pytest.skip("no real API server does that")
    if error := results[code]:
        raise error


def test_each_code_is_provoked() -> None:
    assert sorted(row.code for row in ROWS) == sorted(Code)
