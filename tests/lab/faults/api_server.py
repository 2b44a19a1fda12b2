"""Faults of the API server and of the connection to it.

The first half describes answers of the embedded server (`Misbehaviour`); each is what real servers do at times.  A misbehaviour
changes answers only: the stored objects, and the answers to the administrator, stay correct.  The second half are acts.
"""

import asyncio
from http import HTTPStatus

from aiohttp import web

from tests.lab.api.access import Asked
from tests.lab.api.embedded import EmbeddedServer
from tests.lab.api.misbehaviour import Misbehaviour
from tests.lab.api.refusals import refusal
from tests.lab.api.store import TOO_OLD_PAGE
from tests.lab.api.watching import line
from tests.lab.faults.fault import Act, Fault, run
from tests.lab.faults.node import REMOVE_UNREACHABLE
from tests.lab.lab import API_ADDRESS, Lab
from tests.lab.node import SERVICE_ACCOUNT, LabNode
from tests.lab.sources import NODE_IPS
from tests.lab.wait import eventually

READING = ("list", "watch")
RETRY_SECONDS = 1  # the value of Retry-After that real servers send with 429
TLS_SECONDS = 60
"""A TLS handshake that takes longer than any client waits."""
_REASONS = {  # from apimachinery/pkg/api/errors; messages that it leaves open are from a server's log
    HTTPStatus.UNAUTHORIZED: ("Unauthorized", "Unauthorized"),
    HTTPStatus.FORBIDDEN: ("Forbidden", "nodes is forbidden: not yet ready to handle request"),
    HTTPStatus.GONE: ("Expired", "too old resource version: 1 (2)"),
    HTTPStatus.TOO_MANY_REQUESTS: ("TooManyRequests", "storage is (re)initializing"),
    HTTPStatus.INTERNAL_SERVER_ERROR: ("InternalError", "Internal error occurred: etcdserver: leader changed"),
    HTTPStatus.SERVICE_UNAVAILABLE: ("ServiceUnavailable", "the server is currently unable to handle the request"),
    HTTPStatus.GATEWAY_TIMEOUT: ("Timeout", "Timeout: Too large resource version: 2, current: 1"),
}


def answers(status: HTTPStatus, *verbs: str) -> Misbehaviour:
    """List and watch, or the given verbs, are refused with this status.

    401 while the key that signs tokens is changed; 403 during a start, until RBAC has been read; 410 to a watch that etcd
    serves, without the cache; 429 while that cache is filled, or to a client with too many requests; 500 while etcd has no
    leader; 503 during start and stop, and from load balancers.
    """

    async def answer(_request: web.Request, asked: Asked) -> web.StreamResponse | None:
        if asked.verb not in (verbs or READING):
            return None
        headers = {"Retry-After": str(RETRY_SECONDS)} if status is HTTPStatus.TOO_MANY_REQUESTS else {}
        return web.json_response(refusal(status, *_REASONS[status]).body, status=status, headers=headers)

    return Misbehaviour(answer=answer)


def watch_error(status: HTTPStatus) -> Misbehaviour:
    """Each watch is accepted, sends an ERROR event with this status and ends.

    410 after a compaction, or from a server whose cache begins after the client's version; 500 when etcd ends the server's own
    watch; 504 when the client has seen versions that this server has not.
    """
    return _short_watches(line("ERROR", refusal(status, *_REASONS[status]).body))


def watches_end_at_once() -> Misbehaviour:
    """Each watch is accepted and ends: a load balancer before a server that is down, or a server that is overloaded."""
    return _short_watches(b"")


def web_page(status: HTTPStatus) -> Misbehaviour:
    """List and watch are answered by an HTML page: of a proxy, or of a login page before the server."""

    async def answer(_request: web.Request, asked: Asked) -> web.StreamResponse | None:
        return web.Response(text="<html>", content_type="text/html", status=status) if asked.verb in READING else None

    return Misbehaviour(answer=answer)


def hangs(*verbs: str) -> Misbehaviour:
    """List and watch, or the given verbs, are accepted and never answered, also not when the misbehaviour ends.

    A server that waits for etcd or swaps; a load balancer or a NAT that has lost the state of the connection.
    """

    async def answer(_request: web.Request, asked: Asked) -> web.StreamResponse | None:
        if asked.verb in (verbs or READING):
            await asyncio.Event().wait()
        return None

    return Misbehaviour(answer=answer)


def expired_continue(page_size: int) -> Misbehaviour:
    """Lists have small pages, and each `continue` is refused with 410.

    etcd compacts after 5 minutes, or earlier on request; a slow client, or a server that lags, meets that between two pages.
    """

    async def answer(request: web.Request, asked: Asked) -> web.StreamResponse | None:
        if asked.verb == "list" and request.query.get("continue"):
            raise refusal(HTTPStatus.GONE, "Expired", TOO_OLD_PAGE)
        return None

    return Misbehaviour(answer=answer, page_size=page_size)


def silent_watch(*, bookmarks: bool) -> Misbehaviour:
    """Watches stay open and send no event, or bookmarks only.

    A server whose cache has lost events (kubernetes/kubernetes#123072), or a client that has seen versions which a restore of
    etcd has undone (#107457).
    """
    everything = {"ADDED", "MODIFIED", "DELETED"} | (set() if bookmarks else {"BOOKMARK"})
    return Misbehaviour(withheld=frozenset(everything))


def loses_deletions() -> Misbehaviour:
    """Watches send everything but DELETED: the event was lost between two watches, or the cache has never had it."""
    return Misbehaviour(withheld=frozenset({"DELETED"}))


def _short_watches(events: bytes, *, authorization: str = "") -> Misbehaviour:
    """Each watch, or each watch with this header, sends the events and ends."""

    async def answer(request: web.Request, asked: Asked) -> web.StreamResponse | None:
        if asked.verb != "watch" or (authorization and request.headers.get("Authorization") != authorization):
            return None
        response = web.StreamResponse(headers={"Content-Type": "application/json"})
        await response.prepare(request)
        await response.write(events)
        return response

    return Misbehaviour(answer=answer)


# Acts on the embedded server


def embedded(lab: Lab) -> EmbeddedServer:
    """The API server of a lab that must have the embedded one."""
    assert isinstance(lab.api, EmbeddedServer), "only the embedded server misbehaves on purpose"
    return lab.api


def misbehave(how: Misbehaviour) -> Act:
    """Answer all requests but the administrator's like this; open watches are closed."""
    return lambda lab, _node: embedded(lab).misbehave(how)


def behave(lab: Lab, _node: LabNode) -> None:
    """Answer correctly again."""
    embedded(lab).behave()


def watch_with_unreadable_node() -> Fault:
    """Each watch of this node's agent sends a Node without a UID and ends; watches of other agents are correct.

    The repair sends the deletion of that Node, and waits until the agent reports that the problem is solved.
    """

    def sends(event: str) -> Act:
        events = line(event, {"kind": "Node", "apiVersion": "v1", "metadata": {"name": "nobody", "resourceVersion": "1"}})

        def act(lab: Lab, node: LabNode) -> None:
            bearer = "Bearer " + node.path(f"{SERVICE_ACCOUNT}/token").read_text()
            embedded(lab).misbehave(_short_watches(events, authorization=bearer))

        return act

    def repair(lab: Lab, node: LabNode) -> None:
        since = node.log_size()
        sends("DELETED")(lab, node)
        node.wait_logged("solved", "[NodeUnreadable]", since=since)
        behave(lab, node)

    return Fault("each watch sends a Node without a UID and ends", sends("ADDED"), repair)


def slow_tls(lab: Lab, _node: LabNode) -> None:
    """Delay each TLS handshake longer than any client waits."""
    embedded(lab).delay_tls(TLS_SECONDS)


def fast_tls(lab: Lab, _node: LabNode) -> None:
    """End the delay of TLS handshakes."""
    embedded(lab).delay_tls(0)


def change_certificate(lab: Lab, _node: LabNode) -> None:
    """Replace the CA and the certificate of the server; agents do not know the new CA."""
    embedded(lab).change_certificate()


def expire_tokens(lab: Lab, _node: LabNode) -> None:
    """Expire all tokens of agents."""
    embedded(lab).expire_tokens()


# Acts on any server, and on the connection to it


def stop_api_server(lab: Lab, _node: LabNode) -> None:
    lab.api.stop()


def start_api_server(lab: Lab, _node: LabNode) -> None:
    lab.api.start()


def stop_api_server_and_wait_for_repair(lab: Lab, node: LabNode) -> None:
    """Stop the API server; return when the agent has repaired a route without it."""
    lab.api.stop()
    run(REMOVE_UNREACHABLE)(lab, node)
    route = f"unreachable {node.pod_cidrs[0]}"
    eventually(lambda: route in node.place.run("ip", "route"), what=f"{node.name} is repaired without an API server")


def start_api_server_and_remove_annotations(lab: Lab, _node: LabNode) -> None:
    """Start the API server; remove an annotation of each Node, so that its recovery shows that every agent is connected."""
    lab.api.start()
    for name in lab.nodes:
        lab.annotate(name, {NODE_IPS: None})


def block_api_server(_lab: Lab, node: LabNode) -> None:
    """Reset all connections of the node to the API server."""
    rule = f"ip daddr {API_ADDRESS} tcp dport 6443 reject with tcp reset"
    node.place.run("nft", f"table inet cut {{ chain output {{ type filter hook output priority 0; {rule}; }}; }}")


def unblock_api_server(_lab: Lab, node: LabNode) -> None:
    node.place.run("nft", "delete", "table", "inet", "cut")


def disconnect(lab: Lab, node: LabNode) -> None:
    """Reset the open connections of the node to the API server; return when the node has none and may open new ones.

    A connection is reset when the server sends something, so the Node is changed until then.
    """
    block_api_server(lab, node)

    def disconnected() -> bool:
        lab.annotate(node.name, {"example.org/news": str(node.log_size())})
        return not node.place.run("ss", "-Htn", "state", "established", "dst", API_ADDRESS)

    eventually(disconnected, what=f"{node.name} has no connection to the API server")
    unblock_api_server(lab, node)


def write_expired_token(lab: Lab, node: LabNode) -> None:
    """Replace the agent's token by one that the server refuses; any text has the effect of an expired token."""
    directory = node.path(SERVICE_ACCOUNT)
    (directory / ".token").write_text("expired")
    (directory / ".token").rename(directory / "token")
    disconnect(lab, node)
