"""What a turn did, told: one log line for a turn that changed or failed, problems as they come and go, the status."""

import json
import logging
from collections.abc import Awaitable, Callable, Mapping

from wigglenet_operator.errors import ApiError
from wigglenet_operator.model.report import Problem, TurnReport
from wigglenet_operator.plan.desired import STATUS

log = logging.getLogger(__name__)
STATUS_SECONDS = 60.0
"""The least between two writes of the status: every write wakes every agent."""
STATUS_PROBLEMS = 5


class Teller:
    """Remembers what it has told, so that it tells only what is new."""

    def __init__(
        self,
        *,
        version: str,
        published: Callable[[], Mapping[str, str]],
        write: Callable[[Mapping[str, str]], Awaitable[None]],
        clock: Callable[[], float],
    ) -> None:
        """`published` tells the own Node's annotations of now, `write` merges into them, `clock` is monotonic."""
        self._version, self._published, self._write, self._clock = version, published, write, clock
        self._problems: frozenset[Problem] = frozenset()
        self._errors: Mapping[str, str] = {}
        self._written: float | None = None

    async def tell(self, report: TurnReport, *, seconds: float) -> None:
        """Log, and write the status if it is new; a status that cannot be written is tried again next turn."""
        self._log(report, seconds)
        if report.waiting:
            return
        status = render_status(report, version=self._version)
        now = self._clock()
        due = self._written is None or now - self._written >= STATUS_SECONDS
        if due and self._published().get(STATUS) != status:
            try:
                await self._write({STATUS: status})
            except ApiError as error:
                log.warning("%s", error)
            else:
                self._written = now

    def _log(self, report: TurnReport, seconds: float) -> None:
        for problem in sorted(report.problems - self._problems):
            log.warning("problem: %s", problem)
        for problem in sorted(self._problems - report.problems):
            log.info("solved: %s", problem)
        self._problems = report.problems
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
    problems = [*errors, *map(str, sorted(report.problems))]
    status = {
        "phase": report.phase,
        "version": version,
        "wireguard": "userspace",
        "mtu": report.mtu,
        "peers": report.peers,
        "handshaken": report.handshaken,
        "problems": problems[:STATUS_PROBLEMS],
    }
    return json.dumps(status, separators=(",", ":"))
