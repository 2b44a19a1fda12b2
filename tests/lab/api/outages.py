"""What an API server does to an agent in an outage: rows for an agent in the test's process, and a few for one in the lab.

In each row the machine of Node `y` joins anew as Node `x`, with the networks and addresses of y, while the fault lasts: so the
agent's peers are x alone from when it knows that y is gone, and y alone before that, however long it keeps departed Nodes.
"""

import contextlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from http import HTTPStatus
from itertools import count

from tests.builders import key
from tests.lab.api.embedded import EmbeddedServer
from tests.lab.api.faults import (
    Fault,
    answers,
    closes_at_once,
    deaf_watch,
    expired_continue,
    hangs,
    loses_deletions,
    watch_error,
    web_page,
)
from tests.lab.wait import NotSeenError, eventually
from wigglenet_operator.model.timing import PRODUCTION, Timing

NODES = "/api/v1/nodes"
KEY = "wigglenet/public-key"
POD_CIDRS = ("10.1.99.0/24", "fd00:10:1:99::/64")
ADDRESSES = ("192.0.2.99", "2001:db8::99")
EVERYTHING = ("get", "list", "watch", "patch")
BURST = PRODUCTION.request_burst + 20
"""Requests of one agent at once, however the server behaves: those of its watch, and all others."""


class Scene(ABC):
    """An agent of node `a`, its server, and what the test sees of both."""

    def __init__(self, server: EmbeddedServer, timing: Timing) -> None:
        self.server, self.admin, self.timing = server, server.admin, timing
        self._keys = map(key, map(str, count()))

    @abstractmethod
    def peers(self) -> set[str]:
        """Public keys of the agent's peers."""

    @abstractmethod
    def connections(self) -> int:
        """How many connections to the server the agent has tried to open so far."""

    @abstractmethod
    def identity(self) -> object:
        """Differs when the agent has been started anew; an error if it has ended."""

    @abstractmethod
    def give_credentials(self) -> None:
        """Write a new token and the server's present CA, as the kubelet does."""

    @abstractmethod
    def story(self) -> str:
        """The agent's log, for a failure's report."""

    def may_ask(self, seconds: float) -> float:
        """The most requests that the agent may send in that time: a burst, and then half as much again as its watch may."""
        return BURST + 1.5 * seconds / self.timing.request_interval

    def add(self, name: str) -> None:
        """Create a Node as a healthy agent has left it, with a key of its own."""
        self.admin.create_node(name, POD_CIDRS, ADDRESSES)
        self.annotate(name)

    def annotate(self, name: str) -> None:
        """Announce the Node's networks and another key."""
        cidrs = "[" + ",".join(f'"{one}"' for one in reversed(POD_CIDRS)) + "]"
        notes = {KEY: next(self._keys), "wigglenet/node-ips": "[]", "wigglenet/pod-cidrs": cidrs}
        self.admin.patch(f"{NODES}/{name}", {"metadata": {"annotations": notes}})

    def rejoin(self) -> None:
        """Delete y and create x in its place."""
        self.admin.delete_node("y")
        self.add("x")

    def remove(self) -> None:
        """Delete every Node but a."""
        for node in self.admin.get(NODES)["items"]:
            if (name := node["metadata"]["name"]) != "a":
                self.admin.delete_node(name)

    def recover(self, *, seconds: float) -> None:
        """Wait until the agent's peers are what the Nodes say; the agent's log goes with the failure."""
        notes = {node["metadata"]["name"]: node["metadata"].get("annotations", {}) for node in self.admin.get(NODES)["items"]}
        wanted = {notes[name][KEY] for name in notes if name != "a"}
        try:
            eventually(lambda: self.peers() == wanted, what="a's peers are what the Nodes say", seconds=seconds)
        except NotSeenError as error:
            raise NotSeenError(f"{error}; its agent says:\n{self.story()}") from None

    def version(self) -> int:
        """The version of the newest change."""
        return int(self.admin.get(NODES)["metadata"]["resourceVersion"])

    def requests(self, *verbs: str) -> int:
        """How many requests the agent has sent so far, in total or of these verbs."""
        counted = self.server.requests.items()
        return sum(times for one, times in counted if one.user != "admin" and (not verbs or one.verb in verbs))

    # Faults that are more than answers.

    def misbehaving(self, fault: Fault) -> "contextlib.AbstractContextManager[None]":
        """A fault of the server's answers, met by watches that can be resumed."""
        return self.server.misbehaving(fault)

    def forgetting(self, fault: Fault) -> "contextlib.AbstractContextManager[None]":
        """A fault of the server's answers, met by watches that have to begin with a list: the past is forgotten."""
        self.admin.patch("/api/v1/namespaces/default", {"metadata": {"labels": {"x": next(self._keys)}}})
        self.server.forget_history()
        return self.server.misbehaving(fault)

    @contextlib.contextmanager
    def stopped(self) -> Iterator[None]:
        """Nobody listens, and nobody can change a Node before somebody does again."""
        self.server.stop()
        try:
            yield
        finally:
            self.server.start()
        self.rejoin()

    def slow_tls(self) -> "contextlib.AbstractContextManager[None]":
        """The handshake takes longer than anybody waits."""
        return self.server.slow_tls(60)

    @contextlib.contextmanager
    def another_certificate(self) -> Iterator[None]:
        """The server has a new CA, which the node gets at the end."""
        self.server.change_certificate()
        try:
            yield
        finally:
            self.give_credentials()

    @contextlib.contextmanager
    def expired_token(self) -> Iterator[None]:
        """The agent's token has expired, until the kubelet writes the next."""
        self.server.expire_tokens()
        try:
            yield
        finally:
            self.give_credentials()


@dataclass(frozen=True, kw_only=True)
class Row:
    """A fault, how the test sees that the agent has met it, how often it shall, and what happens to the Nodes meanwhile."""

    fault: Callable[[Scene], "contextlib.AbstractContextManager[None]"]
    met: Callable[[Scene], int]
    times: int
    meanwhile: Callable[[Scene], None] = Scene.rejoin


def answering(fault: Fault, *verbs: str, times: int = 3) -> Row:
    """A fault of the answers to these verbs, or to all."""
    return Row(fault=lambda s: s.misbehaving(fault), met=lambda s: s.requests(*verbs), times=times)


def listing(fault: Fault, *, times: int) -> Row:
    """A fault of the answers to lists."""
    return Row(fault=lambda s: s.forgetting(fault), met=lambda s: s.requests("list"), times=times)


def refusing(status: HTTPStatus, *verbs: str, times: int = 3) -> Row:
    """A fault that is a status."""
    return answering(answers(status, *verbs), *verbs, times=times)


def no_change(_: Scene) -> None:
    """The fault itself sees to it."""


connecting = partial(Row, met=lambda s: s.connections(), times=3)
MORE_THAN_A_BURST = BURST + 5
ROWS = {
    "connection refused": connecting(fault=Scene.stopped, meanwhile=no_change),
    "every watch is closed at once": answering(closes_at_once(), times=MORE_THAN_A_BURST),
    "every watch is told 410": answering(watch_error(HTTPStatus.GONE), times=MORE_THAN_A_BURST),
    "every watch is told 500": answering(watch_error(HTTPStatus.INTERNAL_SERVER_ERROR), "watch"),
    "every watch is told 504": answering(watch_error(HTTPStatus.GATEWAY_TIMEOUT), "watch"),
    "every watch is answered 410": refusing(HTTPStatus.GONE, "watch"),
    "no list can be continued": listing(expired_continue(page_size=1), times=6),
    "everything is answered 500": refusing(HTTPStatus.INTERNAL_SERVER_ERROR, *EVERYTHING),
    "everything is answered 503": refusing(HTTPStatus.SERVICE_UNAVAILABLE, *EVERYTHING),
    "list and watch are answered 403": refusing(HTTPStatus.FORBIDDEN, "list", "watch"),
    "list and watch are answered 429": refusing(HTTPStatus.TOO_MANY_REQUESTS, "list", "watch"),
    "everything is answered 401": refusing(HTTPStatus.UNAUTHORIZED, *EVERYTHING, times=10),
    "lists and watches are answered by a web page": listing(web_page(HTTPStatus.OK), times=3),
    "a web page says 401": listing(web_page(HTTPStatus.UNAUTHORIZED), times=3),
    "lists hang": listing(hangs("list"), times=2),
    "watches hang": answering(hangs("watch"), "watch", times=1),
    "everything hangs": answering(hangs(*EVERYTHING), times=3),
    "TLS is slow": connecting(fault=Scene.slow_tls),
    "the certificate is changed": connecting(fault=Scene.another_certificate),
    "the token has expired": Row(fault=Scene.expired_token, met=Scene.requests, times=10),
}
DEAF = {
    "a watch tells nothing": deaf_watch(bookmarks=False),
    "a watch tells nothing and says that it is up to date": deaf_watch(bookmarks=True),
    "a watch tells of no deletion": loses_deletions(),
}
