"""Whatever an API server does to an agent: it lives on, comes to what the Nodes say, and asks at a bounded pace.

A lab of its own with one real node, `a`, on the embedded server, whatever `--api` says: a real server misbehaves for nobody's
sake.  The other Nodes are objects without a machine.  In each row the machine of Node `y` joins anew as Node `x`, with the
networks and addresses of y, while the fault lasts: so a's peers are x alone from when a knows that y is gone, and y alone
before that, however long an agent remembers what departed.
"""

import contextlib
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from http import HTTPStatus
from itertools import count
from pathlib import Path

import pytest

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
from tests.lab.lab import Lab
from tests.lab.node import LOG
from tests.lab.wait import NotSeenError, eventually
from wigglenet_operator.model.facts import WireGuardKind

pytestmark = pytest.mark.embedded
NODES = "/api/v1/nodes"
KEY = "wigglenet/public-key"
POD_CIDRS = ("10.1.99.0/24", "fd00:10:1:99::/64")
ADDRESSES = ("192.0.2.99", "2001:db8::99")
BURST, A_SECOND = 60 + 20, 1.0 + 0.5
"""Requests of one agent, at once and in the long run, however the server behaves: those of its watch, and all others."""
EVERYTHING = ("get", "list", "watch", "patch")


class Scene:
    """Node a, its server, and what the test sees of both."""

    def __init__(self, lab: Lab) -> None:
        assert isinstance(lab.api, EmbeddedServer)
        self.lab, self.server = lab, lab.api
        self.admin = lab.api.admin
        self.a = lab.nodes["a"]
        self._keys = map(key, map(str, count()))

    def add(self, name: str) -> None:
        """A Node as a healthy agent has left it, with a key of its own."""
        self.admin.create_node(name, POD_CIDRS, ADDRESSES)
        self.annotate(name)

    def annotate(self, name: str) -> None:
        """The Node's agent announces its networks and another key."""
        cidrs = "[" + ",".join(f'"{one}"' for one in reversed(POD_CIDRS)) + "]"
        notes = {KEY: next(self._keys), "wigglenet/node-ips": "[]", "wigglenet/pod-cidrs": cidrs}
        self.admin.patch(f"{NODES}/{name}", {"metadata": {"annotations": notes}})

    def rejoin(self) -> None:
        """The machine that was y is x."""
        self.admin.delete_node("y")
        self.add("x")

    def remove(self) -> None:
        """No Node but a."""
        for node in self.admin.get(NODES)["items"]:
            if (name := node["metadata"]["name"]) != "a":
                self.admin.delete_node(name)

    def give_credentials(self) -> None:
        """The kubelet writes a token and a CA of now."""
        node = self.admin.get(f"{NODES}/a")
        self.a.give_credentials(token=self.admin.token(node), ca_pem=self.server.ca_pem)

    def recover(self, *, seconds: float) -> None:
        """Wait until a's peers are what the Nodes say; what the agent said goes with the failure."""
        notes = {node["metadata"]["name"]: node["metadata"].get("annotations", {}) for node in self.admin.get(NODES)["items"]}
        wanted = {notes[name][KEY] for name in notes if name != "a"}
        try:
            eventually(lambda: set(self.a.wireguard()) == wanted, what="a's peers are what the Nodes say", seconds=seconds)
        except NotSeenError as error:
            raise NotSeenError(f"{error}; its agent says:\n{self.a.log()}") from None

    def version(self) -> int:
        """Of the newest change."""
        return int(self.admin.get(NODES)["metadata"]["resourceVersion"])

    def requests(self, *verbs: str) -> int:
        """What the agent has asked so far, in any way or in these."""
        counted = self.server.requests.items()
        return sum(times for one, times in counted if one.user != "admin" and (not verbs or one.verb in verbs))

    def connections(self) -> int:
        """What the agent has tried to open so far: node a speaks TCP with nobody but the server."""
        lines = Path(f"/proc/{self.a.place.pid}/net/snmp").read_text().splitlines()
        names, values = (line.split() for line in lines if line.startswith("Tcp:"))
        return int(values[names.index("ActiveOpens")])

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
        """The server has a new CA, of which the node learns in the end."""
        self.server.change_certificate()
        try:
            yield
        finally:
            self.give_credentials()

    @contextlib.contextmanager
    def expired_token(self) -> Iterator[None]:
        """The agent's token is worth nothing, until the kubelet brings the next."""
        self.server.expire_tokens()
        try:
            yield
        finally:
            self.give_credentials()


@pytest.fixture(scope="module")
def lab(request: pytest.FixtureRequest) -> Iterator[Lab]:
    """One real node."""
    with Lab(api="embedded", wireguard=WireGuardKind(request.config.getoption("--wireguard"))) as made:
        made.add_node("a").wait_ready()
        yield made


@pytest.fixture(scope="module")
def only_scene(lab: Lab) -> Scene:
    return Scene(lab)


@pytest.fixture
def scene(only_scene: Scene) -> Scene:
    """An agent that has not met a fault yet and has y for its only peer."""
    only_scene.a.kill()
    only_scene.a.path(LOG).write_text("")
    only_scene.remove()
    only_scene.give_credentials()
    only_scene.add("y")
    watches = only_scene.requests("watch")
    only_scene.a.start_agent()
    only_scene.recover(seconds=30)
    eventually(lambda: only_scene.requests("watch") > watches, what="a watches")
    return only_scene


@dataclass(frozen=True, kw_only=True)
class Row:
    """A fault, how the test sees that the agent has met it, how often it shall, and what happens to the Nodes meanwhile."""

    fault: Callable[[Scene], "contextlib.AbstractContextManager[None]"]
    met: Callable[[Scene], int]
    times: int
    meanwhile: Callable[[Scene], None] = Scene.rejoin
    seconds: float = 60.0
    """In which the agent recovers; the longest pause between two attempts is 22 s, and it waits 20 s for an answer."""


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


connecting = partial(Row, met=Scene.connections, times=3)
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


@pytest.mark.parametrize("row", ROWS.values(), ids=ROWS.keys())
def test_after_a_fault_the_agent_is_the_same_and_knows_the_nodes_and_has_not_asked_too_much(scene: Scene, row: Row) -> None:
    pid = scene.a.agent_pid()
    met, requests, connections, began = row.met(scene), scene.requests(), scene.connections(), time.monotonic()
    with row.fault(scene):
        eventually(lambda: row.met(scene) > met, what="the agent has met the fault", seconds=30)
        row.meanwhile(scene)
        eventually(lambda: row.met(scene) >= met + row.times, what=f"the agent has met it {row.times} times", seconds=90)
        asked = max(scene.requests() - requests, scene.connections() - connections)
        lasted = time.monotonic() - began
    scene.recover(seconds=row.seconds)
    assert scene.a.agent_pid() == pid
    assert asked <= BURST + A_SECOND * lasted, f"{asked} requests in {lasted:.1f} s"


@pytest.mark.parametrize("fault", DEAF.values(), ids=DEAF.keys())
def test_what_a_watch_does_not_tell_is_found_out_while_it_does_not(scene: Scene, fault: Fault) -> None:
    pid = scene.a.agent_pid()
    watches = scene.requests("watch")
    with scene.misbehaving(fault):
        eventually(lambda: scene.requests("watch") > watches, what="the agent has a watch that is deaf", seconds=30)
        requests, began = scene.requests(), time.monotonic()
        scene.rejoin()
        scene.recover(seconds=30)
        asked, lasted = scene.requests() - requests, time.monotonic() - began
    assert scene.a.agent_pid() == pid
    assert asked <= BURST + A_SECOND * lasted, f"{asked} requests in {lasted:.1f} s"


def test_what_a_restore_took_back_is_forgotten_and_what_comes_after_it_is_told(scene: Scene) -> None:
    pid = scene.a.agent_pid()
    scene.server.snapshot()
    scene.rejoin()
    scene.recover(seconds=10)
    seen = scene.version()
    scene.server.restore()
    scene.recover(seconds=45)
    scene.annotate("y")
    assert scene.version() < seen, "a watch that was resumed would tell of it"
    scene.recover(seconds=30)
    assert scene.a.agent_pid() == pid


def test_after_a_long_refusal_a_new_token_is_used_and_the_annotations_of_a_new_node_are_back_at_once(scene: Scene) -> None:
    """The Node is deleted, and with it the token; connections are cut, so that the agent has nothing but refusals."""
    scene.admin.delete_node("a")
    scene.server.cut()
    refused = scene.requests()
    eventually(lambda: scene.requests() >= refused + 10, what="it is refused for a while", seconds=30)
    began = time.monotonic()
    scene.lab.register(scene.a)
    eventually(lambda: KEY in scene.lab.annotations("a"), what="the annotations are back", seconds=2)
    eventually(lambda: scene.a.conflist() is not None, what="pods start again", seconds=2)
    print(f"back after {time.monotonic() - began:.1f} s")
