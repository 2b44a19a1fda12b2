"""Nothing breaks it: each fault costs no more than its row of the table says, in echoes, connections and secrecy."""

import pytest

from tests.lab.faults import FAULTS
from tests.lab.lab import Lab
from tests.lab.node import LINK, LabNode
from tests.lab.strike import Fault, strike
from tests.lab.traffic import Traffic

ROWS = [
    pytest.param(fault, id=fault.name.replace(" ", "-"), marks=[pytest.mark.userspace_wireguard] if fault.userspace else [])
    for fault in FAULTS
]


@pytest.mark.parametrize("fault", ROWS)
def test_a_fault_heals_and_costs_no_more_than_its_row_allows(lab: Lab, fault: Fault) -> None:
    node = lab.nodes["c"]
    agents = {name: one.agent_pid() for name, one in lab.nodes.items()}
    with Traffic(lab) as traffic:
        what = strike(lab, node, fault)
        wrong = traffic.stop(what.strict())

    assert not wrong, f"{wrong}\n{what}\n{lab.story()}"
    after = {name: one.agent_pid() for name, one in lab.nodes.items()}
    assert {name for name in agents if agents[name] != after[name]} == ({"c"} if fault.restarts else set())
    lab.expect_mesh()


def test_what_is_lost_without_an_excuse_is_told(lab: Lab) -> None:
    """The judge of the test above can find guilty, and only those who are."""
    pod_a, _, pod_c = lab.pods()

    def darken(_lab: Lab, node: LabNode) -> None:
        node.kill()
        node.place.run("ip", "link", "set", LINK, "down")
        assert not pod_c.pings(pod_a.addresses[4], seconds=0.5)

    def start(_lab: Lab, node: LabNode) -> None:
        node.start_agent()

    fault = Fault(name="the link is down and nobody repairs it", harm=darken, heal=start, seconds=20.0)
    with Traffic(lab) as traffic:
        strike(lab, lab.nodes["c"], fault)
        wrong = traffic.stop([])

    assert {line.partition(":")[0] for line in wrong} >= {f"pod-c -> {pod_a.addresses[4]}"}
    assert all("pod-c" in line or any(str(a) in line for a in pod_c.addresses.values()) for line in wrong)
