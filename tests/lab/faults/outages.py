"""Outages of the API server: rows for an agent in the test's process, and a few of them for one on a real node.

The agent is that of node `a`; the other Nodes are objects without a machine. During each fault the machine of Node `y` joins
again as Node `x`, with the networks and addresses of `y`. So `a` has `y` as its only peer until it knows that `y` was deleted,
and then `x`, however long an agent keeps the facts of a deleted Node.
"""

import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import KW_ONLY, dataclass
from functools import partial
from http import HTTPStatus
from itertools import count
from pathlib import Path

from tests.builders import key
from tests.lab.api.misbehaviour import Misbehaviour
from tests.lab.faults.api_server import (
    answers,
    behave,
    change_certificate,
    embedded,
    expire_tokens,
    expired_continue,
    fast_tls,
    hangs,
    loses_deletions,
    misbehave,
    silent_watch,
    slow_tls,
    start_api_server,
    stop_api_server,
    watch_error,
    watches_end_at_once,
    web_page,
)
from tests.lab.faults.fault import Act, Fault, nothing, then
from tests.lab.lab import Lab
from tests.lab.node import LabNode
from tests.lab.wait import NotSeenError, eventually
from wigglenet_operator.model.timing import PRODUCTION, Timing

NODES = "/api/v1/nodes"
KEY = "wigglenet/public-key"
POD_CIDRS = ("10.1.99.0/24", "fd00:10:1:99::/64")
ADDRESSES = ("192.0.2.99", "2001:db8::99")
BURST = PRODUCTION.request_burst + 20
"""The largest number of requests of one agent at once: those of its watch, and all others."""
EVERYTHING = ("get", "list", "watch", "patch")


KEYS = map(key, map(str, count()))


def add_node(lab: Lab, name: str) -> None:
    """Create a Node as a healthy agent leaves it, with a new key."""
    lab.api.admin.create_node(name, POD_CIDRS, ADDRESSES)
    announce(lab, name)


def announce(lab: Lab, name: str) -> None:
    """Annotate a Node with its networks and a new key, as its agent does."""
    cidrs = "[" + ",".join(f'"{one}"' for one in reversed(POD_CIDRS)) + "]"
    lab.annotate(name, {KEY: next(KEYS), "wigglenet/node-ips": "[]", "wigglenet/pod-cidrs": cidrs})


def rejoin(lab: Lab, _node: LabNode) -> None:
    """The machine that was Node y is Node x."""
    lab.api.admin.delete_node("y")
    add_node(lab, "x")


def forget_history(lab: Lab, _node: LabNode) -> None:
    """Make the server forget all changes, so that a watch of before cannot be resumed and the agent must list the Nodes."""
    lab.api.admin.patch("/api/v1/namespaces/default", {"metadata": {"labels": {"x": next(KEYS)}}})
    lab.api.forget_history()


class Scene(ABC):
    """Node a and its server, and what the test observes of both; `timing` is that of the agent."""

    def __init__(self, lab: Lab, timing: Timing) -> None:
        self.lab, self.server, self.timing = lab, embedded(lab), timing
        self.admin = lab.api.admin
        self.a = lab.nodes["a"]

    @abstractmethod
    def peers(self) -> set[str]:
        """The public keys of the agent's peers."""

    @abstractmethod
    def agent(self) -> object:
        """A value that changes when the agent is restarted; an error if the agent has ended."""

    @abstractmethod
    def log(self) -> str:
        """The agent's log, for the report of a failure."""

    def most_requests(self, seconds: float) -> float:
        """The largest number of requests that the agent may send in a time: those of its watch, and all others."""
        return BURST + 1.5 * seconds / self.timing.request_interval

    def remove(self) -> None:
        """Delete every Node but a."""
        for node in self.admin.get(NODES)["items"]:
            if (name := node["metadata"]["name"]) != "a":
                self.admin.delete_node(name)

    def recover(self, *, seconds: float) -> None:
        """Wait until the peers of a are the other Nodes; a failure shows the agent's log."""
        notes = {node["metadata"]["name"]: node["metadata"].get("annotations", {}) for node in self.admin.get(NODES)["items"]}
        wanted = {notes[name][KEY] for name in notes if name != "a"}
        try:
            eventually(lambda: self.peers() == wanted, what="the peers of a are the other Nodes", seconds=seconds)
        except NotSeenError as error:
            raise NotSeenError(f"{error}; its agent says:\n{self.log()}") from None

    def version(self) -> int:
        """The resource version of the newest change."""
        return int(self.admin.get(NODES)["metadata"]["resourceVersion"])

    def requests(self, *verbs: str) -> int:
        """The number of requests of the agent so far, of all verbs or of these."""
        counted = self.server.requests.items()
        return sum(times for one, times in counted if one.user != "admin" and (not verbs or one.verb in verbs))

    def connections(self) -> int:
        """The number of connections that the agent has tried to open: node a uses TCP for nothing else."""
        lines = Path(f"/proc/{self.a.place.pid}/net/snmp").read_text().splitlines()
        names, values = (line.split() for line in lines if line.startswith("Tcp:"))
        return int(values[names.index("ActiveOpens")])


@dataclass(frozen=True)
class ApiRow:
    """A fault, how the test sees that the agent has met it, and how often the agent must meet it."""

    fault: Fault
    _: KW_ONLY
    met: Callable[[Scene], int]
    times: int
    meanwhile: Act = rejoin
    """What changes the Nodes during the fault."""


def answering(name: str, how: Misbehaviour, *verbs: str, times: int = 3) -> ApiRow:
    """A misbehaviour that the requests with these verbs meet, or all requests."""
    return ApiRow(Fault(name, misbehave(how), repair=behave), met=lambda s: s.requests(*verbs), times=times)


def listing(name: str, how: Misbehaviour, *, times: int) -> ApiRow:
    """A misbehaviour that lists meet."""
    fault = Fault(name, then(forget_history, misbehave(how)), repair=behave)
    return ApiRow(fault, met=lambda s: s.requests("list"), times=times)


def refusing(name: str, status: HTTPStatus, *verbs: str, times: int = 3) -> ApiRow:
    """Requests with these verbs are refused with this status."""
    return answering(name, answers(status, *verbs), *verbs, times=times)


connecting = partial(ApiRow, met=lambda s: s.connections(), times=3)
MORE_THAN_A_BURST = BURST + 5
ROWS = (
    connecting(
        Fault("connection refused", stop_api_server, repair=then(start_api_server, rejoin)),
        meanwhile=nothing,  # a server that is stopped cannot change a Node
    ),
    answering("every watch is closed at once", watches_end_at_once(), times=MORE_THAN_A_BURST),
    answering("every watch is told 410", watch_error(HTTPStatus.GONE), times=MORE_THAN_A_BURST),
    answering("every watch is told 500", watch_error(HTTPStatus.INTERNAL_SERVER_ERROR), "watch"),
    answering("every watch is told 504", watch_error(HTTPStatus.GATEWAY_TIMEOUT), "watch"),
    refusing("every watch is answered 410", HTTPStatus.GONE, "watch"),
    listing("no list can be continued", expired_continue(page_size=1), times=6),
    refusing("everything is answered 500", HTTPStatus.INTERNAL_SERVER_ERROR, *EVERYTHING),
    refusing("everything is answered 503", HTTPStatus.SERVICE_UNAVAILABLE, *EVERYTHING),
    refusing("list and watch are answered 403", HTTPStatus.FORBIDDEN, "list", "watch"),
    refusing("list and watch are answered 429", HTTPStatus.TOO_MANY_REQUESTS, "list", "watch"),
    refusing("everything is answered 401", HTTPStatus.UNAUTHORIZED, *EVERYTHING, times=10),
    listing("lists and watches are answered by a web page", web_page(HTTPStatus.OK), times=3),
    listing("a web page says 401", web_page(HTTPStatus.UNAUTHORIZED), times=3),
    listing("lists hang", hangs("list"), times=2),
    answering("watches hang", hangs("watch"), "watch", times=1),
    answering("everything hangs", hangs(*EVERYTHING), times=3),
    connecting(Fault("TLS is slow", slow_tls, repair=fast_tls)),
    connecting(Fault("the certificate is changed", change_certificate, repair=Lab.give_credentials)),
    ApiRow(Fault("the token has expired", expire_tokens, repair=Lab.give_credentials), met=lambda s: s.requests(), times=10),
)
SILENT = (
    Fault("a watch tells nothing", misbehave(silent_watch(bookmarks=False)), repair=behave),
    Fault("a watch tells nothing and says that it is up to date", misbehave(silent_watch(bookmarks=True)), repair=behave),
    Fault("a watch tells of no deletion", misbehave(loses_deletions()), repair=behave),
)


def outlive(scene: Scene, row: ApiRow) -> None:
    """Inject the fault: the agent must meet it, stay the same, converge to the Nodes, and not send too many requests."""
    agent = scene.agent()
    met, requests, connections, began = row.met(scene), scene.requests(), scene.connections(), time.monotonic()
    with row.fault.injected(scene.lab, scene.a):
        eventually(lambda: row.met(scene) > met, what="the agent has met the fault", seconds=30)
        row.meanwhile(scene.lab, scene.a)
        eventually(lambda: row.met(scene) >= met + row.times, what=f"the agent has met it {row.times} times", seconds=90)
        asked = max(scene.requests() - requests, scene.connections() - connections)
        lasted = time.monotonic() - began
    scene.recover(seconds=60)
    assert scene.agent() == agent
    assert asked <= scene.most_requests(lasted), f"{asked} requests in {lasted:.1f} s"
