"""What came and what went, as Events on the own Node: each once, those that cancel each other not at all, never too many."""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from http import HTTPStatus

from wigglenet_operator.agent.ledger import refusal
from wigglenet_operator.errors import ApiError
from wigglenet_operator.kube.pace import Budget, spread
from wigglenet_operator.model.problems import Code
from wigglenet_operator.model.report import Problem
from wigglenet_operator.model.timing import PRODUCTION, Timing

log = logging.getLogger(__name__)
AT_ONCE = 20
"""Events that need not keep `event_interval`."""
UNFIT = (HTTPStatus.BAD_REQUEST, HTTPStatus.UNPROCESSABLE_ENTITY)
"""What the same Event would be told for ever; it is left out."""
MOST = 200
"""That wait to be told; of more the oldest are forgotten, for log and status have them."""


class Events:
    """Tells what it is given, in order, for as long as `keep` runs."""

    def __init__(
        self,
        publish: Callable[[Problem, bool], Awaitable[None]],
        *,
        nodes: Callable[[], int],
        timing: Timing = PRODUCTION,
    ) -> None:
        """`publish` writes one: a problem, and whether it has come; ApiError if it could not. `nodes` are as many as tell."""
        self._publish, self._nodes, self._timing = publish, nodes, timing
        self._waiting: dict[Problem, bool] = {}
        self._news = asyncio.Event()
        self._refused = (0, "")  # status and text

    def note(self, problem: Problem, *, came: bool) -> None:
        """Have it told; what went before it was told that it had come is not worth a word."""
        if self._waiting.get(problem, came) is not came:
            del self._waiting[problem]
            return
        self._waiting[problem] = came
        if len(self._waiting) > MOST:
            del self._waiting[next(iter(self._waiting))]
        self._news.set()

    def problems(self) -> frozenset[Problem]:
        """That the API server refuses them, if it does."""
        return refusal(Code.EventsFailed, self._refused[1])

    async def keep(self) -> None:
        """Tell until cancelled."""
        timing = self._timing
        budget = Budget(AT_ONCE * timing.event_interval, asyncio.get_running_loop().time)
        while True:
            await self._news.wait()
            await asyncio.sleep(timing.report_settle + spread(self._nodes()))
            while self._waiting:
                await asyncio.sleep(budget.spend(timing.event_interval))
                if self._waiting:
                    await self._tell(next(iter(self._waiting)))
            self._news.clear()

    async def _tell(self, problem: Problem) -> None:
        came = self._waiting.pop(problem)
        try:
            await self._publish(problem, came)
        except ApiError as error:
            if error.status not in UNFIT:
                await self._keep_waiting(problem, came, error)
                return
            log.warning("not told: %s", error)
        if not self._waiting:  # else one of those may be refused again
            self._refused = (0, "")

    async def _keep_waiting(self, problem: Problem, came: bool, error: ApiError) -> None:  # noqa: FBT001 - as it is kept
        if error.refused and error.status != self._refused[0]:  # each names another Event: each text would be another problem
            self._refused = (error.status, str(error))
        if problem in self._waiting:  # it has changed again, which leaves nothing to tell
            del self._waiting[problem]
        else:
            self._waiting[problem] = came
        await asyncio.sleep(self._timing.report_retry)
