"""What can an API server do to its agents?  The embedded server's faults: each is something that real ones do, on purpose.

`EmbeddedServer.misbehaving` puts one in force.  What a fault does lies between who asks and what is stored: the store, and
the administrator who looks at it, stay truthful.
"""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from http import HTTPStatus

from aiohttp import web

from tests.lab.api.access import Asked
from tests.lab.api.refusals import refusal
from tests.lab.api.store import TOO_OLD_PAGE
from tests.lab.api.watching import line

Answer = Callable[[web.Request, Asked], Awaitable[web.StreamResponse | None]]
LOOKING = ("list", "watch")
RETRY_SECONDS = 1  # what real servers ask for with every 429
_WORDS = {  # of apimachinery/pkg/api/errors, and where it leaves them open, of a server's log
    HTTPStatus.UNAUTHORIZED: ("Unauthorized", "Unauthorized"),
    HTTPStatus.FORBIDDEN: ("Forbidden", "nodes is forbidden: not yet ready to handle request"),
    HTTPStatus.GONE: ("Expired", "too old resource version: 1 (2)"),
    HTTPStatus.TOO_MANY_REQUESTS: ("TooManyRequests", "storage is (re)initializing"),
    HTTPStatus.INTERNAL_SERVER_ERROR: ("InternalError", "Internal error occurred: etcdserver: leader changed"),
    HTTPStatus.SERVICE_UNAVAILABLE: ("ServiceUnavailable", "the server is currently unable to handle the request"),
    HTTPStatus.GATEWAY_TIMEOUT: ("Timeout", "Timeout: Too large resource version: 2, current: 1"),
}


async def _rightly(_request: web.Request, _asked: Asked) -> None:
    """No answer of a fault's: the right one is given."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """What is wrong; a field that is left out is right."""

    answer: Answer = _rightly
    """Answers, or lets a request through by None."""
    page_size: int = 0
    """More than so many objects are never in one page of a list; 0: as asked."""
    withheld: frozenset[str] = frozenset()
    """Types of events that a watch never tells."""


FAULTLESS = Fault()


def answers(status: HTTPStatus, *verbs: str) -> Fault:
    """A refusal of list and watch, or of the given verbs.

    401 while the key that signs tokens is changed; 403 until RBAC has been read, during a start; 410 for a watch that etcd
    serves, without the cache; 429 while that cache is filled, or of a client with too many requests; 500 when etcd has no
    leader; 503 during start and stop, and from load balancers.
    """

    async def answer(_request: web.Request, asked: Asked) -> web.StreamResponse | None:
        if asked.verb not in (verbs or LOOKING):
            return None
        later = {"Retry-After": str(RETRY_SECONDS)} if status is HTTPStatus.TOO_MANY_REQUESTS else {}
        return web.json_response(refusal(status, *_WORDS[status]).body, status=status, headers=later)

    return Fault(answer=answer)


def watch_error(status: HTTPStatus) -> Fault:
    """A watch that begins well and tells of its end by an ERROR event, at once, every time.

    410 after a compaction, or from a server whose cache is younger than the client; 500 when etcd ends the server's own watch;
    504 when the client has seen versions that this server has not.
    """
    return _watches_once(line("ERROR", refusal(status, *_WORDS[status]).body))


def closes_at_once() -> Fault:
    """A watch that begins well and ends at once, every time: a load balancer before a server that is gone, or a full one."""
    return _watches_once(b"")


def web_page(status: HTTPStatus) -> Fault:
    """A page for people instead of an answer to list and watch: of a proxy, or of a login that somebody has put in front."""

    async def answer(_request: web.Request, asked: Asked) -> web.StreamResponse | None:
        return web.Response(text="<html>", content_type="text/html", status=status) if asked.verb in LOOKING else None

    return Fault(answer=answer)


def hangs(*verbs: str) -> Fault:
    """A request (list and watch, or of the given verbs) that is accepted and never answered, not even after the fault.

    A server that waits for etcd or swaps; a load balancer or a NAT that has forgotten the connection.
    """

    async def answer(_request: web.Request, asked: Asked) -> web.StreamResponse | None:
        if asked.verb in (verbs or LOOKING):
            await asyncio.Event().wait()
        return None

    return Fault(answer=answer)


def expired_continue(page_size: int) -> Fault:
    """A list that cannot be read to its end: pages are small, and each `continue` is refused with 410.

    etcd forgets after 5 minutes, or sooner if it is told; who reads slowly, or a server that lags, meets that in the middle.
    """

    async def answer(request: web.Request, asked: Asked) -> web.StreamResponse | None:
        if asked.verb == "list" and request.query.get("continue"):
            raise refusal(HTTPStatus.GONE, "Expired", TOO_OLD_PAGE)
        return None

    return Fault(answer=answer, page_size=page_size)


def deaf_watch(*, bookmarks: bool) -> Fault:
    """Watches that stay open and tell nothing, or nothing but that they are up to date.

    A server whose cache has lost events (kubernetes/kubernetes#123072), or a client that has seen versions which a restore took
    back (#107457).
    """
    everything = {"ADDED", "MODIFIED", "DELETED"} | (set() if bookmarks else {"BOOKMARK"})
    return Fault(withheld=frozenset(everything))


def loses_deletions() -> Fault:
    """Watches that tell everything but DELETED: the event fell into a gap between two watches, or the cache never had it."""
    return Fault(withheld=frozenset({"DELETED"}))


def _watches_once(told: bytes) -> Fault:
    async def answer(request: web.Request, asked: Asked) -> web.StreamResponse | None:
        if asked.verb != "watch":
            return None
        response = web.StreamResponse(headers={"Content-Type": "application/json"})
        await response.prepare(request)
        await response.write(told)
        return response

    return Fault(answer=answer)
