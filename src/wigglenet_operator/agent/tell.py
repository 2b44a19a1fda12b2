"""What a turn did, told: one log line for a turn that changed or failed, problems as they come and go, the status."""

import asyncio
import json
import logging
from collections.abc import Awaitable, Callable, Mapping

from wigglenet_operator.errors import ApiError
from wigglenet_operator.model.report import Problem, TurnReport
from wigglenet_operator.plan.desired import STATUS

log = logging.getLogger(__name__)
STATUS_SECONDS = 60.0
"""The least between two writes of the status: every write wakes every agent."""
SETTLE_SECONDS = 2.0
"""Between a change and its write: a start or a join changes several things in a row."""
STATUS_PROBLEMS = 5
STATUS_CHARACTERS = 200
"""Of each problem; annotations of a Node have 256 KiB in all."""


class Teller:
    """Remembers what it has told, so that it tells only what is new."""

    def __init__(
        self,
        *,
        version: str,
        published: Callable[[], Mapping[str, str]],
        write: Callable[[Mapping[str, str]], Awaitable[None]],
    ) -> None:
        """`published` tells the own Node's annotations of now, `write` merges into them."""
        self._version, self._published, self._write = version, published, write
        self._problems: frozenset[Problem] = frozenset()
        self._errors: Mapping[str, str] = {}
        self._status = ""
        self._news = asyncio.Event()

    def tell(self, report: TurnReport, *, seconds: float) -> None:
        """Log what is new, and have the status written if it is not what the Node has."""
        self._log_problems(report)
        self._log_steps(report, seconds)
        if report.registered:
            self._status = render_status(report, version=self._version)
            if self._published().get(STATUS) != self._status:
                self._news.set()

    async def keep_status(self) -> None:
        """Write the status when it has changed, at most once a minute, until cancelled; a failed write is tried again."""
        while True:
            await self._news.wait()
            await asyncio.sleep(SETTLE_SECONDS)
            self._news.clear()
            if self._published().get(STATUS) == self._status:
                continue
            try:
                await self._write({STATUS: self._status})
            except ApiError as error:
                log.warning("%s", error)
                self._news.set()
            await asyncio.sleep(STATUS_SECONDS - SETTLE_SECONDS)

    def _log_problems(self, report: TurnReport) -> None:
        gone = frozenset() if report.waiting else self._problems - report.problems  # a turn that waits knows too little
        for problem in sorted(report.problems - self._problems):
            log.warning("problem: %s", problem)
        for problem in sorted(gone):
            log.info("solved: %s", problem)
        self._problems = (self._problems | report.problems) - gone

    def _log_steps(self, report: TurnReport, seconds: float) -> None:
        errors = {name: step.error for name, step in report.steps.items() if step.error}
        for name, error in errors.items():
            if self._errors.get(name) != error:
                log.error("%s: %s", name, error)
        if report.wrote or (self._errors and not errors):
            steps = " ".join(f"{name}={step}" for name, step in report.steps.items() if step.wrote)
            log.info("%s %s took_ms=%.0f", "failed" if errors else "converged", steps, seconds * 1000)
        self._errors = errors


def render_status(report: TurnReport, *, version: str) -> str:
    """Compact JSON: phase, version, wireguard, mtu, peers, handshaken, problems (the first 5 by name)."""
    errors = (f"{name}: {step.error}" for name, step in report.steps.items() if step.error)
    problems = [text[:STATUS_CHARACTERS] for text in (*errors, *map(str, sorted(report.problems)))]
    status = {
        "phase": report.phase,
        "version": version,
        "wireguard": report.wireguard,
        "mtu": report.mtu,
        "peers": report.peers,
        "handshaken": report.handshaken,
        "problems": problems[:STATUS_PROBLEMS],
    }
    return json.dumps(status, separators=(",", ":"))
