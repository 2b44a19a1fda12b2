"""Kopf, embedded: registry, settings, login and supervision, in a thread and event loop of its own.

Of its own, because Kopf cancels every task of its loop that is younger than itself when it ends.
"""

import asyncio
import contextlib
import logging
import random
import ssl
import threading
from collections.abc import Iterator
from typing import Any

import aiohttp
import kopf

from wigglenet_operator.kube.access import ApiAccess
from wigglenet_operator.kube.handlers import Recorder, register

log = logging.getLogger(__name__)
RESTART_SECONDS = 1.0
"""Between the end of an operator and its successor."""
JOIN_SECONDS = 5.0
"""How long an operator may take to end."""


class Backoffs:
    """1, 2, 4, 8, 15, 15, … seconds, each with up to a half more, for ever: an API outage must not end the operator."""

    def __iter__(self) -> Iterator[float]:
        """Start anew for each request."""
        delay = 1.0
        while True:
            yield delay * random.uniform(1, 1.5)  # noqa: S311 - spreads requests, keeps no secret
            delay = min(delay * 2, 15.0)


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


def operator_settings() -> kopf.OperatorSettings:
    """Each value is a must with a measured reason; none of them may be left to Kopf's defaults."""
    settings = kopf.OperatorSettings()
    settings.posting.enabled = False
    settings.scanning.disabled = True
    settings.persistence.finalizer = "wigglenet.invalid/unused"  # Kopf removes its finalizer wherever it sees it
    settings.persistence.diffbase_storage = NoDiff()
    settings.persistence.progress_storage = NoProgress()
    settings.watching.chunk_size = 500
    settings.queueing.idle_timeout = 0.1  # each worker keeps its last event, some 40 KB, for so long
    settings.networking.error_backoffs = Backoffs()
    settings.process.ultimate_exiting_timeout = None  # else the whole agent is killed 600 s after a restart
    return settings


class KopfOperator:
    """Watches Nodes and tells a recorder, for as long as `run` runs."""

    def __init__(self, access: ApiAccess, recorder: Recorder) -> None:
        self._access = access
        self._recorder = recorder

    async def run(self) -> None:
        """Start an operator, and a fresh one whenever one ends, until cancelled."""
        while True:
            error = await self._one_life()
            log.warning("the watch of Nodes ended and is started anew: %s", error or "no error")
            await asyncio.sleep(RESTART_SECONDS * random.uniform(1, 2))  # noqa: S311 - spreads requests

    async def _one_life(self) -> BaseException | None:
        """One operator in one thread; what ended it."""
        here = asyncio.get_running_loop()
        ended: asyncio.Future[BaseException | None] = here.create_future()
        life = _Life(self._access, self._recorder)

        def tell(error: BaseException | None) -> None:
            if not ended.done():
                ended.set_result(error)

        def thread() -> None:
            error = life.live()
            with contextlib.suppress(RuntimeError):  # the agent's loop has ended first
                here.call_soon_threadsafe(tell, error)

        worker = threading.Thread(target=thread, name="kopf", daemon=True)
        worker.start()
        try:
            return await ended
        finally:
            life.end()
            await asyncio.to_thread(worker.join, JOIN_SECONDS)


class _Life:
    """One operator, in the thread that calls `live`."""

    def __init__(self, access: ApiAccess, recorder: Recorder) -> None:
        self._access = access
        self._recorder = recorder
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

        @kopf.on.login(registry=registry)
        async def login(**_: object) -> kopf.AiohttpSession:
            return kopf.AiohttpSession(server=self._access.server, aiohttp_session=session(self._access))

        await kopf.operator(registry=registry, settings=operator_settings(), clusterwide=True, standalone=True)


def session(access: ApiAccess) -> aiohttp.ClientSession:
    """A session that shows the token of the moment with each request, so that rotation needs no new login."""

    async def bearer(request: aiohttp.ClientRequest, handler: aiohttp.ClientHandlerType) -> aiohttp.ClientResponse:
        request.headers["Authorization"] = f"Bearer {access.token()}"
        return await handler(request)

    context = ssl.create_default_context(cafile=str(access.ca_file))
    return aiohttp.ClientSession(connector=aiohttp.TCPConnector(ssl=context), middlewares=(bearer,))
