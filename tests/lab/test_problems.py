"""Each problem is caused by a real fault; it and its end are reported in every channel."""

import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import pytest

from tests.lab.faults.node import CERTIFICATE, EXTRA, write_certificate, write_pod_networks
from tests.lab.faults.problems import ROWS, WAVES, ProblemRow, Stage
from tests.lab.faults.reports import ApiReader, events, status_entries
from tests.lab.lab import ApiKind, Lab
from tests.lab.sources import filed, sources
from tests.lab.wait import NotSeenError, eventually
from wigglenet_operator.model.facts import WireGuardKind
from wigglenet_operator.model.problems import Code


class Trial:
    """The test of a stage."""

    def __init__(self, lab: Lab, reader: ApiReader, stage: Stage) -> None:
        self._lab, self._reader, self.stage = lab, reader, stage
        self._node = lab.nodes[stage.node]
        self.codes = [row.code for row in stage.rows]

    def renew(self) -> None:
        """Replace the agent: an agent limits how many problems it reports in a time, and a new one has reported none."""
        self._node.kill()
        self._node.start_agent()
        self._node.wait_working()

    def inject_and_repair(self, *, first: bool) -> None:
        """Every problem is reported, by a new agent as well if all rows say so, and cleared unless the stage is lasting."""
        rows = self.stage.rows
        if not first:
            self.renew()
        for fault in self.stage.faults:
            fault.inject(self._lab, self._node)
        for row in rows:
            self._expect_reported(row)
        if all(row.after_restart for row in rows):
            self._restart()
        for fault in self.stage.faults:
            fault.repair(self._lab, self._node)
        if not self.stage.lasting:
            self.expect_cleared()

    def expect_cleared(self) -> None:
        """Every channel reports the end of every problem."""
        for row in self.stage.rows:
            for channel in row.channels:
                cleared = partial(channel.clears, self._reader, self._node, row.code)
                self._wait(cleared, f"the end is reported: {channel}", row, row.clear_seconds)

    def _expect_reported(self, row: ProblemRow) -> None:
        for channel in row.channels:
            reported = partial(channel.reports, self._reader, self._node, row.code)
            self._wait(reported, f"the problem is reported: {channel}", row, row.seconds)

    def _restart(self) -> None:
        """A new agent reports the problems as the same ones: since the same time, and by the same Events, whose count is 2."""
        rows, node = self.stage.rows, self._node
        before = {row.code: self._identity(row) for row in rows}
        node.kill()
        node.start_agent()
        for row in rows:
            self._expect_reported(row)
            again = lambda row=row: self._counts(row) == [2] * len(self._counts(row))  # noqa: E731
            self._wait(again, "the Event counts the restart", row, row.seconds)
            assert self._identity(row) == before[row.code]

    def _identity(self, row: ProblemRow) -> object:
        since = sorted((entry["text"], entry["since"]) for entry in status_entries(self._reader, self._node, row.code))
        names = sorted(event["metadata"]["name"] for event in events(self._reader, self._node, row.code, "Warning"))
        return since, names

    def _counts(self, row: ProblemRow) -> list[int]:
        return [event["count"] for event in events(self._reader, self._node, row.code, "Warning")]

    def _wait(self, condition: Callable[[], bool], what: str, row: ProblemRow, seconds: float) -> None:
        try:
            eventually(condition, what=f"{what} [{row.code}]", seconds=seconds)
        except NotSeenError as error:
            now = self._reader.read()
            published = f"{now.problems.get(self._node.name)}\n{now.events.get(self._node.name)}"
            raise NotSeenError(f"{error}; node {self._node.name} has\n{published}\n{self._node.log()[-4000:]}") from None


def in_parallel(work: Mapping[Trial, Callable[[], None]]) -> dict[Code, BaseException | None]:
    """Do the work of each trial; the errors by the codes of the trials."""
    with ThreadPoolExecutor(len(work) or 1) as pool:
        done = {trial: pool.submit(act) for trial, act in work.items()}
    return {code: ended.exception() for trial, ended in done.items() for code in trial.codes}


Results = Mapping[Code, BaseException | None]


def add_nodes(lab: Lab) -> None:
    """Add the nodes of the stages; return when all are ready but `bare`, which has no pod networks."""
    settings = {name: {"ENABLE_METRICS": "on"} for name in ("a", "b", "c", "d", "file", "bare", "away")}
    settings["a"] |= {"NODE_IP_INTERFACES": f"eth0,{EXTRA}"}
    settings["file"] |= sources("file", "file") | {"METRICS_TLS_CERT_FILE": CERTIFICATE, "METRICS_TLS_KEY_FILE": CERTIFICATE}
    for name, environment in settings.items():
        node = lab.add_node(name, agent=False, pod_cidrs=() if name == "bare" else None, environment=environment)
        node.place.batch(f"link add {EXTRA} type bridge")
        if name == "file":
            write_pod_networks("{v4}", "{v6}")(lab, node)
            write_certificate(lab, node)
            node.pod_cidrs = (filed(node, 4), filed(node, 6))
        lab.start(node)
    for name, node in lab.nodes.items():
        if name != "bare":
            node.wait_ready(seconds=60)


@pytest.fixture(scope="module")
def results(api_kind: ApiKind, request: pytest.FixtureRequest) -> Iterator[Results]:
    """The error of each row's stage; None if there is none."""
    found: dict[Code, BaseException | None] = {}
    lasting: list[Trial] = []
    with Lab(api=api_kind, wireguard=WireGuardKind(request.config.getoption("--wireguard"))) as lab:
        add_nodes(lab)
        reader = ApiReader(lab)
        for number, wave in enumerate(WAVES):
            began = time.monotonic()
            trials = [Trial(lab, reader, stage) for stage in wave if api_kind == "embedded" or not stage.embedded]
            found |= in_parallel({trial: partial(trial.inject_and_repair, first=number == 0) for trial in trials})
            lasting += [trial for trial in trials if trial.stage.lasting and found[trial.codes[0]] is None]
            print(f"wave {number}: {time.monotonic() - began:.1f} s")
        found |= in_parallel({trial: trial.expect_cleared for trial in lasting})
        yield found


@pytest.mark.parametrize("code", [row.code for row in ROWS])
def test_a_problem_is_found_in_every_place_when_it_comes_and_when_it_goes(results: Results, code: Code) -> None:
    if code not in results:
        pytest.skip("no real API server does that")
    if error := results[code]:
        raise error


def test_each_code_has_a_row() -> None:
    assert sorted(row.code for row in ROWS) == sorted(Code)
