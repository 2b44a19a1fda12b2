"""A few outages of the API server with a real agent and kernel; all of them are in `tests/contract/test_outages.py`.

The lab has one real node, `a`, and the embedded server whatever `--api` says, because a real server does not fail on request.
"""

from collections.abc import Iterator

import pytest

from tests.lab.faults.api_server import embedded, hangs
from tests.lab.faults.outages import KEY, ROWS, ApiRow, Scene, add_node, outlive
from tests.lab.lab import Lab
from tests.lab.node import LINK, LOG
from tests.lab.wait import eventually
from wigglenet_operator.model.facts import WireGuardKind

pytestmark = pytest.mark.embedded
IN_THE_LAB = {"connection refused", "everything is answered 401", "everything hangs", "the certificate is changed"}
SOME = [row for row in ROWS if row.fault.name in IN_THE_LAB]


class LabScene(Scene):
    """A real node."""

    def peers(self) -> set[str]:
        return set(self.a.wireguard())

    def agent(self) -> object:
        return self.a.agent_pid()

    def log(self) -> str:
        return self.a.log()


@pytest.fixture(scope="module")
def only_scene(request: pytest.FixtureRequest) -> Iterator[LabScene]:
    with Lab(api="embedded", wireguard=WireGuardKind(request.config.getoption("--wireguard"))) as made:
        made.add_node("a").wait_ready()
        yield LabScene(made, made.nodes["a"].timing)


@pytest.fixture
def scene(only_scene: LabScene) -> LabScene:
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


@pytest.mark.parametrize("row", SOME, ids=[row.fault.name for row in SOME])
def test_after_a_fault_the_agent_is_the_same_and_knows_the_nodes_and_has_not_asked_too_much(
    scene: LabScene, row: ApiRow
) -> None:
    outlive(scene, row)


def patches(lab: Lab) -> int:
    """Of agents, so far."""
    return sum(n for asked, n in embedded(lab).requests.items() if asked.verb == "patch" and asked.user != "admin")


def test_an_annotation_that_the_server_never_answers_delays_no_packet(empty_lab: Lab) -> None:
    a, b = empty_lab.add_node("a"), empty_lab.add_node("b")
    for node in (a, b):
        node.wait_ready()
    one, other = a.pod("pod-a"), b.pod("pod-b")
    for pod in (one, other):
        pod.wait_connected()
    eventually(lambda: one.pings(other.addresses[4], seconds=0.2), what="the pods reach each other")
    before = patches(empty_lab)
    with embedded(empty_lab).misbehaving(hangs("patch")):
        empty_lab.annotate("a", {"wigglenet/node-ips": '["203.0.113.77"]'})  # which the agent mends
        eventually(lambda: patches(empty_lab) > before, what="a writes, and waits for an answer")
        a.place.run("ip", "route", "del", b.pod_cidrs[0], "dev", LINK)
        eventually(lambda: one.pings(other.addresses[4], seconds=0.2), what="the route is back", seconds=1)


def test_after_a_long_refusal_a_new_token_is_used_and_the_annotations_of_a_new_node_are_back_at_once(scene: LabScene) -> None:
    """The Node is deleted, and with it the token; connections are cut, so that the agent has nothing but refusals."""
    scene.admin.delete_node("a")
    scene.server.cut()
    refused = scene.requests()
    eventually(lambda: scene.requests() >= refused + 10, what="it is refused for a while", seconds=30)
    scene.lab.register(scene.a)
    eventually(lambda: KEY in scene.lab.annotations("a"), what="the annotations are back", seconds=2)
    eventually(lambda: scene.a.conflist() is not None, what="pods start again", seconds=2)
