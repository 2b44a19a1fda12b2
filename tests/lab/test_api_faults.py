"""A few outages of the API server with a real agent and kernel; all of them are in `tests/contract/test_outages.py`.

A lab of its own with one real node, `a`, on the embedded server, whatever `--api` says: a real server misbehaves for nobody's
sake. The other Nodes are objects without a machine.
"""

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.lab.api.embedded import EmbeddedServer
from tests.lab.api.outages import KEY, ROWS, Scene
from tests.lab.lab import Lab
from tests.lab.node import LOG
from tests.lab.wait import eventually
from wigglenet_operator.model.facts import WireGuardKind

pytestmark = pytest.mark.embedded
IN_THE_LAB = ("connection refused", "everything is answered 401", "everything hangs", "the certificate is changed")


class LabScene(Scene):
    """Node a of a lab."""

    def __init__(self, lab: Lab) -> None:
        assert isinstance(lab.api, EmbeddedServer)
        self.lab, self.a = lab, lab.nodes["a"]
        super().__init__(lab.api, self.a.timing)

    def peers(self) -> set[str]:
        return set(self.a.wireguard())

    def connections(self) -> int:
        """Node a speaks TCP with nobody but the server."""
        lines = Path(f"/proc/{self.a.place.pid}/net/snmp").read_text().splitlines()
        names, values = (line.split() for line in lines if line.startswith("Tcp:"))
        return int(values[names.index("ActiveOpens")])

    def identity(self) -> object:
        return self.a.agent_pid()

    def give_credentials(self) -> None:
        self.lab.give_credentials(self.a)

    def story(self) -> str:
        return self.a.log()


@pytest.fixture(scope="module")
def only_scene(request: pytest.FixtureRequest) -> Iterator[LabScene]:
    """One real node."""
    with Lab(api="embedded", wireguard=WireGuardKind(request.config.getoption("--wireguard"))) as made:
        made.add_node("a").wait_ready()
        yield LabScene(made)


@pytest.fixture
def scene(only_scene: LabScene) -> LabScene:
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


@pytest.mark.parametrize("name", IN_THE_LAB)
def test_after_a_fault_the_agent_is_the_same_and_knows_the_nodes_and_has_not_asked_too_much(scene: LabScene, name: str) -> None:
    row, agent = ROWS[name], scene.identity()
    met, requests, connections, began = row.met(scene), scene.requests(), scene.connections(), time.monotonic()
    with row.fault(scene):
        eventually(lambda: row.met(scene) >= met + row.times, what=f"the agent has met it {row.times} times", seconds=90)
        row.meanwhile(scene)
        asked = max(scene.requests() - requests, scene.connections() - connections)
        lasted = time.monotonic() - began
    scene.recover(seconds=60)
    assert scene.identity() == agent
    assert asked <= scene.may_ask(lasted), f"{asked} requests in {lasted:.1f} s"


def test_after_a_long_refusal_a_new_token_is_used_and_the_annotations_of_a_new_node_are_back_at_once(scene: LabScene) -> None:
    """The Node is deleted, and with it the token; connections are cut, so that the agent has nothing but refusals."""
    scene.admin.delete_node("a")
    scene.server.cut()
    refused = scene.requests()
    eventually(lambda: scene.requests() >= refused + 10, what="it is refused for a while", seconds=30)
    scene.lab.register(scene.a)
    eventually(lambda: KEY in scene.lab.annotations("a"), what="the annotations are back", seconds=2)
    eventually(lambda: scene.a.conflist() is not None, what="pods start again", seconds=2)
