"""A fault: something that goes wrong on a node or in the cluster, and its repair.

There is one way to write a fault, whatever it breaks and whatever a test expects of it:

    Fault("the MTU is changed", run(f"ip link set {LINK} mtu 1300"))
    Fault("the agent is killed", kill_agent, repair=start_agent)

Both arguments are acts: functions of the lab and of the node that the fault is injected into.  `run` makes an act of a shell
script, `then` makes one act of several; the modules beside this one define more acts.  `repair` is what somebody other than the
agent does to end the fault.  Leave it out if the agent itself repairs the damage.

Use a fault as a context manager:

    with fault.injected(lab, node):
        ...

Expectations are not part of the fault.  A test that expects something of several faults has a table of rows; a row is a small
dataclass that holds a `Fault` (`DataPathRow`, `ProblemRow`).
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

from tests.lab.lab import Lab
from tests.lab.node import LabNode
from tests.lab.sources import first_address

Act = Callable[[Lab, LabNode], None]
"""Changes a lab; the node is the one that the fault is injected into."""


def nothing(_lab: Lab, _node: LabNode) -> None:
    """The repair of a fault that the agent repairs alone; the injection of a fault that the lab has from the beginning."""


@dataclass(frozen=True, repr=False)
class Fault:
    """Something that goes wrong."""

    name: str
    """A sentence; names are unique in a table."""
    inject: Act
    repair: Act = nothing
    """Must succeed even if the injection failed half-way."""

    def __repr__(self) -> str:
        return f"'{self.name}'"

    @contextmanager
    def injected(self, lab: Lab, node: LabNode) -> Iterator[None]:
        """Inject the fault; repair it when the block ends, and also when the injection or the block fails."""
        try:
            self.inject(lab, node)
            yield
        finally:
            self.repair(lab, node)


def run(script: str) -> Act:
    """Run a shell script on the node; it stops at the first error, and `values` are substituted in it."""

    def act(lab: Lab, node: LabNode) -> None:
        node.place.run("sh", "-ec", script.format_map(values(lab, node)))

    return act


def then(*acts: Act) -> Act:
    """Perform the acts in order."""

    def act(lab: Lab, node: LabNode) -> None:
        for one in acts:
            one(lab, node)

    return act


def values(lab: Lab, node: LabNode) -> Mapping[str, str]:
    """The pod networks of the node ({own4}) and of its neighbour ({peer4}, {peer6}), and the node's gateway ({gateway4})."""
    peer4, peer6 = neighbour(lab, node).pod_cidrs
    own4 = node.pod_cidrs[0]
    return {"own4": own4, "gateway4": first_address(own4), "peer4": peer4, "peer6": peer6}


def neighbour(lab: Lab, node: LabNode) -> LabNode:
    """The node that was added after this one; the first node for the last one."""
    names = list(lab.nodes)
    return lab.nodes[names[(names.index(node.name) + 1) % len(names)]]
