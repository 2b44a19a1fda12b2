"""Whatever an API server does to an agent: it goes on, comes to what the Nodes say, and asks at a bounded pace.

The agent runs in this process, with timers twenty times as fast as those of production. The embedded server misbehaves,
because a real one does so for nobody's sake. Some rows run with a real agent and kernel in `tests/lab/test_api_faults.py`, and
all of them with production's timers in `nox -s long`.
"""

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.contract.agent import InProcess
from tests.lab.api.embedded import EmbeddedServer
from tests.lab.api.faults import Fault
from tests.lab.api.outages import DEAF, KEY, NODES, ROWS, Row, Scene
from tests.lab.namespaces import Place
from tests.lab.timing import QUICK
from tests.lab.wait import eventually
from wigglenet_operator.model.timing import PRODUCTION, Timing

SERVER, AGENT = "198.51.100.1", "198.51.100.2"
RBAC = Path(__file__).parents[2] / "manifests/agent/rbac.yaml"
OWN_CIDRS, OWN_ADDRESSES = ("10.1.0.0/24", "fd00:1::/64"), ("192.0.2.1",)


class InProcessScene(Scene):
    """An agent in this process, in a place of its own."""

    def __init__(self, server: EmbeddedServer, place: Place, credentials: Path, timing: Timing) -> None:
        super().__init__(server, timing)
        self._place, self._credentials = place, credentials
        self.agent: InProcess

    def peers(self) -> set[str]:
        return set(self.agent.mesh.content["peers"].content)

    def connections(self) -> int:
        lines = Path(f"/proc/{self._place.pid}/net/snmp").read_text().splitlines()
        names, values = (line.split() for line in lines if line.startswith("Tcp:"))
        return int(values[names.index("ActiveOpens")])

    def identity(self) -> object:
        assert self.agent.runs(), "the agent has ended"
        return self.agent

    def give_credentials(self) -> None:
        token = self.admin.token(self.admin.get(f"{NODES}/a"))
        for name, content in (("ca.crt", self.server.ca_pem), ("token", token)):
            (self._credentials / f".{name}").write_text(content)
            (self._credentials / f".{name}").rename(self._credentials / name)

    def story(self) -> str:
        return "see the captured log"


@pytest.fixture(scope="module")
def places() -> Iterator[tuple[Place, Place]]:
    """A place for the server and one for the agent, connected."""
    server, agent = Place("server"), Place("agent")
    try:
        server.batch(f"link add net0 type veth peer name net0 netns {agent.pid}", f"addr add {SERVER}/24 dev net0")
        server.batch("link set net0 up")
        agent.batch("link set net0 up", f"addr add {AGENT}/24 dev net0")
        yield server, agent
    finally:
        agent.close()
        server.close()


@pytest.fixture
def timing(request: pytest.FixtureRequest) -> Timing:
    return PRODUCTION if request.config.getoption("--real-time") else QUICK


@pytest.fixture
def scene(places: tuple[Place, Place], tmp_path: Path, timing: Timing) -> Iterator[Scene]:
    """An agent that has not met a fault yet and has y for its only peer."""
    server = EmbeddedServer(places[0], SERVER)
    server.start()
    try:
        server.admin.apply(RBAC)
        server.admin.create_node("a", OWN_CIDRS, OWN_ADDRESSES)
        made = InProcessScene(server, places[1], tmp_path, timing)
        made.give_credentials()
        made.add("y")
        made.agent = InProcess(places[1], SERVER, tmp_path, timing=timing)
        with made.agent:
            made.recover(seconds=30)
            eventually(lambda: made.requests("watch"), what="a watches")
            yield made
    finally:
        server.stop()


@pytest.mark.parametrize("row", ROWS.values(), ids=ROWS.keys())
def test_after_a_fault_the_agent_is_the_same_and_knows_the_nodes_and_has_not_asked_too_much(scene: Scene, row: Row) -> None:
    agent = scene.identity()
    met, requests, connections, began = row.met(scene), scene.requests(), scene.connections(), time.monotonic()
    with row.fault(scene):
        eventually(lambda: row.met(scene) > met, what="the agent has met the fault", seconds=30)
        row.meanwhile(scene)
        eventually(lambda: row.met(scene) >= met + row.times, what=f"the agent has met it {row.times} times", seconds=90)
        asked = max(scene.requests() - requests, scene.connections() - connections)
        lasted = time.monotonic() - began
    scene.recover(seconds=60)
    assert scene.identity() is agent
    assert asked <= scene.may_ask(lasted), f"{asked} requests in {lasted:.1f} s"


@pytest.mark.parametrize("fault", DEAF.values(), ids=DEAF.keys())
def test_what_a_watch_does_not_report_is_found_out_while_it_does_not(scene: Scene, fault: Fault) -> None:
    agent = scene.identity()
    watches = scene.requests("watch")
    with scene.misbehaving(fault):
        eventually(lambda: scene.requests("watch") > watches, what="the agent has a watch that is deaf", seconds=30)
        requests, began = scene.requests(), time.monotonic()
        scene.rejoin()
        scene.recover(seconds=30)
        asked, lasted = scene.requests() - requests, time.monotonic() - began
    assert scene.identity() is agent
    assert asked <= scene.may_ask(lasted), f"{asked} requests in {lasted:.1f} s"


def test_what_a_restore_took_back_is_forgotten_and_what_comes_after_it_is_known(scene: Scene) -> None:
    agent = scene.identity()
    scene.server.snapshot()
    scene.rejoin()
    scene.recover(seconds=10)
    seen = scene.version()
    scene.server.restore()
    scene.recover(seconds=45)
    scene.annotate("y")
    assert scene.version() < seen, "a watch that was resumed would report it"
    scene.recover(seconds=30)
    assert scene.identity() is agent


def test_after_a_long_refusal_a_new_token_is_used_and_the_annotations_of_a_new_node_are_back(scene: Scene) -> None:
    """The Node is deleted, and with it the token; connections are cut, so that the agent gets nothing but refusals."""
    scene.admin.delete_node("a")
    scene.server.cut()
    refused = scene.requests()
    eventually(lambda: scene.requests() >= refused + 10, what="it is refused for a while", seconds=30)
    scene.admin.create_node("a", OWN_CIDRS, OWN_ADDRESSES)
    scene.give_credentials()

    def annotated() -> bool:
        return KEY in scene.admin.get(f"{NODES}/a")["metadata"].get("annotations", {})

    eventually(annotated, what="the annotations are back", seconds=2)
