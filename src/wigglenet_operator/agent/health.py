"""Is the agent at work, and is this node's network as it should be?  Judged from the last turn, outside of the agent's loop.

At work is an agent that ends turns and whose watch speaks with the API server: nothing else is mended by starting it anew.
"""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime

from wigglenet_operator import __version__
from wigglenet_operator.agent.ledger import ranked
from wigglenet_operator.agent.tell import describe
from wigglenet_operator.model.facts import NodeName
from wigglenet_operator.model.problems import Code
from wigglenet_operator.model.report import Problem, TurnReport
from wigglenet_operator.model.timing import PRODUCTION, Timing


@dataclass(frozen=True, slots=True, kw_only=True)
class Turned:
    """A turn that has ended."""

    report: TurnReport
    since: Mapping[Problem, str] = field(default_factory=dict)
    """When each problem was first seen."""
    stopped: bool = False
    """Whether it came to nothing: but for the problem that says so, the report is the former turn's."""
    began: float
    """Unix time."""
    ended: float
    """Monotonic time."""
    heard: float | None = None
    """Monotonic time of the first event that it followed; None if it followed none."""


def hindrances(report: TurnReport) -> list[str]:
    """Why a node's network is not as it should be, by one turn, the worst first; empty if it is."""
    waiting = ["waiting: there is too little to plan with"] if report.waiting else []
    broken = (str(p) for p in ranked(report.problems) if p.meaning.breaks)
    undone = (f"step {name} waits for step {step.waits_for}" for name, step in report.steps.items() if step.waits_for)
    return [*waiting, *broken, *undone]


class Health:
    """The last turn, and what it says."""

    def __init__(
        self,
        node: NodeName,
        *,
        silent: Callable[[], float],
        clock: Callable[[], float] = time.monotonic,
        timing: Timing = PRODUCTION,
    ) -> None:
        """`silent` tells for how many seconds the watch has neither asked nor heard anything."""
        self._node, self._silent, self._clock, self._timing = node, silent, clock, timing
        self._started = datetime.now(tz=UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        self._ended = clock()
        self._last: Turned | None = None

    def turned(self, turn: Turned) -> None:
        """A turn has ended."""
        self._last = turn
        if all(problem.code is not Code.TurnCrashed for problem in turn.report.problems):  # another start may be without
            self._ended = turn.ended

    def ailments(self) -> list[str]:
        """Why the agent should be started anew; empty if it should not."""
        found = []
        if (hangs := self._clock() - self._ended) > self._timing.hang:
            found.append(f"no turn has come to an end for {hangs:.0f} s")
        if (silent := self._silent()) > self._timing.silence:
            found.append(f"the watch of Nodes has neither asked nor heard anything for {silent:.0f} s")
        return found

    def hindrances(self) -> list[str]:
        """Why this node's network is not as it should be, or may not be; empty if it is."""
        if self._last is None:
            return [*self.ailments(), "no turn has ended yet"]
        return [*self.ailments(), *hindrances(self._last.report)]

    def status(self) -> dict[str, object]:
        """What the agent knows, as JSON has it: what the Node's status says, and names of peers, start, readiness, reasons."""
        known: dict[str, object] = {}
        if last := self._last:
            known = describe(last.report, last.since, version=__version__) | {"peer_names": {**last.report.names}}
        reasons = self.hindrances()
        return {"node": self._node, "started": self._started, **known, "ready": not reasons, "reasons": reasons}
