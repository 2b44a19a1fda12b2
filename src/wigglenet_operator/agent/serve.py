"""Health and metrics by HTTP, in a thread and event loop of their own: an agent whose loop hangs can still say so.

A port that is taken, or a certificate that cannot be used, is a problem and no end: both are tried again and again.
"""

import asyncio
import contextlib
import json
import logging
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path

from aiohttp import web

from wigglenet_operator.agent.health import Health, Turned
from wigglenet_operator.agent.metrics import Meter
from wigglenet_operator.model.config import AgentConfig, Bind, Tls
from wigglenet_operator.model.problems import Code
from wigglenet_operator.model.report import Problem
from wigglenet_operator.model.timing import PRODUCTION, Timing

log = logging.getLogger(__name__)
FRESH_SECONDS = 1.0
"""How old metrics may be."""
CLOSE_SECONDS = 2.0
"""How long an answer may take that is under way when the listener ends."""
IDLE_SECONDS, HANDSHAKE_SECONDS = 75.0, 5.0
"""How long a connection may ask nothing: longer than Prometheus's 60 s between two scrapes; and take for its TLS handshake."""
MOST = 100
"""Connections at an address."""
COMING = 20
"""Of which the TLS handshake may be under way: each takes 300 kB, so 900 of them all the memory that the manifest gives."""
RETRY_SECONDS = 0.1
"""After a connection that could not be accepted."""
TEXT, JSON = "text/plain; charset=utf-8", "application/json"
PROMETHEUS = "text/plain; version=0.0.4; charset=utf-8"


@dataclass(frozen=True, slots=True, kw_only=True)
class Page:
    """One answer."""

    status: HTTPStatus = HTTPStatus.OK
    kind: str
    body: bytes


Pages = Mapping[str, Callable[[], Page]]


class Bounded(web.Server):
    """Of more connections than MOST the oldest end: whoever holds many open must not keep others out, nor take descriptors."""

    def connection_made(self, handler: web.RequestHandler, transport: asyncio.Transport) -> None:
        """One more."""
        super().connection_made(handler, transport)
        for oldest in self.connections[:-MOST]:
            if oldest.transport:
                oldest.transport.abort()


class Listener:
    """Pages at one address, while that can be had."""

    def __init__(self, setting: str, bind: Bind, pages: Pages, tls: Tls | None = None, *, timing: Timing = PRODUCTION) -> None:
        """`setting` names what has the address; without `tls` it is plain HTTP."""
        self._setting, self._bind, self._pages, self._tls, self._timing = setting, bind, pages, tls, timing
        self._http: Bounded
        self._doors: list[asyncio.Task[None]] = []
        self._in_force: tuple[bytes, ...] | None = None
        self.problem: Problem | None = None

    async def keep(self) -> None:
        """Serve until cancelled, with what the files hold by now."""
        try:
            while True:
                self.problem = await self._renew()
                await asyncio.sleep(self._timing.listen_retry)
        finally:
            await self._close()

    async def _renew(self) -> Problem | None:
        """Listen, anew if the files have changed; what keeps it from that. Then what was in force stays."""
        try:
            content = _content(self._tls)
            if self._doors and content == self._in_force:
                return None
            context = tls_context(self._tls) if self._tls else None
        except (OSError, ValueError) as error:
            text = f"a file of METRICS_TLS_* cannot be used, what was in force stays: {error}"
            return Problem(code=Code.CertificateUnusable, subject=f"address {self._bind}", text=text)
        await self._close()  # with every connection, for who may connect has changed
        self._http = Bounded(self._answer, access_log=None, keepalive_timeout=IDLE_SECONDS)
        try:
            sockets = await self._bound()
        except OSError as error:
            text = f"cannot be listened on: {error.strerror or error}; see `ss -ltnp`, and set another {self._setting}"
            return Problem(code=Code.ListenFailed, subject=f"address {self._bind}", text=text)
        self._doors = [asyncio.create_task(self._accept(each, context)) for each in sockets]
        self._in_force = content
        log.info("listening on %s", self._bind)
        return None

    async def _bound(self) -> list[socket.socket]:
        host = str(self._bind.host) if self._bind.host else None
        loop = asyncio.get_running_loop()
        async with await loop.create_server(self._http, host, self._bind.port, start_serving=False) as server:
            sockets = [each.dup() for each in server.sockets]
        try:
            for each in sockets:
                each.listen()
        except OSError:
            for each in sockets:
                each.close()
            raise
        return sockets

    async def _accept(self, door: socket.socket, context: ssl.SSLContext | None) -> None:
        """Let in who comes, COMING at a time: asyncio's own server has no bound for those who have not shaken hands."""
        loop, room = asyncio.get_running_loop(), asyncio.Semaphore(COMING)
        with door:
            async with asyncio.TaskGroup() as coming:
                while True:
                    await room.acquire()
                    try:
                        came, _ = await loop.sock_accept(door)
                    except OSError:  # one that has gone again, or no descriptor is left
                        room.release()
                        await asyncio.sleep(RETRY_SECONDS)
                        continue
                    coming.create_task(self._greet(came, context)).add_done_callback(lambda _: room.release())

    async def _greet(self, came: socket.socket, context: ssl.SSLContext | None) -> None:
        loop, seconds = asyncio.get_running_loop(), HANDSHAKE_SECONDS if context else None
        with contextlib.suppress(OSError):  # it speaks no TLS, or not in time
            await loop.connect_accepted_socket(self._http, came, ssl=context, ssl_handshake_timeout=seconds)

    async def _close(self) -> None:
        for door in self._doors:
            door.cancel()
        if self._doors:
            await asyncio.wait(self._doors)
            self._http.pre_shutdown()
            await self._http.shutdown(CLOSE_SECONDS)
            self._doors = []

    async def _answer(self, request: web.BaseRequest) -> web.StreamResponse:
        if request.method not in {"GET", "HEAD"}:
            return web.Response(status=HTTPStatus.METHOD_NOT_ALLOWED)
        page = self._pages.get(request.path)
        if page is None:
            return web.Response(status=HTTPStatus.NOT_FOUND, text=f"here is {' and '.join(self._pages)}\n")
        try:
            made = page()
        except Exception:  # which aiohttp is not heard to say, for it says as much of each request that is none
            log.exception("%s ended by a bug of the agent, please report it", request.path)
            return web.Response(status=HTTPStatus.INTERNAL_SERVER_ERROR)
        return web.Response(status=made.status, body=made.body, headers={"Content-Type": made.kind})


def _content(tls: Tls | None) -> tuple[bytes, ...]:
    files = (tls.certificate, tls.key, tls.client_ca) if tls else ()
    return tuple(_read(Path(path)) for path in files if path)


def _read(path: Path) -> bytes:
    if not path.is_file() and path.exists():  # whoever opens a pipe waits for its writer, and the probes with him
        raise OSError(f"{path} is no file")
    return path.read_bytes()


def tls_context(tls: Tls) -> ssl.SSLContext:
    """A server's; ValueError that names the file that cannot be used."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    try:
        context.load_cert_chain(tls.certificate, tls.key, password=lambda: "")  # without, OpenSSL asks on the terminal
    except (OSError, ValueError) as error:
        raise ValueError(f"{tls.certificate} with {tls.key}: {error}") from error
    if tls.client_ca:
        try:
            context.load_verify_locations(tls.client_ca)
        except (OSError, ValueError) as error:
            raise ValueError(f"{tls.client_ca}: {error}") from error
        context.verify_mode = ssl.CERT_REQUIRED
    return context


class Server:
    """The thread; what it tells is what it has been given."""

    def __init__(self, health: Health, meter: Meter | None, listeners: list[Listener]) -> None:
        self._health, self._meter, self._listeners = health, meter, listeners
        self._loop = asyncio.new_event_loop()

    @contextlib.contextmanager
    def serving(self) -> Iterator[None]:
        """Serve while the block runs."""
        main = self._loop.create_task(self._serve())
        thread = threading.Thread(target=self._run, args=(main,), name="serve", daemon=True)
        thread.start()
        try:
            yield
        finally:
            self._call(main.cancel)
            thread.join(2 * CLOSE_SECONDS)

    def turned(self, turn: Turned) -> None:
        """A turn has ended; from another thread."""
        self._call(self._turned, turn)

    def problems(self) -> frozenset[Problem]:
        """What keeps it from serving; from any thread."""
        return frozenset(listener.problem for listener in self._listeners if listener.problem)

    def _turned(self, turn: Turned) -> None:
        self._health.turned(turn)
        if self._meter:
            self._meter.turned(turn)

    def _call(self, function: Callable[..., object], *arguments: object) -> None:
        with contextlib.suppress(RuntimeError):  # the thread has ended by a bug, which the missing answers tell
            self._loop.call_soon_threadsafe(function, *arguments)

    def _run(self, main: asyncio.Task[None]) -> None:
        with contextlib.closing(self._loop), contextlib.suppress(asyncio.CancelledError):
            try:
                self._loop.run_until_complete(main)
            finally:  # of connections: each that still waits for its client would be an error in the log
                self._loop.run_until_complete(_end_tasks())

    async def _serve(self) -> None:
        async with asyncio.TaskGroup() as group:
            for listener in self._listeners:
                group.create_task(listener.keep())


async def _end_tasks() -> None:
    rest = asyncio.all_tasks() - {asyncio.current_task()}
    for task in rest:
        task.cancel()
    await asyncio.gather(*rest, return_exceptions=True)


def server(config: AgentConfig, *, silent: Callable[[], float], meter: Meter | None) -> Server:
    """The server of an agent, with metrics if there is a meter; `silent` as in Health."""
    timing = config.timing
    health = Health(config.node_name, silent=silent, timing=timing)
    listeners = [Listener("HEALTH_BIND_ADDR", config.health, health_pages(health), timing=timing)]
    if meter and config.metrics:
        listeners.append(Listener("METRICS_BIND_ADDR", config.metrics, metrics_pages(meter), config.metrics_tls, timing=timing))
    return Server(health, meter, listeners)


def health_pages(health: Health) -> Pages:
    """`/healthz`, `/readyz` and `/status`."""

    def verdict(reasons: list[str]) -> Page:
        status = HTTPStatus.SERVICE_UNAVAILABLE if reasons else HTTPStatus.OK
        return Page(status=status, kind=TEXT, body="".join(f"{reason}\n" for reason in reasons or ["ok"]).encode())

    return {
        "/healthz": lambda: verdict(health.ailments()),
        "/readyz": lambda: verdict(health.hindrances()),
        "/status": lambda: Page(kind=JSON, body=json.dumps(health.status()).encode()),
    }


def metrics_pages(meter: Meter, clock: Callable[[], float] = time.monotonic) -> Pages:
    """`/metrics`, made anew only when it is old: 200 who read it all the time held up probes for 26 s at 1,000 peers."""
    made, when = b"", float("-inf")

    def page() -> Page:
        nonlocal made, when
        if clock() - when >= FRESH_SECONDS:
            made, when = meter.render(), clock()
        return Page(kind=PROMETHEUS, body=made)

    return {"/metrics": page}
