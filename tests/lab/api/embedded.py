"""How does the small API server live in this process?  A thread in the place's network, an event loop, TLS.

A thread of this process rather than a process in the place: it starts in milliseconds, and tests read its counters.
"""

import asyncio
import socket
import ssl
import threading
from collections import Counter
from concurrent.futures import Future
from typing import Literal, NamedTuple

import trustme
from aiohttp import web

from tests.lab.api.access import Access
from tests.lab.api.client import Client
from tests.lab.api.rest import NAMESPACES, Request, Rest
from tests.lab.api.store import Key, Store
from tests.lab.namespaces import Place

PORT = 6443
BOOKMARK_SECONDS = 1.0  # a real server takes about a minute; who waits for one in a test must not
SECONDS = 10.0  # to start and to stop, on a machine that is busy with labs
SYSTEM_NAMESPACES = ("default", "kube-node-lease", "kube-public", "kube-system")


class _Life(NamedTuple):
    """What belongs to one start() of a server; set `end` in `loop` to end it."""

    loop: asyncio.AbstractEventLoop
    end: asyncio.Event


class EmbeddedServer:
    """The `ApiServer` that needs nothing; one store for its whole life."""

    name: Literal["embedded"] = "embedded"

    def __init__(self, place: Place, address: str) -> None:
        """Make keys and an empty store; nothing runs yet."""
        self._place = place
        self._address = address
        self._authority = trustme.CA()
        self._leaf = self._authority.issue_cert(address)
        self._store = Store()
        for name in SYSTEM_NAMESPACES:
            self._store.create(NAMESPACES, Key("", name), {"metadata": {"name": name}})
        self._access = Access(self._store)
        self._rest = Rest(self._store, self._access, bookmark_seconds=BOOKMARK_SECONDS)
        self._clients: list[Client] = []
        self._thread: threading.Thread | None = None
        self._life: _Life | None = None
        self.ca_pem = self._authority.cert_pem.bytes().decode()
        self.url = f"https://[{address}]:{PORT}" if ":" in address else f"https://{address}:{PORT}"
        self.admin = self.client(self._access.admin_token)

    @property
    def requests(self) -> "Counter[Request]":
        """How often each request was made so far, by verb, resource, user and node."""
        return self._rest.counted()

    def client(self, token: str) -> Client:
        """A client that may do what the bearer of `token` may."""
        made = Client(self.url, ssl.create_default_context(cadata=self.ca_pem), self._place, token=token)
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
        if self._life is None:
            self._store.forget_history()
            return
        done = threading.Event()

        def forget() -> None:
            self._store.forget_history()
            done.set()

        self._life.loop.call_soon_threadsafe(forget)
        assert done.wait(SECONDS), "the embedded server does not answer"

    def _run(self, ready: "Future[_Life]") -> None:
        try:
            with self._place.network():
                asyncio.run(self._serve(ready))
        except BaseException as error:  # noqa: BLE001 - whoever waits in start() gets it
            if not ready.done():
                ready.set_exception(error)

    async def _serve(self, ready: "Future[_Life]") -> None:
        life = _Life(asyncio.get_running_loop(), asyncio.Event())
        tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        self._leaf.configure_cert(tls)
        app = web.Application(client_max_size=3 << 20)  # bytes; what a real server takes
        app.router.add_route("*", "/{path:.*}", self._rest.handle)
        # Watches never end by themselves, so there is nothing to wait for.
        runner = web.AppRunner(app, access_log=None, handler_cancellation=True, shutdown_timeout=0.05)
        await runner.setup()
        try:
            with socket.create_server((self._address, PORT), family=_family(self._address), backlog=1024) as listening:
                await web.SockSite(runner, listening, ssl_context=tls, backlog=1024).start()
                ready.set_result(life)
                await life.end.wait()
        finally:
            # Cut what is open: a TLS connection that is closed waits for its peer's farewell, and this loop ends.
            for connection in runner.server.connections if runner.server else ():
                if connection.transport:
                    connection.transport.abort()
            await runner.cleanup()


def _family(address: str) -> socket.AddressFamily:
    return socket.AF_INET6 if ":" in address else socket.AF_INET
