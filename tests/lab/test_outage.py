"""The API server goes for minutes, or comes back as it was some time ago: nobody's packets care, and then all is as it says."""

import json
import time
from collections.abc import Iterator

import pytest

from tests.builders import key
from tests.lab.lab import Lab
from tests.lab.wait import eventually

NODES = "/api/v1/nodes"
OUTAGE_SECONDS = {"kube": 120.0, "embedded": 15.0}
CAUGHT_UP_SECONDS = 45.0
"""The longest pause between two attempts is 22 s, and a real server is not at its best when it has just started."""
NETWORK = "10.1.200.0/24"


@pytest.fixture
def announced(lab: Lab) -> Iterator[list[str]]:
    """Names of Nodes without a machine, which are removed in the end; fresh agents do not remember them for a minute."""
    names: list[str] = []
    yield names
    for name in {node["metadata"]["name"] for node in lab.api.admin.get(NODES)["items"]} & {*names}:
        lab.api.admin.delete_node(name)
    for node in lab.nodes.values():
        node.stop_agent()
        node.start_agent()
    others = len(lab.nodes) - 1
    for node in lab.nodes.values():
        eventually(lambda n=node: len(n.wireguard()) == others, what=f"{node.name} has forgotten them", seconds=20)  # type: ignore[misc]  # bool


def announce(lab: Lab, names: list[str], name: str) -> str:
    """A Node as a healthy agent has left it; its key."""
    names.append(name)
    lab.api.admin.create_node(name, [NETWORK], ["192.0.2.200"])
    notes = {"wigglenet/public-key": key(name), "wigglenet/node-ips": "[]", "wigglenet/pod-cidrs": json.dumps([NETWORK])}
    lab.api.admin.patch(f"{NODES}/{name}", {"metadata": {"annotations": notes}})
    return key(name)


def expect_peer(lab: Lab, public_key: str) -> None:
    for node in lab.nodes.values():
        eventually(
            lambda n=node: public_key in n.wireguard(),  # type: ignore[misc]  # bool
            what=f"{node.name} has the peer",
            seconds=CAUGHT_UP_SECONDS,
        )


def test_an_outage_costs_no_packet_and_no_repair_and_is_caught_up_with(lab: Lab, announced: list[str]) -> None:
    a, pids = lab.nodes["a"], {name: node.agent_pid() for name, node in lab.nodes.items()}
    with lab.no_loss():
        lab.api.stop()
        seconds = OUTAGE_SECONDS[lab.api.name]
        end = time.monotonic() + seconds
        eventually(lambda: time.monotonic() > end, what="it lasts", seconds=seconds + 1)
        a.place.run("ip", "route", "del", "unreachable", a.pod_cidrs[0])
        eventually(lambda: a.pod_cidrs[0] in a.place.run("ip", "route", "show", "type", "unreachable"), what="repaired")
        lab.api.start()
        expect_peer(lab, announce(lab, announced, "after-the-outage"))
    assert {name: node.agent_pid() for name, node in lab.nodes.items()} == pids
    lab.expect_mesh()


def test_a_server_that_is_restored_to_an_earlier_state_costs_no_packet_and_is_believed(lab: Lab, announced: list[str]) -> None:
    pids = {name: node.agent_pid() for name, node in lab.nodes.items()}
    lab.api.snapshot()
    expect_peer(lab, announce(lab, announced, "lost"))
    with lab.no_loss():
        lab.api.restore()
        for node in lab.nodes.values():
            eventually(
                lambda n=node: "node lost is gone, and no event told of it" in n.log(),  # type: ignore[misc]  # bool
                what=f"{node.name} knows that the Node was never there",
                seconds=CAUGHT_UP_SECONDS,
            )
        expect_peer(lab, announce(lab, announced, "after-the-restore"))  # its network was the lost one's
    assert {name: node.agent_pid() for name, node in lab.nodes.items()} == pids
    lab.expect_mesh()
