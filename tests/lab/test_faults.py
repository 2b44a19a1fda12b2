"""Each fault costs no more than its row of the table allows, in echoes, connections and secrecy."""

import pytest

from tests.lab.faults.agent import start_agent
from tests.lab.faults.data_path import ROWS, DataPathRow, inject_and_recover
from tests.lab.faults.fault import Fault
from tests.lab.lab import Lab
from tests.lab.node import LINK, LabNode
from tests.lab.traffic import Traffic

PARAMETERS = [
    pytest.param(row, id=row.fault.name.replace(" ", "-"), marks=[pytest.mark.userspace_wireguard] if row.userspace else [])
    for row in ROWS
]


@pytest.mark.parametrize("row", PARAMETERS)
def test_a_node_recovers_from_a_fault_that_costs_no_more_than_its_row_allows(lab: Lab, row: DataPathRow) -> None:
    node = lab.nodes["c"]
    agents = {name: one.agent_pid() for name, one in lab.nodes.items()}
    with Traffic(lab) as traffic:
        recovery = inject_and_recover(lab, node, row)
        wrong = traffic.stop(recovery.strict())

    assert not wrong, f"{wrong}\n{recovery}\n{lab.story()}"
    after = {name: one.agent_pid() for name, one in lab.nodes.items()}
    assert {name for name in agents if agents[name] != after[name]} == ({"c"} if row.restarts else set())
    lab.expect_mesh()


def test_a_loss_that_no_row_allows_is_found(lab: Lab) -> None:
    """The check of the test above finds lost packets, and blames only pairs that have lost some."""
    pod_a, _, pod_c = lab.pods()

    def cut(_lab: Lab, node: LabNode) -> None:
        node.kill()
        node.place.run("ip", "link", "set", LINK, "down")
        assert not pod_c.pings(pod_a.addresses[4], seconds=0.5)

    row = DataPathRow(Fault("the link is down and nobody repairs it", cut, repair=start_agent), seconds=20.0)
    with Traffic(lab) as traffic:
        inject_and_recover(lab, lab.nodes["c"], row)
        wrong = traffic.stop([])

    assert {line.partition(":")[0] for line in wrong} >= {f"pod-c -> {pod_a.addresses[4]}"}
    assert all("pod-c" in line or any(str(a) in line for a in pod_c.addresses.values()) for line in wrong)
