"""`python -m tests.bench.links`: CPU and memory of an agent whose node has many links, one of which changes all the time.

It ends with 1 if the memory has grown by more than it may.
"""

import argparse
import os
import sys
import time
from pathlib import Path

from tests.lab.lab import Lab
from tests.lab.node import LabNode

EVENTS_BEFORE = 100
"""Events until the allocator has what it needs for a pass."""
MOST_GROWTH = 4.0
"""MiB."""
PACE_SECONDS = 0.12
"""Between two events; a little more than the agent leaves between two passes, so that each event costs one."""


def main() -> None:
    """Print one line."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench.links", description=__doc__)
    parser.add_argument("--links", type=int, default=100)
    parser.add_argument("--events", type=int, default=400)
    arguments = parser.parse_args()
    with Lab() as lab:
        node = crowded(lab, arguments.links)
        events(node, EVENTS_BEFORE)
        memory, cpu = resident(node), spent(node)
        events(node, arguments.events)
        grown = (resident(node) - memory) / (1 << 20)
        each = (spent(node) - cpu) / arguments.events * 1000
        print(
            f"{arguments.links} links, {arguments.events} link events: {each:.1f} ms of CPU an event (goal < 15), "
            f"{memory / (1 << 20):.0f} MiB and {grown:+.1f} MiB after them (goal < {MOST_GROWTH:g})"
        )
    sys.exit(grown > MOST_GROWTH)


def crowded(lab: Lab, links: int) -> LabNode:
    """A ready node with that many links of pods, none of which has a pod."""
    node = lab.add_node("a")
    node.wait_ready()
    node.place.batch(*(f"link add veth{i} type veth peer name p{i}" for i in range(links // 2)))
    node.place.batch(*(f"link set {end}{i} up" for i in range(links // 2) for end in ("veth", "p")))
    node.wait_working()
    return node


def events(node: LabNode, count: int) -> None:
    """Set a link's queue length that often, at a pace that gives each event a pass of its own."""
    for number in range(count):
        node.place.batch(f"link set veth0 txqueuelen {1000 + number % 2}")
        time.sleep(PACE_SECONDS)


def resident(node: LabNode) -> int:
    """Memory of the agent in bytes."""
    return int(Path(f"/proc/{node.agent_pid()}/statm").read_text().split()[1]) * os.sysconf("SC_PAGESIZE")


def spent(node: LabNode) -> float:
    """CPU seconds of the agent, user and system (proc(5))."""
    fields = Path(f"/proc/{node.agent_pid()}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


if __name__ == "__main__":
    main()
