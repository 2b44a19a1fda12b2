"""How does the small API server live in this process?  A thread in the place's network, an event loop, TLS.

A thread of this process rather than a process in the place: it starts in milliseconds, and tests read its counters.
"""

import asyncio
import contextlib
import socket
import ssl
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from typing import Literal, NamedTuple

import trustme
from aiohttp import web

from tests.lab.api.access import Access
from tests.lab.api.client import Client
from tests.lab.api.misbehaviour import CORRECT, Misbehaviour
from tests.lab.api.rest import NAMESPACES, SERVICE_CIDRS, Request, Rest
from tests.lab.api.store import Key, Snapshot, Store
from tests.lab.namespaces import Place

PORT = 6443
BOOKMARK_SECONDS = 1.0  # a real server takes about a minute; who waits for one in a test must not
SECONDS = 10.0  # to start and to stop, on a machine that is busy with labs
SYSTEM_NAMESPACES = ("default", "kube-node-lease", "kube-public", "kube-system")
SERVICE_RANGES = ("10.96.0.0/16", "fd00:10:96::/112")  # as the real one is told by --service-cluster-ip-range


class _Life(NamedTuple):
    """What belongs to one start() of a server; set `end` in `loop` to end it."""

    loop: asyncio.AbstractEventLoop
    end: asyncio.Event
    http: web.Server


class EmbeddedServer:
    """The `ApiServer` that needs nothing; one store for its whole life."""

    name: Literal["embedded"] = "embedded"

    def __init__(self, place: Place, address: str) -> None:
        """Make keys and an empty store; nothing runs yet."""
        self._place = place
        self._address = address
        self._tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        self._trusting: list[ssl.SSLContext] = []  # of the clients
        self.ca_pem = self._certify()
        self._handshake_delay = 0.0  # seconds
        self._store = Store()
        self._snapshot: Snapshot | None = None
        for name in SYSTEM_NAMESPACES:
            self._store.create(NAMESPACES, Key("", name), {"metadata": {"name": name}})
        ready = {"type": "Ready", "status": "True", "message": "Kubernetes default Service CIDR is ready"}
        content = {"spec": {"cidrs": [*SERVICE_RANGES]}, "status": {"conditions": [ready]}}
        self._store.create(SERVICE_CIDRS, Key("", "kubernetes"), content)
        self._access = Access(self._store)
        self._rest = Rest(self._store, self._access, bookmark_seconds=BOOKMARK_SECONDS)
        self._clients: list[Client] = []
        self._thread: threading.Thread | None = None
        self._life: _Life | None = None
        self.url = f"https://[{address}]:{PORT}" if ":" in address else f"https://{address}:{PORT}"
        self.admin = self.client(self._access.admin_token)

    @property
    def requests(self) -> "Counter[Request]":
        """How often each request was made so far, by verb, resource, user and node."""
        return self._rest.counted()

    def client(self, token: str) -> Client:
        """A client that may do what the bearer of `token` may."""
        self._trusting.append(ssl.create_default_context(cadata=self.ca_pem))
        made = Client(self.url, self._trusting[-1], self._place, token=token)
        self._clients.append(made)
        return made

    def start(self) -> None:
        """Return when the server listens; OSError if it cannot."""
        if self._thread:
            return
        ready: Future[_Life] = Future()
        self._thread = threading.Thread(target=self._run, args=(ready,), name="embedded-api-server", daemon=True)
        self._thread.start()
        try:
            self._life = ready.result(SECONDS)
        except BaseException:
            self._thread = None
            raise

    def stop(self) -> None:
        """End watches and connections; twice is fine."""
        for client in self._clients:
            client.close()
        if self._thread and self._life:
            self._life.loop.call_soon_threadsafe(self._life.end.set)
            self._thread.join(SECONDS)
            assert not self._thread.is_alive(), "the embedded server does not end"
        self._thread = self._life = None

    def forget_history(self) -> None:
        """Make every watch and `continue` from before now answer 410."""
        self._do(self._store.forget_history)

    def snapshot(self) -> None:
        """Keep objects and versions as they are for restore()."""

        def keep() -> None:
            self._snapshot = self._store.snapshot()

        self._do(keep)

    def restore(self) -> None:
        """Have objects and versions as they were at snapshot(); the server is started anew."""
        assert self._snapshot, "there is no snapshot"
        self.stop()
        self._store.restore(self._snapshot)
        self.start()

    # What the real one cannot be asked to do.

    def misbehave(self, how: Misbehaviour) -> None:
        """Answer every request but the administrator's like this from now on; connections are closed, and watches with them."""
        self._rest.misbehaviour = how
        self.cut()

    def behave(self) -> None:
        """Answer correctly from now on; connections stay open."""
        self._rest.misbehaviour = CORRECT

    @contextlib.contextmanager
    def misbehaving(self, how: Misbehaviour) -> Iterator[None]:
        """Misbehave within the block."""
        self.misbehave(how)
        try:
            yield
        finally:
            self.behave()

    def delay_tls(self, seconds: float) -> None:
        """Accept connections from other hosts, but delay the TLS handshake; connections are closed unless the delay is 0.

        A server without entropy or processor time: the kernel accepts connections of its listening socket all the same.
        """
        self._handshake_delay = seconds
        if seconds:
            self.cut()

    def change_certificate(self) -> None:
        """Have another CA and certificate from now on, as after a rotation; clients of this server know, agents do not."""
        self.ca_pem = self._certify()
        self.cut()

    def expire_tokens(self) -> None:
        """Make every token of now worth nothing, as time does; what was asked with it before is cut."""
        self._do(self._access.expire)
        self.cut()

    def cut(self) -> None:
        """End every connection, as a load balancer or a restart does."""
        if self._life:
            http = self._life.http
            self._do(lambda: _abort(http))

    def _certify(self) -> str:
        """Have a new certificate; who vouches for it, in PEM."""
        authority = trustme.CA()
        authority.issue_cert(self._address).configure_cert(self._tls)
        for tls in self._trusting:
            authority.configure_trust(tls)
        return authority.cert_pem.bytes().decode()

    def _do(self, action: Callable[[], None]) -> None:
        """Have something done to what belongs to the server's loop, in it if it runs."""
        if self._life is None:
            action()
            return

        async def doing() -> None:
            action()

        asyncio.run_coroutine_threadsafe(doing(), self._life.loop).result(SECONDS)

    def _run(self, ready: "Future[_Life]") -> None:
        try:
            with self._place.network():
                asyncio.run(self._serve(ready))
        except BaseException as error:  # noqa: BLE001 - whoever waits in start() gets it
            if not ready.done():
                ready.set_exception(error)

    async def _serve(self, ready: "Future[_Life]") -> None:
        app = web.Application(client_max_size=3 << 20)  # bytes; what a real server takes
        app.router.add_route("*", "/{path:.*}", self._rest.handle)
        # Watches never end by themselves, so there is nothing to wait for.
        runner = web.AppRunner(app, access_log=None, handler_cancellation=True, shutdown_timeout=0.05)
        await runner.setup()
        assert runner.server
        life = _Life(asyncio.get_running_loop(), asyncio.Event(), runner.server)
        try:
            with socket.create_server((self._address, PORT), family=_family(self._address), backlog=1024) as listening:
                listening.settimeout(0)
                async with asyncio.TaskGroup() as group:
                    accepting = group.create_task(self._accept(listening, life.http))
                    ready.set_result(life)
                    await life.end.wait()
                    accepting.cancel()
        finally:
            _abort(life.http)  # a TLS connection that is closed waits for its peer's farewell, and this loop ends
            await runner.cleanup()

    async def _accept(self, listening: socket.socket, http: web.Server) -> None:
        async with asyncio.TaskGroup() as group:
            while True:
                connection, (host, *_) = await asyncio.get_running_loop().sock_accept(listening)
                delay = 0.0 if host == self._address else self._handshake_delay
                group.create_task(self._greet(connection, http, delay))

    async def _greet(self, connection: socket.socket, http: web.Server, delay: float) -> None:
        try:
            await asyncio.sleep(delay)
        except asyncio.CancelledError:
            connection.close()
            raise
        with contextlib.suppress(OSError):  # who asks went away, or does not trust the certificate
            await asyncio.get_running_loop().connect_accepted_socket(http, connection, ssl=self._tls)


def _abort(http: web.Server) -> None:
    for connection in http.connections:
        if connection.transport:
            connection.transport.abort()


def _family(address: str) -> socket.AddressFamily:
    return socket.AF_INET6 if ":" in address else socket.AF_INET
