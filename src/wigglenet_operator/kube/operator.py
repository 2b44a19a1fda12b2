"""Kopf, embedded: registry, settings, login and supervision, in a thread and event loop of its own.

Of its own, because Kopf cancels every task of its loop that is younger than itself when it ends.
"""

import asyncio
import contextlib
import logging
import random
import threading
import time
from collections.abc import Callable, Iterator
from http import HTTPStatus
from typing import Any

import aiohttp
import kopf

from wigglenet_operator.kube.access import ApiAccess
from wigglenet_operator.kube.event_filter import NodeEventFilter
from wigglenet_operator.kube.handlers import Recorder, register
from wigglenet_operator.kube.pace import Budget
from wigglenet_operator.model.problems import Code
from wigglenet_operator.model.report import Problem
from wigglenet_operator.model.timing import PRODUCTION, Timing

log = logging.getLogger(__name__)
IDENTITY: Any = "wigglenet-operator"
"""Among operators that take turns, which this one does not."""
JOIN_SECONDS = 5.0
"""How long an operator may take to end; then it is left to itself."""
REFUSALS = (HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN)
"""What an administrator has to mend; other statuses are those of a server in trouble."""


class Backoffs:
    """Seconds before each further attempt, without end: an API outage must not end the operator.

    In production 1, 2, 4, 8, 15, 15, ... seconds, each with up to a half more at random.
    """

    def __init__(self, timing: Timing) -> None:
        self._timing = timing

    def __iter__(self) -> Iterator[float]:
        """Start anew for each request."""
        delay = self._timing.request_retry
        while True:
            yield delay * random.uniform(1, 1.5)  # noqa: S311 - spreads requests, keeps no secret
            delay = min(delay * 2, self._timing.request_retry_most)


class NoDiff(kopf.DiffBaseStorage):
    """Keeps Kopf from reading and comparing the last state of each object: 40 % of its CPU for nothing that we use."""

    def fetch(self, **_: object) -> None:
        """Nothing was ever kept."""

    def store(self, **_: object) -> None:
        """Nothing is kept."""


class NoProgress(kopf.ProgressStorage):
    """Keeps Kopf from looking for the progress of handlers that we do not have."""

    def fetch(self, **_: object) -> None:
        """Nothing was ever kept."""

    def store(self, **_: object) -> None:
        """Nothing is kept."""

    def purge(self, **_: object) -> None:
        """There is nothing to remove."""

    def touch(self, **_: object) -> None:
        """There is nothing to mark."""

    def clear(self, *, essence: Any) -> Any:  # noqa: ANN401 - Kopf's private type
        """The essence has nothing of ours."""
        return essence


def operator_settings(timing: Timing = PRODUCTION) -> kopf.OperatorSettings:
    """Each value is a must with a measured reason; none of them may be left to Kopf's defaults."""
    settings = kopf.OperatorSettings()
    settings.posting.enabled = False
    settings.scanning.disabled = True
    settings.persistence.finalizer = "wigglenet.invalid/unused"  # Kopf removes its finalizer wherever it sees it
    settings.persistence.diffbase_storage = NoDiff()
    settings.persistence.progress_storage = NoProgress()
    settings.watching.chunk_size = 500
    settings.watching.server_timeout = timing.watch
    settings.networking.connect_timeout = timing.connect
    settings.networking.request_timeout = timing.answer
    settings.queueing.idle_timeout = 0.1  # each worker keeps its last event, some 40 KB, for so long
    settings.networking.error_backoffs = Backoffs(timing)
    settings.process.ultimate_exiting_timeout = None  # else the whole agent is killed 600 s after a restart
    return settings


class Line:
    """What goes over the line to the API server: at a bounded pace, and noticed, so that silence can be told from quiet."""

    def __init__(self, clock: Callable[[], float] = time.monotonic, timing: Timing = PRODUCTION) -> None:
        self._clock, self._timing = clock, timing
        self.last = clock()
        """When something was asked or answered, or an operator began."""
        self.spoke = clock()
        """When something was asked or answered, whichever operator it was."""
        self.failing_since: float | None = None
        """Since when every request was refused, or was not answered; None if the last one was."""
        self.refused = 0
        """The HTTP status of the last refusal since then, 0 if nobody answered."""
        self._budget, self._held = Budget(timing.request_burst * timing.request_interval, clock), float("-inf")

    @property
    def held(self) -> bool:
        """Whether requests had to wait within the last minute."""
        return self._clock() - self._held < self._timing.watch_stable

    async def pace(self) -> None:
        """Wait until the next request may be made."""
        if wait := self._budget.spend(self._timing.request_interval):
            if not self.held:
                seconds = self._timing.request_interval
                log.warning("the API server ends every watch at once; from now on it is asked once in %g s", seconds)
            self._held = self._clock()
            await asyncio.sleep(wait)
        self.last = self.spoke = self._clock()

    def session(self, access: ApiAccess, node_filter: NodeEventFilter) -> aiohttp.ClientSession:
        """A session that shows the token of the moment with each request, so that rotation needs no new login.

        Its watches are filtered.
        """

        async def bearer(request: aiohttp.ClientRequest, handler: aiohttp.ClientHandlerType) -> aiohttp.ClientResponse:
            await self.pace()
            asked = self._clock()
            request.headers["Authorization"] = access.bearer()
            try:
                response = await handler(request)
            except (aiohttp.ClientError, OSError):
                self.refused, self.failing_since = 0, self.failing_since or asked
                raise
            self.last = self.spoke = self._clock()
            self.refused = response.status if response.status >= HTTPStatus.BAD_REQUEST else 0
            self.failing_since = (self.failing_since or asked) if self.refused else None
            if response.status == HTTPStatus.UNAUTHORIZED:  # Kopf asks again at once, 40 times a second
                await asyncio.sleep(self._timing.unauthorized)
            return response

        connector = aiohttp.TCPConnector(ssl=access.tls())
        shown = (bearer, access.counted)
        return aiohttp.ClientSession(connector=connector, middlewares=shown, response_class=node_filter.response_class())


class KopfOperator:
    """Watches Nodes and tells a recorder, for as long as `run` runs."""

    def __init__(
        self,
        access: ApiAccess,
        recorder: Recorder,
        clock: Callable[[], float] = time.monotonic,
        timing: Timing = PRODUCTION,
    ) -> None:
        self._access, self._recorder, self._clock, self._timing = access, recorder, clock, timing
        self._line = Line(clock, timing)
        self._end: asyncio.Future[str] | None = None
        self._renewed = False

    async def run(self) -> None:
        """Start an operator, and a fresh one whenever one ends or is deaf, until cancelled."""
        pauses = iter(Backoffs(self._timing))
        while True:
            started = self._clock()
            reason = await self._one_life()
            log.warning("the watch of Nodes is started anew: %s", reason)
            if self._clock() - started > self._timing.watch_stable:
                pauses = iter(Backoffs(self._timing))
            if not self._renewed:
                await self._pause(next(pauses))
            self._recorder.began()

    def renew(self, reason: str) -> None:
        """Start a fresh operator now, for the given reason; from the loop of `run`."""
        if self._end and not self._end.done():
            self._renewed = True
            self._end.set_result(reason)

    def renew_if_failing(self, reason: str) -> None:
        """The same if the last request came to nothing: then it would be tried again only in some seconds."""
        if self._line.failing_since is not None:
            self.renew(reason)

    def silent(self) -> float:
        """Seconds since anything was asked or answered: an API server that is away is asked all the time; from any thread."""
        return self._clock() - self._line.spoke

    def problems(self) -> frozenset[Problem]:
        """What is wrong with the talk to the API server."""
        found: list[tuple[Code, str]] = []
        if self._line.held:
            seconds = self._timing.request_interval
            text = f"it ends every watch at once; it is asked once in {seconds:g} s until it does not"
            found.append((Code.APIThrottled, text))
        since, status = self._line.failing_since, self._line.refused
        if since is not None and self._clock() - since > self._timing.refused:
            said = f"answers {status} when asked for Nodes" if status else "does not answer"
            code = Code.APIRefused if status in REFUSALS else Code.APIUnreachable
            found.append((code, f"it {said}; until it shows them, everything stays as it is"))
        return frozenset(Problem(code=code, subject="API server", text=text) for code, text in found)

    async def _pause(self, seconds: float) -> None:
        """Between the end of an operator that died and its successor, which may be asked for sooner."""
        self._end = asyncio.get_running_loop().create_future()
        await asyncio.wait([self._end], timeout=seconds)

    async def _one_life(self) -> str:
        """One operator in one thread; what ended it."""
        here = asyncio.get_running_loop()
        ended: asyncio.Future[str] = here.create_future()
        self._end, self._renewed = ended, False
        self._line.last = self._clock()
        life = _Life(self._access, self._recorder, self._line, self._timing)

        def tell(reason: str) -> None:
            if not ended.done():
                ended.set_result(reason)

        def thread() -> None:
            error = life.live()
            with contextlib.suppress(RuntimeError):  # the agent's loop has ended first
                here.call_soon_threadsafe(tell, str(error or "no error"))

        worker = threading.Thread(target=thread, name="kopf", daemon=True)
        worker.start()
        try:
            while not ended.done():
                silent = self._clock() - self._line.last
                if silent > self._timing.watch_silent:
                    tell(f"nothing was asked nor heard for {silent:.0f} s")
                await asyncio.wait([ended], timeout=self._timing.watch_silent - silent + 1)
            return ended.result()
        finally:
            life.end()
            await asyncio.to_thread(worker.join, JOIN_SECONDS)
            if worker.is_alive():
                log.warning("the former watch does not end and is left to itself")


class _Life:
    """One operator, in the thread that calls `live`."""

    def __init__(self, access: ApiAccess, recorder: Recorder, line: Line, timing: Timing) -> None:
        self._access, self._recorder, self._line, self._timing = access, recorder, line, timing
        self._loop: asyncio.AbstractEventLoop | None = None
        self._task: asyncio.Task[None] | None = None
        self._ended = False

    def live(self) -> BaseException | None:
        try:
            asyncio.run(self._operate())
        except (Exception, asyncio.CancelledError) as error:  # noqa: BLE001 - whatever ended it, the supervisor starts another
            return error
        return None

    def end(self) -> None:
        """From another thread; harmless if it has ended."""
        self._ended = True
        if self._loop and self._task and not self._loop.is_closed():
            with contextlib.suppress(RuntimeError):
                self._loop.call_soon_threadsafe(self._task.cancel)

    async def _operate(self) -> None:
        self._loop, self._task = asyncio.get_running_loop(), asyncio.current_task()
        if self._ended:
            return
        registry = kopf.OperatorRegistry()
        register(registry, self._recorder)
        node_filter = NodeEventFilter(self._recorder)
        sessions: list[aiohttp.ClientSession] = []  # Kopf closes its own only if it ends in good order

        @kopf.on.login(registry=registry)
        async def login(**_: object) -> kopf.AiohttpSession:
            sessions[:] = [session for session in sessions if not session.closed]  # after each 401 Kopf logs in again
            sessions.append(self._line.session(self._access, node_filter))
            return kopf.AiohttpSession(server=self._access.server, aiohttp_session=sessions[-1])

        try:
            await kopf.operator(
                registry=registry,
                settings=operator_settings(self._timing),
                clusterwide=True,
                standalone=True,
                identity=IDENTITY,  # else Kopf asks DNS, in this thread, and each watch waits for a server that does not answer
            )
        finally:
            for session in sessions:
                await session.close()
