"""What a turn did, told: one log line for a turn that changed or failed, problems as they come and go, the status."""

import json
import logging
import time
from collections.abc import Callable, Mapping

from wigglenet_operator.agent.kept import Kept
from wigglenet_operator.agent.ledger import STATUS_PROBLEMS, Ledger, render_problems
from wigglenet_operator.kube.pace import Budget
from wigglenet_operator.model.problems import Severity
from wigglenet_operator.model.report import Problem, TurnReport

log = logging.getLogger(__name__)
LINES = 1000.0
"""About problems in a row, and then one a second: a Node whose annotations change all the time would fill every node's disk."""


class Teller:
    """Remembers what it has told, so that it tells only what is new."""

    def __init__(
        self,
        *,
        version: str,
        status: Kept[str],
        note: Callable[[Problem, bool], None],
        clock: Callable[[], float] = time.time,
    ) -> None:
        """`note` makes an Event of a problem, and whether it has come; `clock` gives Unix seconds."""
        self._version, self._status, self._note = version, status, note
        self.ledger = Ledger(clock)
        self._failing = False
        self._lines, self._left_out = Budget(LINES, time.monotonic), 0

    def tell(self, report: TurnReport, *, seconds: float) -> None:
        """Log what is new, and have the status written if it is not what the Node has."""
        news = self._tell_problems(report)
        self._log_steps(report, seconds)
        if report.registered:
            self._status.want(render_status(report, self.ledger.since, version=self._version), urgent=news)

    def _tell_problems(self, report: TurnReport) -> bool:
        """Whether there were any that came or went."""
        came, gone = self.ledger.update(report, self._status.published() or "")
        for problem in came:
            level = logging.ERROR if problem.meaning.severity is Severity.ERROR else logging.WARNING
            self._log(level, "problem", problem)
            self._note(problem, True)  # noqa: FBT003 - as it is described
        for problem in gone:
            self._log(logging.INFO, "solved", problem)
            self._note(problem, False)  # noqa: FBT003 - as it is described
        return bool(came or gone)

    def _log(self, level: int, what: str, problem: Problem) -> None:
        if not self._lines.afford(1.0):
            self._left_out += 1
            return
        if self._left_out:
            log.warning("left out %d lines about problems that come and go all the time", self._left_out)
            self._left_out = 0
        log.log(level, "%s: %s [%s]", what, problem, problem.code)

    def _log_steps(self, report: TurnReport, seconds: float) -> None:
        failing = any(step.error for step in report.steps.values())
        if report.wrote or (self._failing and not failing):
            steps = " ".join(f"{name}={step}" for name, step in report.steps.items() if step.wrote)
            log.info("%s %s took_ms=%.0f", "failed" if failing else "converged", steps, seconds * 1000)
        self._failing = failing


def render_status(report: TurnReport, since: Mapping[Problem, str], *, version: str) -> str:
    """Compact JSON of `describe`; of the problems 5 at most, and in `more` how many there are beside them, if there are."""
    status = describe(report, since, version=version)
    if (more := len(since) - STATUS_PROBLEMS) > 0:
        status = {**status, "problems": render_problems(since)[:STATUS_PROBLEMS], "more": more}
    return json.dumps(status, separators=(",", ":"))


def describe(report: TurnReport, since: Mapping[Problem, str], *, version: str) -> dict[str, object]:
    """Of a node, as JSON has it: phase, version, wireguard, mtu, peers, handshaken, problems."""
    return {
        "phase": report.phase,
        "version": version,
        "wireguard": report.wireguard,
        "mtu": report.mtu,
        "peers": report.peers,
        "handshaken": report.handshaken,
        "problems": render_problems(since),
    }
