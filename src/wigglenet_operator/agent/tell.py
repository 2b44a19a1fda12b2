"""What a turn did, told: one log line for a turn that changed or failed, problems as they come and go, the status."""

import asyncio
import json
import logging
import time
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress

from wigglenet_operator.agent.ledger import STATUS_PROBLEMS, Ledger, render_problems
from wigglenet_operator.errors import ApiError
from wigglenet_operator.model.problems import Severity
from wigglenet_operator.model.report import Problem, TurnReport
from wigglenet_operator.plan.desired import STATUS

log = logging.getLogger(__name__)
STATUS_SECONDS = 60.0
"""Between two writes of the status, in the long run: every write wakes every agent."""
AT_ONCE = 5
"""Writes in a row that do not wait for that, of problems that came or went: who mends something looks whether it helped."""
SETTLE_SECONDS = 2.0
"""Between a change and its write: a start or a join changes several things in a row."""


class Teller:
    """Remembers what it has told, so that it tells only what is new."""

    def __init__(
        self,
        *,
        version: str,
        published: Callable[[], Mapping[str, str]],
        write: Callable[[Mapping[str, str]], Awaitable[None]],
        note: Callable[[Problem, bool], None],
        clock: Callable[[], float] = time.time,
    ) -> None:
        """`published` tells the own Node's annotations of now, `write` merges into them; `note` makes an Event.

        `note` is given a problem and whether it has come; `clock` gives Unix seconds.
        """
        self._version, self._published, self._write, self._note = version, published, write, note
        self.ledger = Ledger(clock)
        self._failing = False
        self._status = ""
        self._news, self._changed = asyncio.Event(), asyncio.Event()

    def tell(self, report: TurnReport, *, seconds: float) -> None:
        """Log what is new, and have the status written if it is not what the Node has."""
        self._tell_problems(report)
        self._log_steps(report, seconds)
        if report.registered:
            self._status = render_status(report, self.ledger.since, version=self._version)
            if self._published().get(STATUS) != self._status:
                self._news.set()

    async def keep_status(self) -> None:
        """Write the status when it has changed, until cancelled; a failed write is tried again.

        At most once a minute; a few times more if problems have come or gone.
        """
        clock = asyncio.get_running_loop().time
        left, counted = float(AT_ONCE), clock()
        while True:
            await self._news.wait()
            await asyncio.sleep(SETTLE_SECONDS)
            self._news.clear()
            self._changed.clear()
            if self._published().get(STATUS) == self._status:
                continue
            try:
                await self._write({STATUS: self._status})
            except ApiError as error:
                log.warning("%s", error)
                self._news.set()
            left, counted = min(left + (clock() - counted) / STATUS_SECONDS, AT_ONCE) - 1, clock()
            with suppress(TimeoutError):
                async with asyncio.timeout(STATUS_SECONDS - SETTLE_SECONDS):
                    await asyncio.sleep((1 - left) * STATUS_SECONDS)
                    await self._changed.wait()

    def _tell_problems(self, report: TurnReport) -> None:
        came, gone = self.ledger.update(report, self._published().get(STATUS, ""))
        for problem in came:
            level = logging.ERROR if problem.meaning.severity is Severity.ERROR else logging.WARNING
            log.log(level, "problem: %s [%s]", problem, problem.code)
            self._note(problem, True)  # noqa: FBT003 - as it is described
        if came or gone:
            self._changed.set()
        for problem in gone:
            log.info("solved: %s [%s]", problem, problem.code)
            self._note(problem, False)  # noqa: FBT003 - as it is described

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
