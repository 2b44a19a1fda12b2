"""Faults of the API server: the agent keeps running, converges to the Nodes afterwards, and limits its requests meanwhile.

The lab has one real node, `a`, and the embedded server whatever `--api` says, because a real server does not fail on request.
The other Nodes are objects without a machine.  During each fault the machine of Node `y` joins again as Node `x`, with the
networks and addresses of `y`.  So `a` has `y` as its only peer until it knows that `y` was deleted, and then `x`, however long
an agent keeps the facts of a deleted Node.
"""

import time
from collections.abc import Callable, Iterator
from dataclasses import KW_ONLY, dataclass
from functools import partial
from http import HTTPStatus
from itertools import count
from pathlib import Path

import pytest

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
from tests.lab.node import LOG, LabNode
from tests.lab.wait import NotSeenError, eventually
from wigglenet_operator.model.facts import WireGuardKind

pytestmark = pytest.mark.embedded
NODES = "/api/v1/nodes"
KEY = "wigglenet/public-key"
POD_CIDRS = ("10.1.99.0/24", "fd00:10:1:99::/64")
ADDRESSES = ("192.0.2.99", "2001:db8::99")
BURST, A_SECOND = 60 + 20, 1.0 + 0.5
"""The largest number of requests of one agent, at once and per second: those of its watch, and all others."""
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


class Scene:
    """Node a and its server, and what the test observes of both."""

    def __init__(self, lab: Lab) -> None:
        self.lab, self.server = lab, embedded(lab)
        self.admin = lab.api.admin
        self.a = lab.nodes["a"]

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
            eventually(lambda: set(self.a.wireguard()) == wanted, what="the peers of a are the other Nodes", seconds=seconds)
        except NotSeenError as error:
            raise NotSeenError(f"{error}; its agent says:\n{self.a.log()}") from None

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
    """A new agent, whose only peer is y."""
    only_scene.a.kill()
    only_scene.a.path(LOG).write_text("")
    only_scene.remove()
    only_scene.lab.give_credentials(only_scene.a)
    add_node(only_scene.lab, "y")
    watches = only_scene.requests("watch")
    only_scene.a.start_agent()
    only_scene.recover(seconds=30)
    eventually(lambda: only_scene.requests("watch") > watches, what="a watches")
    return only_scene


@dataclass(frozen=True)
class ApiRow:
    """A fault, how the test sees that the agent has met it, and how often the agent must meet it."""

    fault: Fault
    _: KW_ONLY
    met: Callable[[Scene], int]
    times: int
    meanwhile: Act = rejoin
    """What changes the Nodes during the fault."""
    seconds: float = 60.0
    """In which the agent recovers; the longest pause between two attempts is 22 s, and it waits 20 s for an answer."""


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


connecting = partial(ApiRow, met=Scene.connections, times=3)
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
    ApiRow(Fault("the token has expired", expire_tokens, repair=Lab.give_credentials), met=Scene.requests, times=10),
)
SILENT = (
    Fault("a watch tells nothing", misbehave(silent_watch(bookmarks=False)), repair=behave),
    Fault("a watch tells nothing and says that it is up to date", misbehave(silent_watch(bookmarks=True)), repair=behave),
    Fault("a watch tells of no deletion", misbehave(loses_deletions()), repair=behave),
)


@pytest.mark.parametrize("row", ROWS, ids=[row.fault.name for row in ROWS])
def test_after_a_fault_the_agent_is_the_same_and_knows_the_nodes_and_has_not_asked_too_much(scene: Scene, row: ApiRow) -> None:
    pid = scene.a.agent_pid()
    met, requests, connections, began = row.met(scene), scene.requests(), scene.connections(), time.monotonic()
    with row.fault.injected(scene.lab, scene.a):
        eventually(lambda: row.met(scene) > met, what="the agent has met the fault", seconds=30)
        row.meanwhile(scene.lab, scene.a)
        eventually(lambda: row.met(scene) >= met + row.times, what=f"the agent has met it {row.times} times", seconds=90)
        asked = max(scene.requests() - requests, scene.connections() - connections)
        lasted = time.monotonic() - began
    scene.recover(seconds=row.seconds)
    assert scene.a.agent_pid() == pid
    assert asked <= BURST + A_SECOND * lasted, f"{asked} requests in {lasted:.1f} s"


@pytest.mark.parametrize("fault", SILENT, ids=[fault.name for fault in SILENT])
def test_changes_that_a_watch_does_not_send_are_found_during_the_fault(scene: Scene, fault: Fault) -> None:
    pid = scene.a.agent_pid()
    watches = scene.requests("watch")
    with fault.injected(scene.lab, scene.a):
        eventually(lambda: scene.requests("watch") > watches, what="the agent has a new watch", seconds=30)
        requests, began = scene.requests(), time.monotonic()
        rejoin(scene.lab, scene.a)
        scene.recover(seconds=30)
        asked, lasted = scene.requests() - requests, time.monotonic() - began
    assert scene.a.agent_pid() == pid
    assert asked <= BURST + A_SECOND * lasted, f"{asked} requests in {lasted:.1f} s"


def test_changes_that_a_restore_undoes_are_discarded_and_later_ones_received(scene: Scene) -> None:
    pid = scene.a.agent_pid()
    scene.server.snapshot()
    rejoin(scene.lab, scene.a)
    scene.recover(seconds=10)
    seen = scene.version()
    scene.server.restore()
    scene.recover(seconds=45)
    announce(scene.lab, "y")
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
